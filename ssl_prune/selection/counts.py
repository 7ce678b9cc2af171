"""From shares to whole numbers whose sum is exact."""

from collections.abc import Mapping
from fractions import Fraction

__all__ = ["kept", "rounded"]


def kept(sparsity: float, count: int) -> int:
    """How many of so many stay: ``round((1 − sparsity) count)``, of the sparsity as it is written.

    Args:
        sparsity: the share that goes, in [0, 1].
        count: how many there are.

    Example:
        >>> kept(0.98, 266_200)
        5324
    """
    return round((1 - Fraction(str(sparsity))) * count)


def rounded(densities: Mapping[str, float], sizes: Mapping[str, int], total: int | None = None) -> dict[str, int]:
    """Whole numbers closest to ``density · size`` that add up to the total.

    All are rounded down, and those with the largest remainders up again, as many as are missing (Hamilton's method).

    Args:
        densities: name -> share that stays.
        sizes: name -> entries (or groups) of the layer.
        total: what they add up to; default the rounded sum of the products.

    Raises:
        ValueError: a total that is more than one a layer away from the sum of the products.

    Example:
        >>> rounded({"a": 0.5, "b": 0.5, "c": 0.5}, {"a": 3, "b": 3, "c": 4})
        {'a': 2, 'b': 1, 'c': 2}
    """
    exact = {name: Fraction(density) * sizes[name] for name, density in densities.items()}
    found = {name: int(value) for name, value in exact.items()}
    total = round(sum(exact.values())) if total is None else total
    missing = total - sum(found.values())
    # Sums of floating-point densities end a hair below whole numbers, so a full layer may be short by one of them.
    order = sorted((name for name in found if found[name] < sizes[name]), key=lambda name: found[name] - exact[name])
    if not 0 <= missing <= len(order):
        raise ValueError(f"total must be what {dict(exact)} can be rounded to, got {total}")
    for name in order[:missing]:
        found[name] += 1
    return found
