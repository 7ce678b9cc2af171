"""How a number moves over training: frozen dataclasses of plain numbers.

Every schedule answers two questions: what is the value at a step, and is this step within its reach. Before `start`
the value is 0; `warmup` then lets it rise from 0 in a straight line. Times are optimizer steps, or epochs as fractions
(``step / steps_per_epoch``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Literal

__all__ = ["Constant", "Cosine", "Cubic", "Linear", "Schedule", "Step"]

Unit = Literal["steps", "epochs"]


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """What all schedules share; a subclass gives `shape`, the value at a time from `start` on.

    Args:
        start: when the value begins.
        warmup: how long it rises from 0; multiplied on the shape.
        unit: "steps" or "epochs", the unit of every time here.

    Raises:
        ValueError: a time is negative or not finite, or the unit is unknown.
    """

    start: float = 0
    warmup: float = 0
    unit: Unit = "steps"

    def __post_init__(self) -> None:
        if self.unit not in ("steps", "epochs"):
            raise ValueError(f'{type(self).__name__}: unit must be "steps" or "epochs", got {self.unit!r}')
        self._require("start", self.start)
        self._require("warmup", self.warmup)

    @abstractmethod
    def shape(self, time: float) -> float:
        """The value without warmup at a time ``>= start``."""

    def value(self, step: int, steps_per_epoch: int | None = None) -> float:
        """The value at an optimizer step, counted from 0.

        Raises:
            ValueError: the unit is "epochs" and `steps_per_epoch` is not given.
        """
        if not self.is_update(step, steps_per_epoch):
            return 0.0
        time = self.time(step, steps_per_epoch)
        rise = min(1.0, (time - self.start) / self.warmup) if self.warmup else 1.0
        return rise * self.shape(time)

    def is_update(self, step: int, steps_per_epoch: int | None = None) -> bool:
        """Whether the schedule has begun, and not ended, at this step."""
        return self.time(step, steps_per_epoch) >= self.start

    def time(self, step: int, steps_per_epoch: int | None = None) -> float:
        """The step in the schedule's unit."""
        if self.unit == "steps":
            return float(step)
        if not steps_per_epoch or steps_per_epoch < 0:
            raise ValueError(
                f'{type(self).__name__}(unit="epochs") needs steps_per_epoch > 0, got {steps_per_epoch}; '
                'pass it, or give the times in unit="steps"'
            )
        return step / steps_per_epoch

    def _require(self, name: str, value: float, *, least: float = 0) -> None:
        if not isfinite(value) or value < least:
            raise ValueError(f"{type(self).__name__}: {name} must be a number >= {least:g}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """``value(t) = final`` from `start` until `end`, then 0.

    Args:
        end: when it stops; None: never.
        final: the value.

    Example:
        >>> [Constant(start=1, end=4, warmup=2).value(step) for step in range(5)]
        [0.0, 0.0, 0.5, 1.0, 0.0]
    """

    end: float | None = None
    final: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("final", self.final)
        if self.end is not None:
            self._require("end", self.end, least=self.start)

    def shape(self, time: float) -> float:
        """``final``."""
        return self.final

    def is_update(self, step: int, steps_per_epoch: int | None = None) -> bool:
        """Whether the step lies in [start, end)."""
        ended = self.end is not None and self.time(step, steps_per_epoch) >= self.end
        return not ended and super().is_update(step, steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class _Ramp(Schedule):
    end: float
    initial: float = 0.0
    final: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("initial", self.initial)
        self._require("final", self.final)
        self._require("end", self.end)
        if self.end <= self.start:
            raise ValueError(f"{type(self).__name__}: end must be after start={self.start:g}, got {self.end:g}")

    def shape(self, time: float) -> float:
        """From ``initial`` at `start` to ``final`` at `end`, then held."""
        left = self.remaining(min(1.0, (time - self.start) / (self.end - self.start)))
        return self.final + (self.initial - self.final) * left

    @abstractmethod
    def remaining(self, progress: float) -> float:
        """The share of the way that is still to go, 1 at progress 0 and 0 at progress 1."""


@dataclass(frozen=True, kw_only=True)
class Linear(_Ramp):
    """``value(t) = final + (initial - final) (1 - p)``, with ``p = (t - start) / (end - start)``; `final` after `end`.

    Args:
        end: when `final` is reached.
        initial: the value at `start`.
        final: the value from `end` on.

    Example:
        >>> [Linear(end=4).value(step) for step in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def remaining(self, progress: float) -> float:
        """``1 - p``."""
        return 1 - progress


@dataclass(frozen=True, kw_only=True)
class Cosine(_Ramp):
    """``value(t) = final + (initial - final) (1 + cos(pi p)) / 2``; arguments as for `Linear`.

    Example:
        >>> [round(Cosine(end=4).value(step), 4) for step in range(5)]
        [0.0, 0.1464, 0.5, 0.8536, 1.0]

    Source: Loshchilov and Hutter, SGDR (2017), equation 5.
    """

    def remaining(self, progress: float) -> float:
        """``(1 + cos(pi p)) / 2``."""
        return (1 + cos(pi * progress)) / 2


@dataclass(frozen=True, kw_only=True)
class Cubic(_Ramp):
    """``value(t) = final + (initial - final) (1 - p)^3``; arguments as for `Linear`.

    Example:
        >>> [Cubic(end=4).value(step) for step in range(5)]
        [0.0, 0.578125, 0.875, 0.984375, 1.0]

    Source: Zhu and Gupta, To prune, or not to prune (2017), equation 1.
    """

    def remaining(self, progress: float) -> float:
        """``(1 - p)^3``."""
        return (1 - progress) ** 3


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """``value(t) = initial * gamma^k``, with ``k`` the number of milestones that ``t`` has reached.

    Args:
        milestones: times in rising order.
        gamma: the factor at each.
        initial: the value before the first.

    Example:
        >>> [Step(milestones=(2, 3), gamma=10.0).value(step) for step in range(4)]
        [1.0, 1.0, 10.0, 100.0]
    """

    milestones: tuple[float, ...]
    gamma: float = 0.1
    initial: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "milestones", tuple(self.milestones))  # a list from a YAML file
        self._require("gamma", self.gamma)
        self._require("initial", self.initial)
        for milestone in self.milestones:
            self._require("milestones", milestone)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"Step: milestones must rise, got {self.milestones}")

    def shape(self, time: float) -> float:
        """``initial * gamma^k``."""
        return self.initial * self.gamma ** sum(time >= m for m in self.milestones)
