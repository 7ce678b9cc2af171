"""What is given as an argument: a wrong type, NaN, or a number out of its range is refused by its name."""

from collections.abc import Iterable, Mapping
from math import inf, isinf, nan

__all__ = ["check_number", "check_state", "check_whole"]


def check_number(
    value: object,
    name: str,
    *,
    low: float = -inf,
    above: float | None = None,
    high: float = inf,
    below: float | None = None,
    what: str = "",
    infinite: bool = False,
) -> None:
    """Refuse what is no number of this range.

    Args:
        value: what was given.
        name: what it is called, with the class that it is given to: "Slim: tolerance".
        low: the least that it may be.
        above: what it must be more than.
        high: the most that it may be.
        below: what it must be less than.
        what: it is, before its range: "a share" (of "a share in [0, 1)"); default "a number" or "a finite number".
        infinite: it may be infinite.

    Raises:
        ValueError: no int or float (strings and booleans among them), NaN, an infinity, or a number out of the range.

    Example:
        >>> check_number(0.5, "decay", low=0, below=1)
        >>> check_number("0.5", "decay", low=0, below=1)
        Traceback (most recent call last):
        ...
        ValueError: decay must be a number in [0, 1), got '0.5'
    """
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else nan
    inside = low <= number <= high and (above is None or number > above) and (below is None or number < below)
    if not inside or (isinf(number) and not infinite):
        closed = infinite or high < inf or below is not None
        kind = what or ("a number" if closed else "a finite number")
        raise ValueError(f"{name} must be {kind}{_range(low, above, high, below)}, got {value!r}")


def check_whole(value: object, name: str, low: int, what: str = "") -> None:
    """Refuse what is no whole number of at least `low`.

    Args:
        value: what was given.
        name: what it is called.
        low: the least that it may be.
        what: it is a number of, such as "channels".

    Raises:
        ValueError: no int, a boolean, or a smaller one.

    Example:
        >>> check_whole(True, "every", 1, "optimizer steps")
        Traceback (most recent call last):
        ...
        ValueError: every must be a whole number of optimizer steps >= 1, got True
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a whole number{' of ' * bool(what)}{what} >= {low}, got {value!r}")


def check_state(state: object, keys: Iterable[str], who: str) -> None:
    """Refuse what cannot be a state of this kind.

    Args:
        state: what was given to `load_state_dict`.
        keys: that it must have.
        who: the class that it is loaded into.

    Raises:
        ValueError: no mapping, or one without these keys.

    Example:
        >>> check_state({"mean": 1.0}, ["mean", "weight"], "TaylorGate")
        Traceback (most recent call last):
        ...
        ValueError: TaylorGate: the state has ['mean'], expected mean, weight: what state_dict() of one returned
    """
    keys = list(keys)
    if not isinstance(state, Mapping) or not state.keys() >= set(keys):
        got = list(state) if isinstance(state, Mapping) else repr(state)
        raise ValueError(f"{who}: the state has {got}, expected {', '.join(keys)}: what state_dict() of one returned")


def _range(low: float, above: float | None, high: float, below: float | None) -> str:
    """The range after the noun: " >= 0", " above 0", " in (0, 1]"."""
    if high < inf or below is not None:
        start = f"[{low}" if above is None else f"({above}"
        return f" in {start}, {high}]" if below is None else f" in {start}, {below})"
    if above is not None:
        return f" above {above}"
    return f" >= {low}" if low > -inf else ""
