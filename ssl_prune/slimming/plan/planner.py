"""From liveness to a plan: survivors of every axis, folds, attributes, and branches that disappear."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.graph.export.response_norms import ResponseNormalisation, response_norms
from ssl_prune.slimming.analysis.dead_branches import constant_branches, gone_modules, without_channels
from ssl_prune.slimming.analysis.liveness import Liveness, Obstacle, connected, with_kept
from ssl_prune.slimming.analysis.rectangular import regular
from ssl_prune.slimming.modules.constant import Constant
from ssl_prune.slimming.modules.pruned_attention import attention_plan
from ssl_prune.slimming.modules.uneven_rnn import is_uneven
from ssl_prune.slimming.plan.attributes import guessed_attributes, layer_attributes
from ssl_prune.slimming.plan.kernel_forms import Choice, forms
from ssl_prune.slimming.plan.plan import Fold, ModulePlan, SlimPlan, shapes_of
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.tensors import named_tensors

__all__ = ["folded", "kept_positions", "make_plan", "places", "removable"]


def removable(live: Liveness, branches: bool, keep: Tensor | None = None) -> Tensor:
    """``(U,)`` units to remove: the dead ones, but never the last position of a layer that stays.

    Args:
        live: what is needed.
        branches: modules may become others: whole constant branches go, so that their layers need not keep a last
            position, and layers of one recurrent module may keep unequal numbers of units.
        keep: ``(U,)`` units that are kept in any case.
    """
    graph = live.subject.graph
    gone = gone_modules(live) if branches else frozenset()
    axes = [a for a in (*graph.axes, *graph.buffers) if a.name.rpartition(".")[0] not in gone]
    kept = torch.zeros_like(live.alive) if keep is None else keep.clone()
    alive = live.alive if keep is None else with_kept(live, kept)
    while True:
        for axis in axes:
            if not bool(torch.where(axis.units >= 0, (alive | kept)[axis.units], True).any()):
                kept[axis.units[0]] = True
        for obstacle in live.obstacles:
            if obstacle.reader.module not in gone:
                _absorber(obstacle, live, alive, kept)
        kept |= regular(graph, alive | kept, level=not branches)
        grown = with_kept(live, kept)
        if torch.equal(grown, alive):
            return ~alive
        alive = grown


def _absorber(obstacle: Obstacle, live: Liveness, alive: Tensor, kept: Tensor) -> None:
    """Where constants must go into another channel's weights, keep one channel that carries a constant."""
    reader = obstacle.reader
    if not bool(obstacle.absorbable.any()) or reader.weight is None:
        return
    stays, needed = (torch.cat([mask, torch.ones(1, dtype=torch.bool)]) for mask in (alive | kept, alive))
    homeless = obstacle.absorbable & ~stays[reader.read]
    if bool((obstacle.steady & stays[reader.read]).any()) or not bool(homeless.any()):
        return
    homeless &= connected(reader, live.weights[reader.weight], needed[reader.written])
    if bool(homeless.any()):
        size = torch.where(homeless, obstacle.seen.constant.cpu().abs(), -1)
        kept[reader.read[int(size.argmax())]] = True


def make_plan(
    live: Liveness,
    dead: Tensor,
    *,
    branches: bool | Literal["whole"],
    choose: Choice | None,
    guess: bool | str = True,
) -> SlimPlan:
    """The plan that removes the `dead` units.

    Args:
        live: the network, what is needed, and the constants that must be folded.
        dead: ``(U,)`` units to remove, no more than `removable` says.
        branches: replace whole constant branches by the constant they add; "whole": at all of its positions.
        choose: of the plan so far and the forms of layers with all-zero columns, the plan of each such layer; None
            leaves the zeros in their kernels.
        guess: change numbers in the user's own modules that look like widths, see `guessed_attributes`.
    """
    subject, graph = live.subject, live.subject.graph
    modules = dict(subject.model.named_modules(remove_duplicate=False))
    becomes = constant_branches(live, whole=branches == "whole") if branches else {}
    keep = kept_positions(subject, dead)
    plans: dict[str, ModulePlan] = {}
    folds = {o.reader.weight.rpartition(".")[0]: folded(o, live, dead) for o in live.obstacles if o.reader.weight}
    groups = _groups(graph, modules, dead)
    guesses = guessed_attributes(subject, dead, guess) if guess else {}
    owners = dict.fromkeys(name.removesuffix(".out_proj") for name in keep)
    forms_of = {name: attention_plan(modules[name], keep.get(name, {})) for name in owners if name in graph.whole}
    attention = {name: form for name, form in forms_of.items() if form is not None}
    responses = {each.module: each for each in response_norms(graph.program)}
    for name in dict.fromkeys([*keep, *becomes, *attention, *groups, *guesses, *(n for n, f in folds.items() if f)]):
        if name in becomes:
            entry = without_channels(becomes[name], graph, dead)
            if not _is_already(modules[name], entry):
                plans[name] = ModulePlan(becomes=entry)
        else:
            own = keep.get(name, {})
            fold = folds.get(name)
            if fold and fold.into is None and modules[name].bias is None and 0 in own.get("weight", {}):
                own["bias"] = {0: own["weight"][0]}  # the fold makes a bias as long as the dense layer's
            if name in attention:
                plans[name] = ModulePlan(own, becomes=attention[name])
                continue
            if name in responses and own:
                plans[name] = ModulePlan(own, becomes=_response_norm(modules[name], responses[name]))
                continue
            if is_uneven(modules[name], own):
                plans[name] = ModulePlan(own, becomes={"kind": "Uneven"})
                continue
            attributes = {**layer_attributes(modules[name], own, groups.get(name)), **guesses.get(name, {})}
            plans[name] = ModulePlan(own, attributes, folds.get(name), grouped=groups.get(name))
    shapes = shapes_of(subject.model)
    plan = SlimPlan(plans, shapes)
    if choose is not None:
        plans |= choose(plan, forms(live, plans))
    return SlimPlan({name: own for name, own in plans.items() if own != ModulePlan()}, shapes)


