"""Options that nothing would read are refused."""

from typing import Any

__all__ = ["refuse_lost"]


def refuse_lost(who: object, reason: str, way_out: str, **options: tuple[Any, Any]) -> None:
    """Raise where options were given that nothing would read.

    Args:
        who: the callback.
        reason: why nothing would.
        way_out: what else to change so that they count.
        options: name -> (what was given, the default).

    Raises:
        ValueError: some are not at their defaults.

    Example:
        >>> refuse_lost(object(), "nothing is timed", "state a latency", latency_batch=(64, 64))
    """
    given = {name: (value, default) for name, (value, default) in options.items() if value != default}
    if given:
        got = ", ".join(f"{name}={value!r}" for name, (value, _) in given.items())
        defaults = ", ".join(f"{name} at its default {default!r}" for name, (_, default) in given.items())
        raise ValueError(f"{type(who).__name__}: {got} would be lost: {reason}; leave {defaults}, or {way_out}")
