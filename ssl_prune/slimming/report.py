"""What a cut did: sizes before and after, the proof's error, and what was kept although it is zero, with the reason."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssl_prune.costs import Cost, cost
from ssl_prune.graph import ChannelGraph
from ssl_prune.inputs import Inputs, map_tensors
from ssl_prune.report.numbers import percent
from ssl_prune.report.table import table
from ssl_prune.slimming.attention import CutAttention
from ssl_prune.slimming.kernels import ColumnConv
from ssl_prune.slimming.liveness import Liveness, zero_units
from ssl_prune.slimming.planner import removable
from ssl_prune.slimming.threshold import ThresholdChange
from ssl_prune.slimming.uneven import UnevenRecurrent
from ssl_prune.slimming.verify import Proof

__all__ = ["Kept", "LayerChange", "SlimReport", "make_report"]


@dataclass(frozen=True)
class Kept:
    """Zero structures that stay: how many, written by which layer, and why."""

    layer: str
    count: int
    reason: str


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after.

    Args:
        name: module name.
        before: shape of its weight in the dense network, (out, in, *kernel).
        after: shape in the slim network; None where the layer is gone; (out, columns) where columns are gathered.
        macs: multiply-accumulates of one forward pass, before and after.
        params: parameters, before and after.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    macs: tuple[int, int]
    params: tuple[int, int]


@dataclass(frozen=True)
class SlimReport:
    """The record of a cut; `str()` is a table.

    Args:
        macs: multiply-accumulates of one forward pass of the example, before and after.
        params: parameters, before and after.
        bytes: bytes of parameters and buffers, before and after.
        max_error: largest relative output difference that the proof saw.
        removed: layer -> number of removed units it writes.
        kept: zero units that stay, with the reason.
        layers: every convolution and linear layer.
        refused: why a larger cut was refused by the proof, or None.
        threshold: what a threshold changed before the cut, or None without one; `max_error` does not count that.
        tracer: what found the units: "torch.export", or "torch-pruning" where export refused the network.
        because: why the first tracer refused, or None.
    """

    macs: tuple[int, int]
    params: tuple[int, int]
    bytes: tuple[int, int]
    max_error: float
    removed: dict[str, int]
    kept: tuple[Kept, ...]
    layers: tuple[LayerChange, ...]
    refused: str | None = field(default=None)
    threshold: ThresholdChange | None = field(default=None)
    tracer: str = "torch.export"
    because: str | None = None

    def __str__(self) -> str:
        rows = [
            [
                layer.name,
                _shape(layer.before),
                _after(layer),
                *layer.macs,
                percent(layer.macs[1], layer.macs[0]),
                *layer.params,
            ]
            for layer in self.layers
        ]
        total = ["whole network", None, None, *self.macs, percent(self.macs[1], self.macs[0]), *self.params]
        columns = ["layer", "before", "after", "MACs before", "after", "left", "params before", "after"]
        lines = [table(columns, rows, total=total)]
        lines.append(
            f"bytes {self.bytes[0]:,} -> {self.bytes[1]:,}; largest relative output difference {self.max_error:.1e}"
        )
        if self.threshold is not None:
            lines.append(str(self.threshold))
        lines += [f"kept: {kept.count} zero channels of {kept.layer}: {kept.reason}" for kept in self.kept]
        if self.refused:
            lines.append(f"a larger cut did not pass the proof ({self.refused}); what failed was kept")
        if self.because:
            lines.append(f"traced by {self.tracer}, proven by trials alone, because {self.because}")
        return "\n".join(lines)


def make_report(
    graph: ChannelGraph,
    model: nn.Module,
    cut: nn.Module,
    live: Liveness,
    dead: Tensor,
    proof: Proof,
    refused: str | None,
    inputs: Inputs,
    widths: Mapping[int, str],
    threshold: ThresholdChange | None,
) -> SlimReport:
    """Compare the two networks and explain every zero unit that stays; `widths` are those kept for a layer's width."""
    before, after = (cost(network, map_tensors(torch.clone, inputs)) for network in (model, cut))
    layers = _layers([r.weight for r in graph.readers if r.weight is not None], model, cut, before, after)
    gone = {layer.name for layer in layers if layer.after is None}
    removed = Counter(graph.unit_layer[unit] for unit in dead.nonzero().flatten().tolist())
    return SlimReport(
        (before.macs, after.macs),
        (before.params, after.params),
        (before.bytes, after.bytes),
        proof.max_error,
        dict(removed),
        _kept(graph, model, live, dead, gone, widths),
        layers,
        refused,
        threshold,
    )


