"""Times in a run, each written with its unit: a share of the run, epochs, or optimizer steps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias, Union

from ssl_prune.utils.checks import check_number, check_whole

__all__ = ["RunLength", "Time", "TimeLike", "several"]

TimeLike: TypeAlias = Union[str, float, "Time"]  # what `Time.of` reads
Unit = Literal["run", "ep", "it"]
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ep|it)?\s*")


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Args:
        steps: optimizer steps of the whole run; None: it has no known end.
        steps_per_epoch: optimizer steps of an epoch; None: the data has no length.

    Raises:
        ValueError: a negative number of steps, or an epoch without a step.

    Example:
        >>> Time.of("0.7").steps(RunLength(steps=1000))
        700.0
    """

    steps: int | None = None
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("steps", 0), ("steps_per_epoch", 1)):
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), name, low)


@dataclass(frozen=True)
class Time:
    """A time in a run.

    Args:
        amount: how much of the unit.
        unit: "run" for a share of the run, "ep" for epochs, "it" for optimizer steps.

    Raises:
        ValueError: a negative or infinite amount, a share above 1, or half an optimizer step.

    Example:
        >>> run = RunLength(steps=1000, steps_per_epoch=100)
        >>> [Time.of(text).steps(run) for text in ("0.7", "5ep", "250it")]
        [700.0, 500.0, 250.0]
    """

    amount: float
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in ("run", "ep", "it"):
            raise ValueError(f'the unit of a time must be "run", "ep" or "it", got {self.unit!r}')
        check_number(self.amount, "a time", low=0)
        if self.unit == "run" and self.amount > 1:
            raise ValueError(f"a share of the run must be in [0, 1], got {self}")
        if self.unit == "it" and self.amount != int(self.amount):
            raise ValueError(f"optimizer steps must be a whole number, got {self}")

    @classmethod
    def of(cls, value: TimeLike, name: str = "time") -> Time:
        """Read a time.

        Args:
            value: ``"0.7"`` (of the run), ``"5ep"`` (epochs), ``"1000it"`` (optimizer steps), or a `Time`. Of plain numbers
                0 alone, which is the same in every unit.
            name: what it is called in messages.

        Raises:
            ValueError: anything else, plain numbers among them: 1 could be an epoch, a step or the whole run.
        """
        if isinstance(value, Time):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0:
            return cls(0, "run")
        found = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(
                f'{name}: got {value!r}, expected a time with its unit: "0.7" (of the run), "5ep" (epochs) or "1000it" '
                "(optimizer steps), in quotation marks"
            )
        try:
            return cls(float(found[1]), found[2] or "run")  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def exact(self, run: RunLength, name: str = "time") -> Fraction:
        """The time in optimizer steps, of the amount as it is written: 0.07 of 100 steps are 7 and no hair more.

        Args:
            run: how long the run is, and an epoch.
            name: what it is called in messages.

        Raises:
            ValueError: a share of a run without an end, or epochs of data without a length.
        """
        amount = Fraction(str(self.amount))
        if amount == 0 or self.unit == "it":
            return amount
        if self.unit == "run":
            if run.steps is None:
                raise ValueError(
                    f'{name}: "{self}" is a share of a run without an end; set max_epochs or max_steps, or give it in epochs '
                    '("5ep") or optimizer steps ("1000it")'
                )
            return amount * run.steps
        if run.steps_per_epoch is None:
            raise ValueError(
                f'{name}: "{self}" is in epochs, but the training data has no length; give it in optimizer steps '
                '("1000it") or as a share of the run ("0.7")'
            )
        return amount * run.steps_per_epoch

    def steps(self, run: RunLength, name: str = "time") -> float:
        """The time in optimizer steps; see `exact`.

        Args:
            run: how long the run is, and an epoch.
            name: what it is called in messages.
        """
        return float(self.exact(run, name))

    def first_step(self, run: RunLength, name: str = "time") -> int:
        """The first optimizer step, counted from 0, that is not before the time.

        Args:
            run: how long the run is, and an epoch.
            name: what it is called in messages.

        Example:
            >>> Time.of("0.5ep").first_step(RunLength(steps_per_epoch=5))
            3
        """
        return math.ceil(self.exact(run, name))

    def __str__(self) -> str:
        return f"{self.amount:.15g}{'' if self.unit == 'run' else self.unit}"


def several(times: TimeLike | Iterable[TimeLike]) -> tuple[TimeLike, ...]:
    """A list of times as a tuple, one time by itself too; each is still to be read.

    Example:
        >>> several(["1ep", "3ep"]), several("1ep")
        (('1ep', '3ep'), ('1ep',))
    """
    return tuple(times) if isinstance(times, Iterable) and not isinstance(times, str) else (times,)
