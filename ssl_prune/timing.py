"""Times in a run, each written with its unit: a share of the run, epochs, or optimizer steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["RunLength", "Time"]

Unit = Literal["run", "ep", "it"]
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ep|it)?\s*")


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Args:
        steps: optimizer steps of the whole run; None: it has no known end.
        steps_per_epoch: optimizer steps of an epoch; None: the data has no length.
    """

    steps: int | None = None
    steps_per_epoch: int | None = None


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
        if not 0 <= self.amount < math.inf:
            raise ValueError(f"a time must be a finite number >= 0, got {self}")
        if self.unit == "run" and self.amount > 1:
            raise ValueError(f"a share of the run must be in [0, 1], got {self}")
        if self.unit == "it" and self.amount != int(self.amount):
            raise ValueError(f"optimizer steps must be a whole number, got {self}")

    @classmethod
    def of(cls, value: str | float | Time, name: str = "time") -> Time:
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

    def steps(self, run: RunLength, name: str = "time") -> float:
        """The time in optimizer steps.

        Raises:
            ValueError: a share of a run without an end, or epochs of data without a length.
        """
        if self.amount == 0 or self.unit == "it":
            return float(self.amount)
        if self.unit == "run":
            if run.steps is None:
                raise ValueError(
                    f'{name}: "{self}" is a share of a run without an end; set max_epochs or max_steps, or give it in epochs '
                    '("5ep") or optimizer steps ("1000it")'
                )
            return self.amount * run.steps
        if run.steps_per_epoch is None:
            raise ValueError(
                f'{name}: "{self}" is in epochs, but the training data has no length; give it in optimizer steps '
                '("1000it") or as a share of the run ("0.7")'
            )
        return self.amount * run.steps_per_epoch

    def __str__(self) -> str:
        return f"{self.amount:g}{'' if self.unit == 'run' else self.unit}"
