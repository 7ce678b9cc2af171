"""Python code that asks a tensor: its answers are recorded, replayed and turned, so that every branch is seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Answer", "Answers", "Exploration", "explore"]

Result = TypeVar("Result")
Value = bool | int | float
Site = tuple[str, int, int]

_ASKS: set[Any] = {
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    Tensor.item,
    Tensor.equal,
    Tensor.allclose,
    torch.equal,
    torch.allclose,
    torch.is_nonzero,
}
_READS: set[Any] = {Tensor.numpy, Tensor.tolist, Tensor.__array__}
_OUTSIDE = os.path.dirname(torch.__file__)
_FAR = 1e6


@dataclass(frozen=True)
class Answer:
    """What the code was told when it asked a tensor for a number or a truth value.

    Args:
        site: file, line and instruction that asked.
        natural: what the tensor held.
        value: what the code was told.
    """

    site: Site
    natural: Value
    value: Value

    @property
    def others(self) -> tuple[Value, ...]:
        """Answers that may send the code another way: the opposite, or numbers beyond either side of a threshold."""
        if isinstance(self.natural, bool):
            return (not self.natural,)
        if isinstance(self.natural, int):
            return tuple(n for n in (0, 1, self.natural + 1) if n != self.natural)
        return (_FAR, -_FAR)


class Answers(TorchFunctionMode):
    """While active, the first questions get the answers given, all later ones the truth.

    Args:
        given: answers to the first questions, in order.

    Example:
        >>> with Answers([False]) as answers:
        ...     print("yes" if torch.ones(()) > 0 else "no")
        no
        >>> [(a.natural, a.value) for a in answers.taken]
        [(True, False)]
    """

    def __init__(self, given: Sequence[Value] = ()) -> None:
        super().__init__()
        self._given = tuple(given)
        self.taken: list[Answer] = []
        self.read: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`; note tensors that leave torch, and answer questions."""
        result = func(*args, **(kwargs or {}))
        if func in _READS:
            self.read.append(args[0])
        if func not in _ASKS or not isinstance(result, (bool, int, float)):
            return result
        place = len(self.taken)
        value = self._given[place] if place < len(self._given) else result
        value = type(result)(value)
        self.taken.append(Answer(_site(), result, value))
        return value


@dataclass(frozen=True)
class Exploration:
    """Answers and result of each way through the code.

    Args:
        ways: (answers, result), the natural way first.
        missed: a place whose other answer was not tried because there were too many ways; None: every answer was.
    """

    ways: tuple[tuple[tuple[Answer, ...], Any], ...]
    missed: str | None


def explore(run: Callable[[Answers], Result], limit: int = 16, refuses: type[Exception] = Exception) -> Exploration:
    """Run code with every combination of answers to its questions, up to `limit`; new answers at a place come first.

    Ways that the code itself refuses are left out.

    Args:
        run: runs the code once under the answers it is given, which it must enter.
        limit: most ways to look at.
        refuses: what `run` raises where the code refuses a way.

    Raises:
        Exception: what the natural way raises, and anything that is no refusal.

    Example:
        >>> def run(answers):
        ...     with answers:
        ...         return "a" if torch.ones(()) > 0 else "b"
        >>> [result for _, result in explore(run).ways]
        ['a', 'b']
    """
    fresh: list[tuple[Value, ...]] = [()]
    again: list[tuple[Value, ...]] = []
    tried: set[tuple[Site, Value | str]] = set()
    ways: list[tuple[tuple[Answer, ...], Any]] = []
    missed: dict[tuple[Value, ...], str] = {}
    runs = 0
    while (fresh or again) and runs < limit:
        given = fresh.pop(0) if fresh else again.pop(0)
        missed.pop(given, None)
        runs += 1
        answers = Answers(given)
        try:
            result = run(answers)
        except refuses:
            if not given:
                raise
            continue
        taken = tuple(answers.taken)
        ways.append((taken, result))
        tried.update((a.site, _side(a.value)) for a in taken)
        values = tuple(a.value for a in taken)
        for place in range(len(given), len(taken)):
            for other in taken[place].others:
                way = (*values[:place], other)
                side = (taken[place].site, _side(other))
                if side in tried:
                    again.append(way)
                else:
                    tried.add(side)
                    fresh.append(way)
                    missed[way] = f"{os.path.basename(side[0][0])}, line {side[0][1]}"
    return Exploration(tuple(ways), next(iter(missed.values()), None))


def _side(value: Value) -> Value | str:
    if isinstance(value, float):  # a number is on its way, or on one side of every threshold
        return "far" if value >= _FAR else "below" if value <= -_FAR else "near"
    return value if isinstance(value, bool) else min(value, 2)


def _site() -> Site:
    """Where the question was asked: the innermost frame that is neither torch's nor this file's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(_OUTSIDE)
    ):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, frame.f_lasti
