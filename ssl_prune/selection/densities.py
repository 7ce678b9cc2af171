"""How the entries that stay are shared out between layers: uniform, Erdős–Rényi, with kernels (ERK), or as stated."""

from collections.abc import Mapping, Sequence
from math import prod

from ssl_prune.utils.checks import check_number, check_whole

__all__ = ["DISTRIBUTIONS", "densities"]

DISTRIBUTIONS = ("uniform", "er", "erk", "global")


def densities(
    kind: str | Mapping[str, float],
    shapes: Mapping[str, Sequence[int]],
    sparsity: float | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The share of each layer's entries that stays.

    ``d_l = min(1, ε r_l)``, with ``r_l`` 1 (uniform), ``(n_in + n_out) / (n_in n_out)`` (er) or
    ``Σ shape / Π shape`` (erk), and ε such that ``Σ d_l n_l = (1 − sparsity) Σ n_l``.

    Args:
        kind: "uniform", "er", "erk", or the density of every layer by its name.
        shapes: name -> shape of the weight, ``(out, in, ...)``. Biases and normalisations are left out.
        sparsity: share of all these entries that goes, in [0, 1); none where `kind` states the densities.
        fixed: name -> density of layers that are stated beside the kind, such as a dense first layer. The others have the
            sparsity among themselves.

    Returns:
        name -> density in [0, 1], in the order of `shapes`.

    Raises:
        ValueError: an unknown kind, a number out of its range, a name without a shape, a vector under "er" or "erk"; or
            "global", where the scores say what each layer keeps: see `select`.

    Example:
        >>> lenet = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
        >>> {name: round(density, 4) for name, density in densities("erk", lenet, sparsity=0.9).items()}
        {'fc1': 0.0796, 'fc2': 0.2302, 'fc3': 1.0}

    Source: Mocanu et al. (2018) for ER; Evci et al., Rigging the Lottery (2020), section 3 and its code, for ERK.
    """
    given = dict(fixed or {})
    if isinstance(kind, Mapping):
        missing = [name for name in shapes if name not in kind and name not in given]
        if missing or sparsity is not None:
            raise ValueError(
                f"densities: stated densities need one for {missing[0]}"
                if missing
                else f"densities: densities are stated for every layer, so sparsity must be left out, got {sparsity!r}"
            )
        given = {**kind, **given}
    elif kind == "global":
        raise ValueError(
            'densities: "global" has none before there are scores; selection.select(..., "global") takes them'
        )
    elif kind not in DISTRIBUTIONS:
        raise ValueError(f"densities: unknown kind {kind!r}; expected one of {', '.join(DISTRIBUTIONS)} or a mapping")
    else:
        check_number(sparsity, "densities: sparsity", low=0, below=1)
    for name, shape in shapes.items():
        for size in shape:
            check_whole(size, f"densities: each size in the shape {tuple(shape)} of {name}", 1)
    for name, density in given.items():
        if name not in shapes:
            raise ValueError(f"densities: {name} is none of the layers, which are {', '.join(shapes)}")
        check_number(density, f"densities: {name}", low=0, high=1, what="a density")
    free = {name: tuple(shape) for name, shape in shapes.items() if name not in given}
    found = {**given, **(_solved({name: _raw(str(kind), name, shape) for name, shape in free.items()}, free, sparsity))}
    return {name: float(found[name]) for name in shapes}


def _raw(kind: str, name: str, shape: tuple[int, ...]) -> float:
    if kind == "uniform":
        return 1.0
    if len(shape) < 2:
        raise ValueError(
            f'densities: {name} has the shape {shape}, expected (out, in, ...): "{kind}" is for weights; leave vectors out, '
            "or state their density in fixed"
        )
    spanned = shape[:2] if kind == "er" else shape
    return sum(spanned) / prod(spanned)


def _solved(
    raw: Mapping[str, float], shapes: Mapping[str, tuple[int, ...]], sparsity: float | None
) -> dict[str, float]:
    """``min(1, ε r)``: layers that would pass 1 are dense, and ε, which only grows by it, is solved again for the others."""
    if not raw:
        return {}
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    total = (1 - (sparsity or 0.0)) * sum(sizes.values())
    dense: set[str] = set()
    while len(dense) < len(raw):
        rest = [name for name in raw if name not in dense]
        epsilon = (total - sum(sizes[name] for name in dense)) / sum(raw[name] * sizes[name] for name in rest)
        full = {name for name in rest if epsilon * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else epsilon * raw[name] for name in raw}
        dense |= full
    return dict.fromkeys(raw, 1.0)
