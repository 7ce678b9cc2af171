"""What a cut would leave, without making it: for progress bars and budgets."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.sizes.multiplications import each_pair, product, product_units
from ssl_prune.slimming.analysis.dead_branches import gone_modules
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.fallback.compiler import sizes_left
from ssl_prune.slimming.plan.planner import folded, make_plan, removable
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import Inputs

__all__ = ["Remaining", "cut_unproven", "remaining"]


@dataclass(frozen=True)
class Remaining:
    """Sizes before and after a cut at this moment.

    Args:
        macs: multiply-accumulates of convolutions, linear layers and products of values, as of attention, on the example.
        params: parameters of the network.
        units: channels that can be removed, and how many of them stay.
    """

    macs: tuple[int, int]
    params: tuple[int, int]
    units: tuple[int, int]


def remaining(graph: ChannelGraph, model: nn.Module, inputs: Inputs) -> Remaining:
    """Look at the weights as they are now; costs about one forward pass of the example, and changes nothing.

    Args:
        graph: the channel graph.
        model: the network.
        inputs: the example: a tensor, a tuple or a dict.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(1, 4)
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, :5].zero_()
        >>> remaining(trace(net, x), net, x).macs
        (48, 18)
    """
    subject = Subject(graph, model, inputs)
    if graph.refusal is not None:
        before, left_over, dead = sizes_left(subject)
        units = (graph.num_units, graph.num_units - int(dead.sum()))
        return Remaining((before.macs, left_over.macs), (before.params, left_over.params), units)
    live = liveness(subject)
    dead, gone = removable(live, branches=True), gone_modules(live)
    macs = [
        _macs(reader, live.weights[reader.weight].shape, dead, reader.module in gone)
        for reader in graph.readers
        if reader.weight is not None
    ]
    for reader in graph.readers:
        if reader.weight is None:
            each, channels = product(reader), product_units(reader)
            macs.append((round(each * len(channels)), round(each * int(_stays(channels, dead).sum()))))
    sizes = {name: p.shape for name, p in model.named_parameters()}
    left = {name: torch.tensor([float(n) for n in shape]) for name, shape in sizes.items()}
    for axis in graph.axes:
        if axis.name in left and axis.name.rpartition(".")[0] not in gone:
            left[axis.name][axis.axis] = float(_stays(axis.units, dead).sum())
    for reader in graph.readers:
        if reader.grouped and reader.weight in left:
            left[reader.weight][1] = _per_group(reader, dead, reader.in_axis == 1)
    for name in left:
        if name.rpartition(".")[0] in gone:
            left[name] = torch.zeros(1)
    dense = sum(shape.numel() for shape in sizes.values())
    after = sum(int(size.prod()) for size in left.values())
    for obstacle in live.obstacles:  # a fold makes a bias where there is none
        if obstacle.reader.weight is None:
            continue
        owner = obstacle.reader.weight.rpartition(".")[0]
        fold = folded(obstacle, live, dead)
        if owner not in gone and f"{owner}.bias" not in sizes and fold is not None and fold.into is None:
            after += int(_stays(obstacle.reader.written, dead).sum())
    units = (graph.num_units, graph.num_units - int(dead.sum()))
    return Remaining((sum(m[0] for m in macs), sum(m[1] for m in macs)), (dense, after), units)


def cut_unproven(graph: ChannelGraph, model: nn.Module, inputs: Inputs) -> nn.Module:
    """The network as a cut at this moment would leave it, without a proof: for a look at its size or time only.

    Its tensors are those of `model` where nothing is cut.
    """
    live = liveness(Subject(graph, model, inputs))
    dead = removable(live, branches=True)
    return make_plan(live, dead, branches=True, choose=None).apply(model, shared=True)


def _stays(units: Tensor, dead: Tensor) -> Tensor:
    return torch.cat([~dead, torch.ones(1, dtype=torch.bool)])[units]  # unit -1 always stays


def _macs(reader: Reader, weight: torch.Size, dead: Tensor, gone: bool) -> tuple[int, int]:
    each = each_pair(reader, weight)
    rows, columns = int(_stays(reader.written, dead).sum()), int(_stays(reader.read, dead).sum())
    dense = each * len(reader.written) * len(reader.read) // reader.groups
    if reader.depthwise:
        return dense, 0 if gone else each * rows
    if reader.grouped:
        columns = _per_group(reader, dead, True)
    return dense, 0 if gone else each * rows * columns


def _per_group(reader: Reader, dead: Tensor, into: bool) -> int:
    """Channels that each group keeps of those that go `into` it or out; groups keep equally many, or none."""
    return int(_stays(reader.read if into else reader.written, dead).view(reader.groups, -1).sum(1).max())
