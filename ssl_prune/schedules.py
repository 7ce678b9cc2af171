"""How a number moves over training: frozen dataclasses of plain data.

Before `start` the value is 0; `warmup` then lets it rise from 0 in a straight line. Times carry their unit, see `Time.of`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi

from ssl_prune.timing import RunLength, Time, TimeLike, several
from ssl_prune.utils.checks import check_number

__all__ = ["Constant", "Cosine", "Cubic", "Inverse", "Linear", "Ramp", "Schedule", "Step"]


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """What all schedules share; a subclass gives `shape`, the value from `start` on, and names its times in `times`.

    Args:
        start: when the value begins.
        warmup: how long it rises from 0; multiplied on the shape.

    Raises:
        ValueError: a time without its unit, or times out of their order.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Half(Schedule):
        ...     def shape(self, step, at):
        ...         return 0.5
        >>> Half(start="2it", warmup="2it").value(3, RunLength())
        0.25
    """

    start: TimeLike = 0
    warmup: TimeLike = 0

    def __post_init__(self) -> None:
        read = {name: self._read(name, time) for name, time in self.times().items()}
        if len({time.unit for time in read.values() if time.amount}) <= 1:
            self.check_order({name: time.amount for name, time in read.items()})

    def times(self) -> dict[str, TimeLike]:
        """Every time of the schedule, by its name."""
        return {"start": self.start, "warmup": self.warmup}

    def check_order(self, at: Mapping[str, float]) -> None:
        """Raise ValueError if these times, `at` by name and in one unit, are out of their order."""
        return

    @abstractmethod
    def shape(self, step: float, at: Mapping[str, float]) -> float:
        """The value without warmup at a step from `start` on, with every time in optimizer steps.

        Args:
            step: the optimizer step.
            at: name of each time -> optimizer step.
        """

    def value(self, step: float, run: RunLength) -> float:
        """The value at an optimizer step, counted from 0.

        Args:
            step: the optimizer step.
            run: how long the run is, and an epoch.

        Raises:
            ValueError: the run has no end or no epochs, but a time is given in them; or times are out of their order.
        """
        at = _in_steps(self, run)
        if step < at["start"]:
            return 0.0
        rise = min(1.0, (step - at["start"]) / at["warmup"]) if at["warmup"] else 1.0
        return rise * self.shape(step, at)

    def _read(self, name: str, time: TimeLike) -> Time:
        return Time.of(time, f"{type(self).__name__}: {name}")

    def _require(self, name: str, value: float) -> None:
        check_number(value, f"{type(self).__name__}: {name}", low=0)


@lru_cache(maxsize=256)
def _in_steps(schedule: Schedule, run: RunLength) -> Mapping[str, float]:
    kind = type(schedule).__name__
    at = {name: Time.of(time).steps(run, f"{kind}: {name}") for name, time in schedule.times().items()}
    schedule.check_order(at)
    return at


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """``value(t) = final`` from `start` until `end`, then 0.

    Args:
        end: when it stops; None: never.
        final: the value.

    Example:
        >>> [Constant(start="1it", end="4it", warmup="2it").value(step, RunLength()) for step in range(5)]
        [0.0, 0.0, 0.5, 1.0, 0.0]
    """

    end: TimeLike | None = None
    final: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("final", self.final)

    def times(self) -> dict[str, TimeLike]:
        """With `end`, if it is given."""
        return super().times() if self.end is None else {**super().times(), "end": self.end}

    def check_order(self, at: Mapping[str, float]) -> None:
        """Raise ValueError if the end is before the start."""
        if at.get("end", at["start"]) < at["start"]:
            raise ValueError(f"{type(self).__name__}: end must not be before start={self.start!r}, got {self.end!r}")

    def shape(self, step: float, at: Mapping[str, float]) -> float:
        """``final``, and 0 from `end` on."""
        return 0.0 if "end" in at and step >= at["end"] else self.final


@dataclass(frozen=True, kw_only=True)
class Ramp(Schedule):
    """From one value to another; a subclass gives the share of the way that is `remaining`.

    Args:
        end: when `final` is reached; it is held from there on.
        initial: the value at `start`.
        final: the value from `end` on.

    Example:
        >>> isinstance(Linear(end="5ep"), Ramp), isinstance(Constant(), Ramp)
        (True, False)
    """

    end: TimeLike
    initial: float = 0.0
    final: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("initial", self.initial)
        self._require("final", self.final)

    def times(self) -> dict[str, TimeLike]:
        """With `end`."""
        return {**super().times(), "end": self.end}

    def check_order(self, at: Mapping[str, float]) -> None:
        """Raise ValueError if the end is not after the start."""
        if at["end"] <= at["start"]:
            raise ValueError(f"{type(self).__name__}: end must be after start={self.start!r}, got {self.end!r}")

    def shape(self, step: float, at: Mapping[str, float]) -> float:
        """From ``initial`` at `start` to ``final`` at `end`, then held."""
        left = self.remaining(min(1.0, (step - at["start"]) / (at["end"] - at["start"])))
        return self.final + (self.initial - self.final) * left

    @abstractmethod
    def remaining(self, progress: float) -> float:
        """The share of the way that is still to go at a `progress` in [0, 1]: 1 at 0, and 0 at 1."""


@dataclass(frozen=True, kw_only=True)
class Linear(Ramp):
    """``value(t) = final + (initial - final) (1 - p)``, with ``p = (t - start) / (end - start)``; `final` after `end`.

    Args:
        end: when `final` is reached.
        initial: the value at `start`.
        final: the value from `end` on.

    Example:
        >>> [Linear(end="2ep").value(step, RunLength(steps_per_epoch=2)) for step in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def remaining(self, progress: float) -> float:
        """``1 - p``."""
        return 1 - progress


@dataclass(frozen=True, kw_only=True)
class Cosine(Ramp):
    """``value(t) = final + (initial - final) (1 + cos(pi p)) / 2``; arguments as for `Linear`.

    Example:
        >>> [round(Cosine(end="0.5").value(step, RunLength(steps=8)), 4) for step in range(5)]
        [0.0, 0.1464, 0.5, 0.8536, 1.0]

    Source: Loshchilov and Hutter, SGDR (2017), equation 5.
    """

    def remaining(self, progress: float) -> float:
        """``(1 + cos(pi p)) / 2``."""
        return (1 + cos(pi * progress)) / 2


@dataclass(frozen=True, kw_only=True)
class Cubic(Ramp):
    """``value(t) = final + (initial - final) (1 - p)^3``; arguments as for `Linear`.

    Example:
        >>> [Cubic(end="4it").value(step, RunLength()) for step in range(5)]
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
        >>> [Step(milestones=("2it", "3it"), gamma=10.0).value(step, RunLength()) for step in range(4)]
        [1.0, 1.0, 10.0, 100.0]
    """

    milestones: tuple[TimeLike, ...]
    gamma: float = 0.1
    initial: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", several(self.milestones))  # a list from a YAML file
        super().__post_init__()
        self._require("gamma", self.gamma)
        self._require("initial", self.initial)

    def times(self) -> dict[str, TimeLike]:
        """With each milestone."""
        return {**super().times(), **{f"milestones[{i}]": time for i, time in enumerate(self.milestones)}}

    def check_order(self, at: Mapping[str, float]) -> None:
        """Raise ValueError if the milestones do not rise."""
        if (found := self._at(at)) != sorted(set(found)):
            raise ValueError(f"Step: milestones must rise, got {self.milestones}")

    def shape(self, step: float, at: Mapping[str, float]) -> float:
        """``initial * gamma^k``."""
        return self.initial * self.gamma ** sum(step >= time for time in self._at(at))

    def _at(self, at: Mapping[str, float]) -> list[float]:
        return [at[f"milestones[{i}]"] for i in range(len(self.milestones))]


@dataclass(frozen=True, kw_only=True)
class Inverse(Schedule):
    """``value(t) = initial * (1 + gamma (t - start))^-power``, t in optimizer steps.

    Args:
        gamma: how fast it falls, a step.
        power: of the fall.
        initial: the value at `start`.

    Example:
        >>> [Inverse(gamma=1.0).value(step, RunLength()) for step in range(3)]
        [1.0, 0.5, 0.3333333333333333]

    Source: Guo, Yao and Chen, Dynamic Network Surgery (2016): the probability of a new mask, gamma 1e-3 and power 1.
    """

    gamma: float = 1e-3
    power: float = 1.0
    initial: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "power", "initial"):
            self._require(name, getattr(self, name))

    def shape(self, step: float, at: Mapping[str, float]) -> float:
        """``initial * (1 + gamma (t - start))^-power``."""
        return float(self.initial * (1 + self.gamma * (step - at["start"])) ** -self.power)
