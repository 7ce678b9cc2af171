"""From liveness to a plan: survivors of every axis, folds, attributes, and branches that disappear."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.graph.program import module_of
from ssl_prune.slimming.liveness import Liveness, Obstacle, with_kept
from ssl_prune.slimming.plan import Fold, ModulePlan, SlimPlan

__all__ = ["gone_modules", "make_plan", "removable"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def removable(graph: ChannelGraph, live: Liveness, branches: bool) -> Tensor:
    """(U,) units to remove: the dead ones, but never the last position of a layer that stays."""
    gone = set(_branches(graph, live)) if branches else set()
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


def gone_modules(graph: ChannelGraph, live: Liveness) -> frozenset[str]:
    """Names of the modules that dead branches no longer need."""
    return frozenset(_branches(graph, live))


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
    becomes = _branches(graph, live) if branches else {}
    keep: dict[str, dict[str, dict[int, list[int]]]] = {}
    for axis in (*graph.axes, *graph.buffers):
        stays = torch.where(axis.units >= 0, ~dead[axis.units], True)
        if bool(stays.all()):
            continue
        for name in _names(model, axis.name):
            owner, _, leaf = name.rpartition(".")
            keep.setdefault(owner, {}).setdefault(leaf, {})[axis.axis] = stays.nonzero().flatten().tolist()
    plans: dict[str, ModulePlan] = {}
    folds = {o.reader.weight.rpartition(".")[0]: _fold(o, dead) for o in live.obstacles}
    for name in dict.fromkeys([*keep, *becomes, *(n for n, f in folds.items() if f)]):
        if name in becomes:
            plans[name] = ModulePlan(becomes=_narrow(becomes[name], graph, dead))
        else:
            own = keep.get(name, {})
            if folds.get(name) and modules[name].bias is None and 0 in own.get("weight", {}):
                own["bias"] = {0: own["weight"][0]}  # the fold makes a bias as long as the dense layer's
            plans[name] = ModulePlan(own, _attributes(modules[name], own), folds.get(name))
    if columns:
        for name, kept in _columns(graph, live, modules, plans).items():
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


def _fold(obstacle: Obstacle, dead: Tensor) -> Fold | None:
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


# -- branches ----------------------------------------------------------------------------------------------------


def _branches(graph: ChannelGraph, live: Liveness) -> dict[str, dict[str, Any]]:
    """Modules that a constant branch no longer needs: its last one becomes the constant, the others pass through."""
    frontier = {node: live.values.constants[node] for node in _frontier(graph, live)}
    if not frontier or not live.values.output_varies:
        return {}
    needed = _needed(graph.program.graph, stop=frontier)
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.program.graph.nodes:
        if node.op == "call_function" and module_of(node):
            calls.setdefault(module_of(node), []).append(node)
    becomes: dict[str, dict[str, Any]] = {}
    for node, values in frontier.items():
        if all(n is node or n not in needed for n in calls[module_of(node)]):
            dims = node.meta["val"].dim()
            becomes[module_of(node)] = {"kind": "Constant", "values": values.tolist(), "dims": dims, "node": node}
    if len(becomes) < len(frontier):
        return {}
    leaves = [name for name in calls if not any(other.startswith(name + ".") for other in calls)]
    for name in leaves:
        if name not in becomes and not any(node in needed for node in calls[name]):
            becomes[name] = {"kind": "Identity"}
    return becomes


def _frontier(graph: ChannelGraph, live: Liveness) -> list[fx.Node]:
    """Constant nodes that meet something that varies in a pointwise operator, each the last node of its module."""
    constants = live.values.constants
    tail = {}
    for node in graph.program.graph.nodes:
        if node.op == "call_function" and module_of(node):
            tail[module_of(node)] = node
    return [
        node
        for node in constants
        if tail.get(module_of(node)) is node
        and _channels_second(graph, node)
        and node.op == "call_function"
        and node.meta["val"].dim() > 2
        and node.users
        and all(
            user not in constants
            and torch.Tag.pointwise in getattr(user.target, "tags", ())
            and len(user.all_input_nodes) > 1
            for user in node.users
        )
    ]


def _needed(graph: fx.Graph, stop: Iterable[fx.Node]) -> set[fx.Node]:
    """Nodes that an output needs when the nodes of `stop` are given; those are included."""
    stop = set(stop)
    stack = [next(iter(reversed(graph.nodes)))]
    needed: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            if node not in stop:
                stack.extend(node.all_input_nodes)
    return needed


def _narrow(becomes: dict[str, Any], graph: ChannelGraph, dead: Tensor) -> dict[str, Any]:
    """The entry without the channels that are removed, as plain data."""
    entry = dict(becomes)
    node = entry.pop("node", None)
    if node is not None:
        units = _written(graph, node)
        if units is not None:
            entry["values"] = [v for v, u in zip(entry["values"], units.tolist(), strict=True) if u < 0 or not dead[u]]
    return entry


def _written(graph: ChannelGraph, node: fx.Node) -> Tensor | None:
    """Units of a node's channels: those of the contraction it stems from through per-channel operators."""
    writer = _writer(graph, node)
    return None if writer is None else writer.written


def _writer(graph: ChannelGraph, node: fx.Node) -> Reader | None:
    readers = {reader.node: reader for reader in graph.readers}
    while node not in readers:
        inputs = [n for n in node.all_input_nodes if n.op == "call_function"]
        if not inputs:
            return None
        node = inputs[0]
    return readers[node]


def _channels_second(graph: ChannelGraph, node: fx.Node) -> bool:
    """A branch of convolutions; linear layers over tokens have their channels last, where no constant stands in."""
    writer = _writer(graph, node)
    return writer is None or (
        "linear" not in str(writer.node.target) and len(writer.written) == node.meta["val"].shape[1]
    )


# -- columns -----------------------------------------------------------------------------------------------------


def _columns(
    graph: ChannelGraph, live: Liveness, modules: dict[str, nn.Module], plans: dict[str, ModulePlan]
) -> dict[str, list[Any]]:
    """Module -> columns with a non-zero weight, in the cut layer's own positions, where some column has none."""
    found: dict[str, list[Any]] = {}
    for reader in graph.readers:
        name = reader.weight.rpartition(".")[0]
        module, plan = modules.get(name), plans.get(name, ModulePlan())
        plain = type(module) is nn.Linear or (
            type(module) is nn.Conv2d
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        )
        if not plain or plan.becomes is not None:
            continue
        weight = live.weights[reader.weight].detach()
        for axis, kept in plan.keep.get("weight", {}).items():
            weight = weight.index_select(axis, torch.tensor(kept, device=weight.device))
        used = (weight != 0).any(0)
        if not bool(used.all()):
            if not bool(used.any()):
                used.view(-1)[0] = True
            places = used.nonzero().tolist()
            found[name] = [p[0] for p in places] if weight.dim() == 2 else places
    return found
