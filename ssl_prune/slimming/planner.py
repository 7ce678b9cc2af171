"""From liveness to a plan: survivors of every axis, folds, attributes, and branches that disappear."""

from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.slimming.branches import constant_branches, gone_modules, without_channels
from ssl_prune.slimming.columns import kept_columns
from ssl_prune.slimming.liveness import Liveness, Obstacle, with_kept
from ssl_prune.slimming.plan import Fold, ModulePlan, SlimPlan

__all__ = ["folded", "make_plan", "removable"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def removable(graph: ChannelGraph, live: Liveness, branches: bool) -> Tensor:
    """(U,) units to remove: the dead ones, but never the last position of a layer that stays."""
    gone = gone_modules(graph, live) if branches else frozenset()
    axes = [a for a in (*graph.axes, *graph.buffers) if a.name.rpartition(".")[0] not in gone]
    alive, kept = live.alive, torch.zeros_like(live.alive)
    while True:
        for axis in axes:
            if not bool(torch.where(axis.units >= 0, (alive | kept)[axis.units], True).any()):
                kept[axis.units[0]] = True
        grown = with_kept(live, kept)
        if torch.equal(grown, alive):
            return ~alive
        alive = grown


def make_plan(
    graph: ChannelGraph, model: nn.Module, live: Liveness, dead: Tensor, *, branches: bool, columns: bool
) -> SlimPlan:
    """The plan that removes the `dead` units.

    Args:
        graph: channel graph of the network.
        model: the network, for its module types and weights.
        live: what is needed, and the constants that must be folded.
        dead: (U,) units to remove, no more than `removable` says.
        branches: replace whole constant branches by the constant they add.
        columns: turn layers with all-zero columns into dense layers over the columns that are left.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    becomes = constant_branches(graph, live) if branches else {}
    keep: dict[str, dict[str, dict[int, list[int]]]] = {}
    for axis in (*graph.axes, *graph.buffers):
        stays = torch.where(axis.units >= 0, ~dead[axis.units], True)
        if bool(stays.all()):
            continue
        for name in _names(model, axis.name):
            owner, _, leaf = name.rpartition(".")
            keep.setdefault(owner, {}).setdefault(leaf, {})[axis.axis] = stays.nonzero().flatten().tolist()
    plans: dict[str, ModulePlan] = {}
    folds = {o.reader.weight.rpartition(".")[0]: folded(o, dead) for o in live.obstacles}
    for name in dict.fromkeys([*keep, *becomes, *(n for n, f in folds.items() if f)]):
        if name in becomes:
            plans[name] = ModulePlan(becomes=without_channels(becomes[name], graph, dead))
        else:
            own = keep.get(name, {})
            if folds.get(name) and modules[name].bias is None and 0 in own.get("weight", {}):
                own["bias"] = {0: own["weight"][0]}  # the fold makes a bias as long as the dense layer's
            plans[name] = ModulePlan(own, _attributes(modules[name], own), folds.get(name))
    if columns:
        for name, kept in kept_columns(graph, live, modules, plans).items():
            old = plans.get(name, ModulePlan())
            plans[name] = ModulePlan(old.keep, old.attributes, old.fold, {"kind": "Columns", "columns": kept})
    shapes = {n: list(t.shape) for n, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    return SlimPlan(plans, shapes)


def _names(model: nn.Module, name: str) -> list[str]:
    """Every place of a tied tensor."""
    wanted = getattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    # A module under two names is one module, cut once.
    return [
        f"{owner}.{leaf}" if owner else leaf
        for owner, module in model.named_modules()
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is wanted
    ]


def folded(obstacle: Obstacle, dead: Tensor) -> Fold | None:
    """What a reader's bias takes in when the `dead` units go; None if nothing."""
    reader, seen = obstacle.reader, obstacle.seen
    gone = torch.cat([dead, torch.zeros(1, dtype=torch.bool)])[reader.read]  # unit -1 never goes
    carries = gone & ~obstacle.varies & ~obstacle.unfoldable & (seen.constant.cpu() != 0)
    channels = carries.nonzero().flatten().tolist()
    return Fold(channels, seen.constant.cpu()[carries].tolist()) if channels else None


def _attributes(module: nn.Module, keep: dict[str, dict[int, list[int]]]) -> dict[str, Any]:
    """The attributes of PyTorch's own layers that state a width."""
    if isinstance(module, _BATCH_NORMS):  # whichever vector it has: a scale, or statistics only
        left = [len(axes[0]) for axes in keep.values() if 0 in axes]
        return {"num_features": left[0]} if left else {}
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return {}
    kept = keep.get("weight", {})
    shape = [len(kept[axis]) if axis in kept else size for axis, size in enumerate(weight.shape)]
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, _CONVOLUTIONS):
        depthwise = module.groups > 1 and module.groups == module.in_channels
        groups = module.groups * shape[0] // module.out_channels if depthwise else module.groups
        return {"in_channels": shape[1] * groups, "out_channels": shape[0], "groups": groups}
    if isinstance(module, _TRANSPOSED):
        return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    return {}
