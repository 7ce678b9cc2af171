"""Practical widths: dead channels that stay because a layer is better off with them, by a rule or by measurement.

A dead channel can always stay: it is exact to remove less. So what is asked here is only which ones. A unit lies on
several axes (the rows of its layer, the columns of the next), and all of them shall come out at a good width at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph import Reader
from ssl_prune.latency import latencies
from ssl_prune.slimming.analysis.dead_branches import gone_modules
from ssl_prune.slimming.analysis.liveness import Liveness, read_by_needed, with_kept
from ssl_prune.slimming.plan.rounding_search import fewest, good

__all__ = ["Widths", "check_round_to", "practical_widths"]

RoundTo = int | Literal["measured"]

_MEASURED = (4, 8, 16, 32)
_MARGIN = 0.97  # a gain below 3 % is not worth a channel, and may be noise

aten = torch.ops.aten
_GROUPS = 6  # place of `groups` among the arguments of every convolution, transposed or not
_TIMED = {
    aten.linear,
    *(aten.conv1d, aten.conv2d, aten.conv3d),
    *(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d),
}


@dataclass(frozen=True)
class Widths:
    """Which units to remove when widths matter.

    Args:
        dead: ``(U,)`` units to remove, a part of those given.
        reasons: unit that is not needed and stays all the same -> why.
    """

    dead: Tensor
    reasons: dict[int, str]


def check_round_to(round_to: RoundTo) -> None:
    """Refuse what is neither a width nor "measured".

    Raises:
        ValueError: anything but an integer of at least 1 or "measured".
    """
    if round_to != "measured" and (not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1):
        raise ValueError(
            f"round_to: got {round_to!r}, expected an integer of at least 1, for example 8 to keep widths that are "
            'multiples of 8, or "measured"'
        )


def practical_widths(live: Liveness, dead: Tensor, round_to: RoundTo, branches: bool) -> Widths:
    """Keep the fewest dead units so that every layer has a practical width.

    With a number m, every input and output width of a convolution or linear layer becomes a multiple of m, or stays the
    dense one where that comes first. With "measured", the widths next to the plain cut that are multiples of 4, 8, 16
    and 32 are timed in the layers that they concern, at the shapes of the example, and one is kept where it is at least
    3 % faster in two measurements.

    Args:
        live: what is needed.
        dead: ``(U,)`` what `removable` would remove.
        round_to: m ≥ 1, or "measured".
        branches: whether constant branches go as a whole; their layers need no width.

    Raises:
        ValueError: `round_to` is something else.
    """
    check_round_to(round_to)
    if round_to == 1 or not bool(dead.any()):
        return Widths(dead, {})
    gone = gone_modules(live) if branches else frozenset()
    found = _found(live, gone)
    if not found:
        return Widths(dead, {})
    axes = _Axes(live, found, gone)
    if round_to == "measured":
        return _measured(live, dead, axes)
    return axes.rounded(dead, round_to)


def _found(live: Liveness, gone: frozenset[str]) -> list[Tensor]:
    """Units on each axis of a convolution's or linear layer's weight."""
    weights = {reader.weight for reader in live.subject.graph.readers}
    found: dict[bytes, Tensor] = {}  # many axes are alike: a layer's rows and the next one's columns
    for axis in live.subject.graph.axes:
        if axis.name in weights and axis.name.rpartition(".")[0] not in gone:
            found.setdefault(axis.units.cpu().numpy().tobytes(), axis.units.cpu())
    return list(found.values())


class _Axes:
    """The widths of a network: which units lie how often on which of the axes `found`."""

    def __init__(self, live: Liveness, found: list[Tensor], gone: frozenset[str]) -> None:
        self._live, self.gone, size = live, gone, live.subject.graph.num_units
        self.dense = [len(units) for units in found]
        counts = [torch.bincount(units[units >= 0], minlength=size) for units in found]
        # Units that lie on the same axes are as good as each other: one column of `add` stands for all of them.
        self.add, self.kind = torch.unique(torch.stack(counts), dim=1, return_inverse=True)
        self._read = read_by_needed(live)

    def widths(self, dead: Tensor) -> list[int]:
        """Width of each axis without the `dead` units."""
        gone = torch.bincount(self.kind[dead], minlength=self.add.shape[1])
        return [size - int(n) for size, n in zip(self.dense, self.add @ gone, strict=True)]

    def parts(self, dead: Tensor) -> Iterator[Tensor]:
        """``(U,)`` units of axes that share dead units: widths that must be chosen together."""
        joined = (self.add[:, self.kind[dead].unique()] > 0).int()
        left = joined.any(1)
        while bool(left.any()):
            part = torch.zeros_like(left)
            part[left.nonzero()[0]] = True
            while True:
                wider = (joined[:, joined[part].any(0)] > 0).any(1)
                if torch.equal(wider, part):
                    break
                part = wider
            left = left & ~part
            yield (self.add[part] > 0).any(0)[self.kind]

    def rounded(self, dead: Tensor, multiple: int, only: Tensor | None = None) -> Widths:
        """`dead` with the fewest exceptions so that all widths (those of the part `only`) are practical."""
        kept: dict[int, list[int]] = {}
        while True:
            chosen = torch.zeros_like(dead)
            for part in self.parts(dead) if only is None else [only]:
                for unit, wrong in self._more(dead, multiple, part):
                    chosen[unit] = True
                    kept[unit] = wrong
            if not bool(chosen.any()):
                return Widths(dead, self._reasons(dead, kept, multiple))
            grown = dead & ~with_kept(self._live, ~dead | chosen)
            for unit in (dead & ~grown & ~chosen).nonzero().flatten().tolist():
                kept[unit] = []
            dead = grown

    def _more(self, dead: Tensor, multiple: int, part: Tensor) -> Iterator[tuple[int, list[int]]]:
        """Dead units of a part to keep, each with the axes that need it."""
        free = dead & part
        available = torch.bincount(self.kind[free], minlength=self.add.shape[1])
        rows = (self.add[:, available > 0] > 0).any(1).nonzero().flatten().tolist()
        now = self.widths(dead)
        widths, dense = [now[i] for i in rows], [self.dense[i] for i in rows]
        wrong = [i for i, n, d in zip(rows, widths, dense, strict=True) if not good(n, d, multiple)]
        more = fewest(widths, dense, self.add[rows].tolist(), available.tolist(), multiple)
        for kind, number in enumerate(more):
            for unit in self._best(free & (self.kind == kind), number) if number else []:
                yield unit, [i for i in wrong if self.add[i, kind]] or wrong

    def _best(self, units: Tensor, number: int) -> list[int]:
        """`number` of `units`: first those that nothing needed reads, because they need no inputs of their own."""
        places = units.nonzero().flatten()
        best: list[int] = places[self._read[places].int().argsort(stable=True)][:number].tolist()
        return best

    def _reasons(self, dead: Tensor, kept: dict[int, list[int]], multiple: int) -> dict[int, str]:
        widths = self.widths(dead)

        def reason(wrong: list[int]) -> str:
            if not wrong:
                return "a channel kept for its layer's width reads it"
            width = widths[wrong[0]]
            if width % multiple == 0:
                return f"kept for a width of {width}, a multiple of {multiple}"
            return f"kept for the whole width of {width}, below the next multiple of {multiple}"

        return {unit: reason(wrong) for unit, wrong in kept.items()}


def _measured(live: Liveness, dead: Tensor, axes: _Axes) -> Widths:
    """Part by part in the order of the network, each with what was decided before it."""
    reasons: dict[int, str] = {}
    for part in list(axes.parts(dead)):
        choices = [Widths(dead, {})]
        for multiple in _MEASURED:
            wider = axes.rounded(dead, multiple, part)
            if not any(torch.equal(wider.dead, other.dead) for other in choices):
                choices.append(wider)
        timed = [_Layers(live, choice.dead, part, axes.gone) for choice in choices]
        if len(choices) == 1 or not timed[0].calls:
            continue
        times = latencies(timed, (), rounds=15, warmup=3)
        best = min(range(len(times)), key=times.__getitem__)
        if times[best] > _MARGIN * times[0]:
            continue
        # The best of several is the one that chance favoured: it has to be best a second time.
        plain, again = latencies([timed[0], timed[best]], (), rounds=30, warmup=3)
        if again <= _MARGIN * plain:
            gain = f"in which its layers take {again / plain:.0%} of the time of the plain cut"
            for unit, why in choices[best].reasons.items():
                reasons[unit] = f"{why}, {gain}" if why.startswith("kept") else why
            dead = choices[best].dead
    return Widths(dead, reasons)


class _Layers(nn.Module):
    """The convolutions and linear layers that a part of the units concerns, at the widths that `dead` leaves."""

    def __init__(self, live: Liveness, dead: Tensor, part: Tensor, gone: frozenset[str]) -> None:
        super().__init__()
        concerned = torch.cat([part, torch.zeros(1, dtype=torch.bool)])
        self.calls = [
            call
            for reader in live.subject.graph.readers
            if reader.module not in gone and bool(concerned[reader.read].any() | concerned[reader.written].any())
            if (call := _timed_call(reader, live, dead)) is not None
        ]

    def forward(self) -> None:
        """Run them one after the other."""
        for target, args in self.calls:
            target(*args)


def _timed_call(reader: Reader, live: Liveness, dead: Tensor) -> tuple[Any, tuple[Any, ...]] | None:
    """The operator and arguments of a layer at the widths that `dead` leaves; None where that is not known."""
    target, args = reader.node.target, list(reader.node.args)
    packet = getattr(target, "overloadpacket", None)
    if reader.weight is None or reader.source is None:
        return None
    if packet not in _TIMED or reader.node.kwargs or any(isinstance(a, fx.Node) for a in args[3:]):
        return None
    stays = torch.cat([~dead, torch.ones(1, dtype=torch.bool)])
    rows, columns = int(stays[reader.written].sum()), int(stays[reader.read].sum())
    weight = live.weights[reader.weight]
    shape, source = list(weight.shape), list(reader.source.meta["val"].shape)
    source[reader.source_axes[0]] = columns
    if reader.depthwise:
        shape[0], args[_GROUPS] = rows, columns
    elif reader.grouped:
        args[_GROUPS] = groups = int(stays[reader.written].view(reader.groups, -1).any(1).sum())
        inside = rows if reader.in_axis == 0 else columns
        shape[0], shape[1] = rows + columns - inside, inside // max(groups, 1)
    else:
        shape[1 - reader.in_axis], shape[reader.in_axis] = rows, columns
    # Ones and not random numbers: the user's generators stay where they are, and speed does not depend on values.
    bias = weight.new_ones(rows) if len(args) > 2 and args[2] is not None else None
    return target, (weight.new_ones(source), weight.new_ones(shape), bias, *args[3:])