def _is_already(module: nn.Module, entry: dict[str, Any]) -> bool:
    """A module that an earlier cut has replaced, or emptied of all its layers."""
    if isinstance(module, Constant):
        return entry["kind"] == "Constant" and module.value.numel() == len(entry["values"])
    return entry["kind"] == "Identity" and next(module.children(), None) is not None


def _response_norm(module: nn.Module, found: ResponseNormalisation) -> dict[str, Any]:
    entry = {**found._asdict(), "axes": sorted(found.axes), "eps": [found.eps]}
    del entry["node"], entry["module"]
    return {"kind": "ResponseNorm", "width": module.get_parameter(found.scale).numel(), **entry}


def kept_positions(subject: Subject, dead: Tensor) -> dict[str, dict[str, dict[int, list[int]]]]:
    """Module -> own tensor -> axis -> positions that stay when the `dead` units go, where not all do."""
    keep: dict[str, dict[str, dict[int, list[int]]]] = {}
    where = places(subject.model)
    for axis in (*subject.graph.axes, *subject.graph.buffers):
        stays = torch.where(axis.units >= 0, ~dead[axis.units], True)
        if bool(stays.all()):
            continue
        for name in where[axis.name]:
            owner, _, leaf = name.rpartition(".")
            keep.setdefault(owner, {}).setdefault(leaf, {})[axis.axis] = stays.nonzero().flatten().tolist()
    return keep


def places(model: nn.Module) -> dict[str, list[str]]:
    """Every name of a tensor -> all the places where a tied one stands."""
    names: dict[int, list[str]] = {}
    # A module under two names is one module, cut once.
    for owner, module in model.named_modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                names.setdefault(id(tensor), []).append(f"{owner}.{leaf}" if owner else leaf)
    return {name: names[id(tensor)] for name, tensor in named_tensors(model).items()}


def _groups(graph: ChannelGraph, modules: dict[str, nn.Module], dead: Tensor) -> dict[str, dict[str, Any]]:
    """Positions on the second axis that stay in each group of the grouped convolutions, where some go."""
    stays = torch.cat([~dead, torch.ones(1, dtype=torch.bool)])
    found: dict[str, dict[str, Any]] = {}
    for reader in graph.readers:
        if not reader.grouped or reader.weight is None or bool(stays[reader.read].all() & stays[reader.written].all()):
            continue
        # The second axis of a weight runs over what a group reads; of a transposed one, over what it writes.
        inside = stays[reader.read if reader.in_axis == 1 else reader.written].view(reader.groups, -1)
        found[reader.weight.rpartition(".")[0]] = {
            "groups": reader.groups,
            "columns": [row.nonzero().flatten().tolist() for row in inside],
        }
    return found


def folded(obstacle: Obstacle, live: Liveness, dead: Tensor) -> Fold | None:
    """What a reader takes in when the `dead` units go: into its bias, or into the weights of another constant channel."""
    reader, constant = obstacle.reader, obstacle.seen.constant.cpu()
    goes = torch.cat([dead, torch.zeros(1, dtype=torch.bool)])  # unit -1 never goes
    gone = goes[reader.read]
    carries = gone & obstacle.steady & ~obstacle.unfoldable
    if reader.weight is None or not bool(carries.any()):
        return None
    carries &= connected(reader, live.weights[reader.weight], ~goes[reader.written])
    channels = carries.nonzero().flatten().tolist()
    if not channels:
        return None
    if not bool(obstacle.absorbable[carries].any()):
        return Fold(channels, constant[carries].tolist())
    stays = torch.where(obstacle.steady & ~gone, constant.abs(), -1)
    into = int(stays.argmax())
    if stays[into] < 0:
        return None  # nothing that is needed reads these constants
    return Fold(channels, (constant[carries] / constant[into]).tolist(), into)
