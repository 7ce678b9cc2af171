"""Slimming by the second tracer: zeros, plan, cut, proof by trials, repair."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssl_prune.costs import Cost, cost
from ssl_prune.errors import SlimError
from ssl_prune.graph.fallback.autograd_graph import AutogradGraph
from ssl_prune.graph.fallback.tracer import by_autograd
from ssl_prune.slimming.fallback.liveness import Zeros, explain, zeros
from ssl_prune.slimming.fallback.trials import Trials, trial_inputs, watched
from ssl_prune.slimming.outcome.slim_report import Kept, SlimReport, _layers
from ssl_prune.slimming.plan.attributes import layer_attributes
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan
from ssl_prune.slimming.plan.planner import kept_positions
from ssl_prune.slimming.proof.outputs import Proof
from ssl_prune.utils.inputs import Inputs, as_call, evaluation, map_tensors

__all__ = ["sizes_left", "slim_by_autograd"]

Outcome = tuple[nn.Module, SlimPlan, Proof]


def slim_by_autograd(
    model: nn.Module, inputs: Inputs, exact: bool, tolerance: float, *, refusal: str
) -> tuple[nn.Module, SlimPlan, SlimReport]:
    """Cut a network that `torch.export` refuses.

    Constants are not folded, branches not replaced and columns not gathered here.

    Args:
        model: the network; it is left as it was.
        inputs: the example.
        exact: refuse what the trials do not confirm.
        tolerance: allowed relative difference of the outputs.
        refusal: why the first tracer refused.

    Raises:
        GraphError: this tracer fails too; the message has both reasons.
        SlimError: the network's own outputs are not finite, or differ from run to run.
    """
    graph = by_autograd(model, inputs, more=[trial for _, trial in trial_inputs(inputs)[1:]], refusal=refusal)
    trials = Trials(model, inputs, tolerance, _readers(graph, model), graph.boundaries)
    found = zeros(graph, model, trials.quiet)
    attempt = _Attempt(graph, model, trials)
    outcome, failure, removed = attempt(found.dead), None, found.dead
    proof = outcome[2]
    if not (proof.holds or (not exact and math.isfinite(proof.max_error))):
        failure = proof.failure
        removed, outcome = _repair(attempt, graph, found.dead)
    cut, plan, proof = outcome
    return cut, plan, _report(graph, model, cut, found, removed, proof, failure, inputs)


def sizes_left(graph: AutogradGraph, model: nn.Module, inputs: Inputs) -> tuple[Cost, Cost, Tensor]:
    """Costs before and after a cut at this moment, without proof, and (U,) the units it would remove."""
    with evaluation(model), watched(model, _readers(graph, model)) as quiet:
        run = {name: buffer.clone() for name, buffer in model.named_buffers()}
        torch.func.functional_call(model, run, *as_call(map_tensors(torch.clone, inputs)))
    dead = zeros(graph, model, quiet).dead
    before = cost(model, map_tensors(torch.clone, inputs))
    try:
        after = cost(_plan(graph, model, dead).apply(model), map_tensors(torch.clone, inputs))
    except Exception:  # positions that the graph ties wrongly; `slim` repairs that
        return before, before, torch.zeros_like(dead)
    return before, after, dead


def _readers(graph: AutogradGraph, model: nn.Module) -> list[str]:
    names = [layer.module for layer in graph.layers]
    return [name for name in names if not isinstance(model.get_submodule(name), nn.Embedding)]


class _Attempt:
    """Plan, apply and check a choice of units."""

    def __init__(self, graph: AutogradGraph, model: nn.Module, trials: Trials) -> None:
        self._graph, self._model, self._trials = graph, model, trials

    def __call__(self, dead: Tensor) -> Outcome:
        plan = _plan(self._graph, self._model, dead)
        cut = plan.apply(self._model)
        return cut, plan, self._trials.check(cut)


def _plan(graph: AutogradGraph, model: nn.Module, dead: Tensor) -> SlimPlan:
    modules = dict(model.named_modules(remove_duplicate=False))
    keep = kept_positions(graph, model, dead)
    plans = {name: ModulePlan(own, layer_attributes(modules[name], own)) for name, own in keep.items()}
    shapes = {n: list(t.shape) for n, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    return SlimPlan(plans, shapes)


def _repair(attempt: _Attempt, graph: AutogradGraph, dead: Tensor, depth: int = 4) -> tuple[Tensor, Outcome]:
    """What can be removed layer by layer; where a layer's units fail they are halved `depth` times, then kept."""
    accepted = torch.zeros_like(dead)
    best = attempt(accepted)
    if not best[2].holds:
        raise SlimError(
            f"even the unchanged network does not pass the proof: {best[2].failure}; is its forward random?"
        )
    families: dict[str, list[int]] = {}
    for unit in dead.nonzero().flatten().tolist():
        families.setdefault(graph.unit_layer[unit], []).append(unit)
    pending = [(torch.tensor(units), 0) for units in reversed(families.values())]
    while pending:
        part, halvings = pending.pop()
        trial = accepted.clone()
        trial[part] = True
        outcome = attempt(trial)
        if outcome[2].holds:
            accepted, best = trial, outcome
        elif len(part) > 1 and halvings < depth:
            middle = len(part) // 2
            pending += [(part[middle:], halvings + 1), (part[:middle], halvings + 1)]
    return accepted, best


def _report(
    graph: AutogradGraph,
    model: nn.Module,
    cut: nn.Module,
    found: Zeros,
    removed: Tensor,
    proof: Proof,
    failure: str | None,
    inputs: Inputs,
) -> SlimReport:
    before, after = (cost(network, map_tensors(torch.clone, inputs)) for network in (model, cut))
    counts: dict[str, int] = {}
    for unit in removed.nonzero().flatten().tolist():
        counts[graph.unit_layer[unit]] = counts.get(graph.unit_layer[unit], 0) + 1
    kept = explain(graph, model, found, removed)
    return SlimReport(
        (before.macs, after.macs),
        (before.params, after.params),
        (before.bytes, after.bytes),
        proof.max_error,
        counts,
        tuple(Kept(layer, count, reason) for (layer, reason), count in kept.items()),
        _layers([layer.weight for layer in graph.layers], model, cut, before, after),
        failure,
        tracer="torch-pruning",
        because=graph.refusal,
    )
