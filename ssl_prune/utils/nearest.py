"""The right name that is nearest to a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest"]


def nearest(name: object, names: Iterable[str]) -> str:
    """The end of a message about a name that there is not: the nearest one that there is, or nothing.

    Args:
        name: what was given.
        names: what there is.

    Example:
        >>> nearest("strenght", ["strength", "solver"])
        '; did you mean strength?'
        >>> nearest("speed", ["strength", "solver"])
        ''
    """
    by_lower = {each.lower(): each for each in names}
    found = get_close_matches(str(name).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""
