"""The repair of a cut that does not pass the proof: keep what the code that went wrong handles, then try to win back."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph
from ssl_prune.graph.export.program import module_of
from ssl_prune.slimming.proof.candidate import Attempt, Outcome
from ssl_prune.slimming.proof.localize import first_difference, units_at, units_in_scope

__all__ = ["repair"]

ROUNDS = 12
# Work, in multiply-accumulates: what else the machine does changes no result. A core makes about 2e10 a second.
SEARCH = 3e11  # until a cut must have been found that holds
WIN_BACK = 1e11  # for more than that
PATIENCE = 10  # parts in a row that cannot be won back
FEW = 2  # modules of one class that may go wrong one by one


def repair(attempt: Attempt, whole: Outcome) -> tuple[Tensor, Outcome]:
    """The largest cut that can be found in bounded work: keep what the first module to differ handles, until it holds.

    Modules of one class run the same code: what goes wrong in one is kept in all of them. What was kept for that is then
    tried again, layer by layer. In the end fewer units go, never wrong ones.

    Args:
        attempt: how to cut.
        whole: what came of it when nothing was kept.
    """
    none = torch.zeros_like(attempt.live.alive)
    measured = attempt.columns == "measured"
    if measured:
        attempt = replace(attempt, columns=False)  # forms are timed once, in the end
    found = _search(attempt, whole, SEARCH, kin=True)
    if found is None:
        attempt = replace(attempt, branches=False, columns=None, guess=False)
        keep = torch.ones_like(none)
        dead = attempt.without(keep)
        outcome = attempt(dead)
        if not outcome.proof.holds:
            raise SlimError(
                f"even the unchanged network does not pass the proof: {outcome.proof.failure}; is its forward random?"
            )
    else:
        keep, dead, outcome = found
        alone = _search(attempt, whole, WIN_BACK / 2, kin=False)  # perhaps few modules of a class went wrong
        if alone is not None and int(alone[1].sum()) > int(dead.sum()):
            keep, dead, outcome = alone
        del alone, found
    del whole  # each holds a network
    dead, outcome = _win_back(attempt, keep & attempt.without(none), dead, outcome)
    if measured and attempt.columns is not None:
        timed = replace(attempt, columns="measured")(dead)
        outcome = timed if timed.proof.holds else outcome
    return dead, outcome


def _search(attempt: Attempt, whole: Outcome, work: float, kin: bool) -> tuple[Tensor, Tensor, Outcome] | None:
    """What is kept, what goes and the cut, once it holds; None if it does not come to that."""
    until = attempt.effort.spent + work
    keep = torch.zeros_like(attempt.live.alive)
    blamed: Counter[type] = Counter()
    for _ in range(ROUNDS):
        dead = attempt.without(keep)
        outcome = attempt(dead) if bool(keep.any()) else whole
        if outcome.proof.holds:
            return keep, dead, outcome
        suspects, module = _suspects(attempt, outcome, dead, kin)
        if not bool(suspects.any()) or attempt.effort.spent > until:
            return None
        keep |= suspects
        if not kin and not _is_container(module):
            blamed[type(module)] += 1
            if blamed[type(module)] > FEW:
                return None  # it is the code of the class, as `kin` takes it to be
    return None


def _suspects(attempt: Attempt, outcome: Outcome, dead: Tensor, kin: bool) -> tuple[Tensor, nn.Module]:
    """``(U,)`` dead units that the first code to go wrong handles, there and, as `kin`, in all modules of its class; and
    the module."""
    graph, model, found = attempt.subject.graph, attempt.subject.model, torch.zeros_like(dead)
    if math.isfinite(outcome.proof.max_error):  # it runs: its values can be looked at one by one
        node = outcome.different
        if node is None:
            different = attempt.look_inside(dead, outcome.plan, outcome.model)
            node = None if different is None else different.node
        if node is not None:
            for near in _counterparts(graph, model, node) if kin else (node,):
                found |= units_at(graph, near) & dead
            if bool(found.any()):
                return found, model.get_submodule(module_of(node))
    blamed, module = first_difference(attempt.subject, outcome.model, attempt.tolerance), model
    while blamed is not None and not bool(found.any()):
        module = model.get_submodule(blamed)
        for name in _of_its_class(model, blamed) if kin else (blamed,):
            found |= units_in_scope(graph, name) & dead
        blamed = blamed.rpartition(".")[0] if blamed else None
    return found, module


def _of_its_class(model: nn.Module, name: str) -> list[str]:
    """Names of all modules that run the code of module `name`; a container of PyTorch's own has none of its own."""
    here = model.get_submodule(name)
    if _is_container(here):
        return [name]
    return [other for other, module in model.named_modules() if type(module) is type(here)]


def _is_container(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _counterparts(graph: ChannelGraph, model: nn.Module, node: fx.Node) -> Iterator[fx.Node]:
    """The node, and those that stand at its place in the code of other modules of its class."""
    nodes: dict[str, list[fx.Node]] = {}
    for other in graph.program.graph.nodes:
        nodes.setdefault(module_of(other), []).append(other)
    here = module_of(node)
    place = nodes[here].index(node)
    for name in _of_its_class(model, here):
        there = nodes.get(name, [])
        if len(there) == len(nodes[here]) and there[place].target == node.target:
            yield there[place]
    yield node


def _win_back(attempt: Attempt, kept: Tensor, dead: Tensor, best: Outcome) -> tuple[Tensor, Outcome]:
    """Remove as much of what was `kept` as proves to be removable before the work is done that it is worth."""
    # Outputs tell most of what goes wrong, and inner values cost more: they are looked at once, in the end.
    more, outcome = _part_by_part(attempt, attempt.by_outputs, kept, dead, best)
    if outcome is best:
        return dead, best
    outcome = attempt.inspected(more, outcome)
    return (more, outcome) if outcome.proof.holds else _part_by_part(attempt, attempt, kept, dead, best)


def _part_by_part(
    attempt: Attempt, tried: Callable[[Tensor], Outcome], kept: Tensor, dead: Tensor, best: Outcome
) -> tuple[Tensor, Outcome]:
    """Layers of one name in all blocks together, then halves of what fails."""
    until = attempt.effort.spent + WIN_BACK
    families: dict[str, list[int]] = {}
    for unit in kept.nonzero().flatten().tolist():
        families.setdefault(re.sub(r"\b\d+\b", "#", attempt.subject.graph.unit_layer[unit]), []).append(unit)
    parts = [torch.tensor(units) for units in families.values()]
    if len(parts) == 1 and len(parts[0]) > 1:  # the whole has failed before
        parts = list(parts[0].tensor_split(2))
    parts.sort(key=len)
    failures = 0
    while parts and failures < max(PATIENCE, len(families)) and attempt.effort.spent < until:
        part = parts.pop()
        trial_keep = kept.clone()
        trial_keep[part] = False
        trial = attempt.without(trial_keep)
        if torch.equal(trial, dead):
            continue
        outcome = tried(trial)
        if outcome.proof.holds:
            kept, dead, best, failures = trial_keep, trial, outcome, 0
            continue
        del outcome  # it holds a network
        failures += 1
        if len(part) > 1:
            parts[:0] = part.tensor_split(2)  # after all other families
    return dead, best