def _layers(
    read: Iterable[str], model: nn.Module, cut: nn.Module, before: Cost, after: Cost
) -> tuple[LayerChange, ...]:
    weights = dict((*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)))
    modules = dict(cut.named_modules(remove_duplicate=False))
    changes = []
    first = {weight.rpartition(".")[0]: weight for weight in reversed(list(read))}
    for name, weight in reversed(first.items()):
        module = modules.get(name)  # None inside a branch that became a constant
        slim = getattr(module, weight.rpartition(".")[2], None)
        if isinstance(module, (UnevenRecurrent, CutAttention)):  # of several matrices, the first
            slim = next(parameter for parameter in module.parameters() if parameter.dim() > 1)
        after_shape = None
        if isinstance(slim, Tensor):
            after_shape = tuple(slim.shape[:2] if isinstance(module, ColumnConv) else slim.shape)
        macs = (_of(before, name, first, "macs"), _of(after, name, first, "macs"))
        params = (_of(before, name, first, "params"), _of(after, name, first, "params"))
        changes.append(LayerChange(name, tuple(weights[weight].shape), after_shape, macs, params))
    return tuple(changes)


def _of(total: Cost, name: str, lines: Collection[str], what: str) -> int:
    """The cost of a layer with its parts, those left out that have lines of their own."""
    parts = [part for part in total.layers if part == name or (part.startswith(f"{name}.") and part not in lines)]
    return sum(int(getattr(total.layers[part], what)) for part in parts)


def _kept(
    graph: ChannelGraph, model: nn.Module, live: Liveness, dead: Tensor, gone: set[str], widths: Mapping[int, str]
) -> tuple[Kept, ...]:
    wanted = removable(graph, live, branches=False)
    stays = (zero_units(graph, model, without=gone) | wanted | ~live.alive) & ~dead
    reasons: Counter[tuple[str, str]] = Counter()
    for unit, why in sorted(widths.items()):
        reasons[graph.unit_layer[unit], why] += 1
    for unit in stays.nonzero().flatten().tolist():
        if unit not in widths:
            reasons[graph.unit_layer[unit], _reason(live, wanted, unit)] += 1
    for weight, count in _pinned_zeros(graph, model).items():
        reasons[weight.rpartition(".")[0], "its channels can never be removed: " + _pins(graph)] += count
    return tuple(Kept(layer, count, reason) for (layer, reason), count in reasons.items())


def _reason(live: Liveness, wanted: Tensor, unit: int) -> str:
    if bool(wanted[unit]):
        return "the proof did not hold without it"
    for obstacle in live.obstacles:
        here = obstacle.reader.read == unit
        if not bool(here.any()) or obstacle.reader.depthwise:
            continue
        name = obstacle.reader.module or obstacle.reader.weight or "a product"
        if bool(live.alive[unit]) and bool(obstacle.varies[here].any()):
            return f"{name} still reads a signal there, from a layer or a shift that is not zero"
        if bool((obstacle.unfoldable | obstacle.absorbable)[here].any()):
            values = obstacle.seen
            constant = values.constant.cpu()[here][0].item()
            how = "pads its input with zeros" if obstacle.reader.padded else "cannot take it into its bias"
            if not bool(values.uniform.cpu()[here].all()):
                return f"it carries a constant that differs by position into {name}"
            return f"it carries the constant {constant:.3g} into {name}, which {how}"
    if not bool(live.alive[unit]):
        return "a layer that stays keeps one channel, and groups, heads and equal pieces stay equally long"
    return "the proof did not hold without it"


def _pinned_zeros(graph: ChannelGraph, model: nn.Module) -> dict[str, int]:
    """Zero slices of weights, and zero scales, that belong to no unit: weight -> how many."""
    units = {(axis.name, axis.axis): axis.units for axis in graph.axes}
    found: dict[str, int] = {}
    grouped = {reader.weight for reader in graph.readers if reader.grouped}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.dim() < 2 and name.rpartition(".")[2] == "bias":
            continue  # a shift of zero is no channel without a signal
        for axis in range(1 if name in grouped else min(weight.dim(), 2)):  # the second is another one in each group
            zero = (weight.movedim(axis, 0).reshape(weight.shape[axis], -1) == 0).all(1).cpu()
            free = units.get((name, axis), torch.full((len(zero),), -1)) < 0
            count = int((zero & free).sum())
            if count and not bool(zero.all() and axis):  # all columns are zero where all rows are
                found[name] = max(found.get(name, 0), count)
    return found


def _pins(graph: ChannelGraph) -> str:
    return "; ".join(dict.fromkeys(reason for reason, _ in graph.pinned)) or "they are tied to the input"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _after(layer: LayerChange) -> str:
    if layer.after is None:
        return "gone"
    return _shape(layer.after) + (" columns" if len(layer.after) < len(layer.before) else "")
