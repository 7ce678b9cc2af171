"""When a network becomes smaller, and how small it has to be at each step."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

__all__ = ["Window"]


@dataclass(frozen=True)
class Window:
    """The optimizer steps in which the network becomes smaller.

    Args:
        start: the first.
        end: the last; by then the size is met.
        ahead: how many steps the strength looks ahead.

    Example:
        >>> window = Window(start=100, end=300, ahead=20)
        >>> [round(window.share(step, 0.5), 3) for step in (0, 100, 200, 300, 400)]
        [1.0, 1.0, 0.75, 0.5, 0.5]
    """

    start: int
    end: int
    ahead: int

    def share(self, step: float, final: float) -> float:
        """``final + (1 − final) (1 + cos(π p)) / 2``, p the progress in the window: 1 before it, `final` after."""
        progress = (step - self.start) / max(1, self.end - self.start)
        return final + (1 - final) * (1 + cos(pi * min(1.0, max(0.0, progress)))) / 2
