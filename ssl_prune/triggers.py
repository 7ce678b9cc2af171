"""At which optimizer steps something happens: frozen dataclasses of plain data, without state.

A trigger is a function of the step, so a resumed run and all processes decide alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from math import ceil

from ssl_prune.schedules import Schedule
from ssl_prune.timing import RunLength, Time, TimeLike, several
from ssl_prune.utils.checks import check_number

__all__ = ["At", "Every", "Stochastic", "Trigger"]


@dataclass(frozen=True)
class Trigger(ABC):
    """What all triggers share; a subclass says when it `fires`, a function of its arguments alone.

    Example:
        >>> class Never(Trigger):
        ...     def fires(self, step, run, key=""):
        ...         return False
        >>> Never().fires(0, RunLength())
        False
    """

    @abstractmethod
    def fires(self, step: int, run: RunLength, key: str = "") -> bool:
        """Whether something happens at an optimizer step.

        Args:
            step: counted from 0.
            run: how long the run is, and an epoch.
            key: what it happens to, such as the name of a layer; chance decides for each by itself.

        Raises:
            ValueError: the run has no end or no epochs, but a time is given in them.
        """

    def _read(self, name: str, time: TimeLike) -> Time:
        return Time.of(time, f"{type(self).__name__}: {name}")


@lru_cache(maxsize=256)
def _in_steps(time: TimeLike, run: RunLength, name: str) -> Fraction:
    return Time.of(time).exact(run, name)


@dataclass(frozen=True)
class Every(Trigger):
    """At the times ``start + k period``, k = 0, 1, ..., as long as they are not after `end`.

    A time that lies between two steps counts at the later one; of several times between the same two steps one counts.

    Args:
        period: from one time to the next.
        start: the first.
        end: the last that may be, itself included; None: never.

    Raises:
        ValueError: a time without its unit, or a period of 0.

    Example:
        >>> [step for step in range(12) if Every("0.5ep", end="2ep").fires(step, RunLength(steps_per_epoch=5))]
        [0, 3, 5, 8, 10]
    """

    period: TimeLike
    start: TimeLike = 0
    end: TimeLike | None = None

    def __post_init__(self) -> None:
        times = {"period": self.period, "start": self.start} | ({} if self.end is None else {"end": self.end})
        if self._read("period", times.pop("period")).amount == 0:
            raise ValueError(f"Every: period must be longer than 0, got {self.period!r}")
        read = [self._read(name, time) for name, time in times.items()]
        if read[-1].unit == read[0].unit and read[-1].amount < read[0].amount:
            raise ValueError(f"Every: end must not be before start={self.start!r}, got {self.end!r}")

    def fires(self, step: int, run: RunLength, key: str = "") -> bool:
        """Whether one of the times counts at this step."""
        period, start = _in_steps(self.period, run, "Every: period"), _in_steps(self.start, run, "Every: start")
        end = None if self.end is None else _in_steps(self.end, run, "Every: end")
        if period == 0:  # a share of a run without a step
            return False
        number = max(0, (step - start) // period)
        if end is not None:
            number = min(number, (end - start) // period)
        return number >= 0 and ceil(start + number * period) == step


@dataclass(frozen=True)
class At(Trigger):
    """At some times; one that lies between two steps counts at the later one.

    Args:
        times: in any order.

    Raises:
        ValueError: no time, or one without its unit.

    Example:
        >>> [step for step in range(10) if At(("3it", "0.7")).fires(step, RunLength(steps=10))]
        [3, 7]
    """

    times: tuple[TimeLike, ...]

    def __post_init__(self) -> None:
        given = several(self.times)
        object.__setattr__(self, "times", given)  # a list from a YAML file
        if not given:
            raise ValueError("At: times must have at least one, got none")
        for time in given:
            self._read("times", time)

    def fires(self, step: int, run: RunLength, key: str = "") -> bool:
        """Whether one of the times counts at this step."""
        return any(ceil(_in_steps(time, run, "At: times")) == step for time in self.times)


@dataclass(frozen=True)
class Stochastic(Trigger):
    """At each step with a probability, drawn from the seed, the key and the step alone.

    Args:
        probability: a number in [0, 1], or a schedule of it.
        seed: of the draws.

    Raises:
        ValueError: a probability out of [0, 1], here or at the step where the schedule leaves it.

    Example:
        >>> from ssl_prune.schedules import Inverse
        >>> surgery = Stochastic(Inverse(gamma=1e-3))
        >>> surgery.fires(0, RunLength(), "conv1"), sum(surgery.fires(step, RunLength(), "conv1") for step in range(10_000))
        (True, 2378)

    Source: Guo, Yao and Chen, Dynamic Network Surgery (2016), where each layer draws for itself.
    """

    probability: Schedule | float
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.probability, Schedule):
            self._check(self.probability)

    def fires(self, step: int, run: RunLength, key: str = "") -> bool:
        """Whether the draw of this step and key is below the probability."""
        given = self.probability
        probability = given.value(step, run) if isinstance(given, Schedule) else given
        self._check(probability)
        digest = blake2b(f"{self.seed} {step} {key}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) * 2.0**-53 < probability

    def _check(self, probability: float) -> None:
        check_number(probability, "Stochastic: probability", low=0, high=1)
