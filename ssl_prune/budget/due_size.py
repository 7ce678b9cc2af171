"""The size that is due at a step: dense before the window, as stated after it."""

from math import ceil

from ssl_prune.schedules import Cosine, Ramp
from ssl_prune.timing import RunLength, Time, TimeLike

__all__ = ["due_share", "moments", "window_of"]


def window_of(window: Ramp | tuple[TimeLike, TimeLike]) -> Ramp:
    """The share of the way to the stated size that is due, over the run.

    Args:
        window: its first and last moment, between which the share rises by a cosine; or a ramp from 0 to 1.

    Raises:
        ValueError: neither of them, times without their unit or out of their order, or a ramp that is not from 0 to 1.

    Example:
        >>> window_of(("0.1", "0.65"))
        Cosine(start='0.1', warmup=0, end='0.65', initial=0.0, final=1.0)
    """
    if isinstance(window, Ramp):
        if (window.initial, window.final) != (0, 1) or Time.of(window.warmup).amount:
            raise ValueError(f"Budget: window: the share of the way must go from 0 to 1 without warmup, got {window}")
        return window
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise ValueError(
            f'Budget: window must be two times, such as ("0.1", "0.65"), or a schedule from 0 to 1, got {window!r}'
        )
    first, last = (Time.of(time, "Budget: window") for time in window)
    if first.unit == last.unit and first.amount >= last.amount:
        raise ValueError(f"Budget: window: the last moment must be after the first, got {window!r}")
    return Cosine(start=window[0], end=window[1])


def moments(window: Ramp, run: RunLength) -> tuple[int, int]:
    """The optimizer steps at which the window begins and ends.

    Raises:
        ValueError: it has no step, or the run has no end or no epochs but a moment is given in them.

    Example:
        >>> moments(window_of(("0.1", "3ep")), RunLength(steps=100, steps_per_epoch=20))
        (10, 60)
    """
    start, end = (Time.of(time).exact(run, "Budget: window") for time in (window.start, window.end))
    if end - start < 1:
        raise ValueError(
            f"Budget: window: from step {float(start):g} to {float(end):g} there is no step in a run of {run.steps} steps; train "
            "longer or widen it"
        )
    return ceil(start), ceil(end)


def due_share(window: Ramp, run: RunLength, step: float, limit: float) -> float:
    """The share of the dense network that may be left at a step: 1 before the window, `limit` after it.

    Example:
        >>> window, run = window_of(("10it", "30it")), RunLength()
        >>> [round(due_share(window, run, step, 0.5), 3) for step in (0, 10, 20, 30, 40)]
        [1.0, 1.0, 0.75, 0.5, 0.5]
    """
    return limit + (1 - limit) * (1 - window.value(step, run))
