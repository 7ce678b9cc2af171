"""What a cut would leave, without making it: for progress bars and budgets."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.sizes.model import SizeModel
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
    sizes = SizeModel(graph, model)
    left = sizes(dead, gone)
    names, folds = {name for name, _ in model.named_parameters()}, 0
    for obstacle in live.obstacles:  # a fold makes a bias where there is none
        if obstacle.reader.weight is None:
            continue
        owner = obstacle.reader.weight.rpartition(".")[0]
        fold = folded(obstacle, live, dead)
        if owner not in gone and f"{owner}.bias" not in names and fold is not None and fold.into is None:
            folds += int(_stays(obstacle.reader.written, dead).sum())
    units = (graph.num_units, graph.num_units - int(dead.sum()))
    macs = (round(sizes.dense["macs"]), round(left["macs"]))
    return Remaining(macs, (round(sizes.dense["params"]), round(left["params"]) + folds), units)


def cut_unproven(graph: ChannelGraph, model: nn.Module, inputs: Inputs) -> nn.Module:
    """The network as a cut at this moment would leave it, without a proof: for a look at its size or time only.

    Its tensors are those of `model` where nothing is cut.
    """
    live = liveness(Subject(graph, model, inputs))
    dead = removable(live, branches=True)
    return make_plan(live, dead, branches=True, choose=None).apply(model, shared=True)


def _stays(units: Tensor, dead: Tensor) -> Tensor:
    return torch.cat([~dead, torch.ones(1, dtype=torch.bool)])[units]  # unit -1 always stays
