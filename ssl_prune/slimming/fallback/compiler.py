"""The compiler of networks that only the second tracer follows: zeros, plan, cut, proof by trials, repair."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from ssl_prune.costs import Cost
from ssl_prune.errors import SlimError
from ssl_prune.graph.fallback.autograd_graph import AutogradGraph
from ssl_prune.slimming.analysis.zero_structures import zero_structures
from ssl_prune.slimming.fallback.liveness import explain, zeros
from ssl_prune.slimming.fallback.trials import Trials, watched
from ssl_prune.slimming.kept import Kept
from ssl_prune.slimming.plan.attributes import layer_attributes
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan, shapes_of
from ssl_prune.slimming.plan.planner import kept_positions
from ssl_prune.slimming.proof.candidate import Outcome
from ssl_prune.slimming.proof.outputs import Proof
from ssl_prune.slimming.protocol import Compiler
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import evaluation

__all__ = ["TrialCompiler", "sizes_left"]

HALVINGS = 4


class TrialCompiler(Compiler):
    """Constants are not folded, branches not replaced and columns not gathered here.

    Args:
        subject: the network, with an `AutogradGraph`.
        settings: how to cut; only the tolerance counts.

    Raises:
        SlimError: the network's own outputs are not finite.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        graph = _graph_of(subject)
        self.subject = subject
        self.weights = [layer.weight for layer in graph.layers]
        self._trials = Trials(subject.model, subject.inputs, settings.tolerance, _readers(subject), graph.boundaries)
        self._found = zeros(graph, subject.tensors, self._trials.quiet)

    def dead(self) -> Tensor:
        """What is zero in the weights, or was in every trial."""
        return self._found.dead

    def plan(self, dead: Tensor) -> SlimPlan:
        """Survivors of every axis."""
        return _plan(self.subject, dead)

    def prove(self) -> Iterator[tuple[Tensor, Outcome]]:
        """By trials; there is one way."""
        yield self.dead(), self._attempt(self.dead())

    def repair(self, whole: Outcome) -> tuple[Tensor, Outcome]:
        """What can be removed layer by layer; where a layer's units fail they are halved a few times, then kept."""
        accepted = torch.zeros_like(self.dead())
        best = self._attempt(accepted)
        if not best.proof.holds:
            raise SlimError(
                f"even the unchanged network does not pass the proof: {best.proof.failure}; is its forward random?"
            )
        families: dict[str, list[int]] = {}
        for unit in self.dead().nonzero().flatten().tolist():
            families.setdefault(self.subject.graph.unit_layer[unit], []).append(unit)
        pending = [(torch.tensor(units), 0) for units in reversed(families.values())]
        while pending:
            part, halvings = pending.pop()
            trial = accepted.clone()
            trial[part] = True
            outcome = self._attempt(trial)
            if outcome.proof.holds:
                accepted, best = trial, outcome
            elif len(part) > 1 and halvings < HALVINGS:
                middle = len(part) // 2
                pending += [(part[middle:], halvings + 1), (part[:middle], halvings + 1)]
        return accepted, best

    def compare(self, cut: nn.Module) -> Proof:
        """In every trial."""
        return self._trials.check(cut)

    def explain(self, dead: Tensor, gone: Collection[str]) -> tuple[Kept, ...]:
        """From the weights and the trials."""
        structures = zero_structures(self.subject, dead, ())
        kept = explain(_graph_of(self.subject), structures, self._found, dead)
        return tuple(Kept(layer, count, reason) for (layer, reason), count in kept.items())

    def _attempt(self, dead: Tensor) -> Outcome:
        plan = self.plan(dead)
        cut = plan.apply(self.subject.model, shared=True)
        return Outcome(cut, plan, self.compare(cut))


def sizes_left(subject: Subject) -> tuple[Cost, Cost, Tensor]:
    """Costs before and after a cut at this moment, without proof, and ``(U,)`` the units it would remove."""
    with evaluation(subject.model), watched(subject.model, _readers(subject)) as quiet:
        subject.run()
    dead = zeros(_graph_of(subject), subject.tensors, quiet).dead
    before = subject.cost()
    try:
        cut = _plan(subject, dead).apply(subject.model, shared=True)
        after = Subject(subject.graph, cut, subject.inputs).cost()
    except Exception:  # positions that the graph ties wrongly; `slim` repairs that
        return before, before, torch.zeros_like(dead)
    return before, after, dead


def _graph_of(subject: Subject) -> AutogradGraph:
    assert isinstance(subject.graph, AutogradGraph)  # for the type checker: whoever chose this compiler has asked
    return subject.graph


def _readers(subject: Subject) -> list[str]:
    names = [layer.module for layer in _graph_of(subject).layers]
    return [name for name in names if not isinstance(subject.model.get_submodule(name), nn.Embedding)]


def _plan(subject: Subject, dead: Tensor) -> SlimPlan:
    keep = kept_positions(subject, dead)
    plans = {
        name: ModulePlan(own, layer_attributes(subject.model.get_submodule(name), own)) for name, own in keep.items()
    }
    return SlimPlan(plans, shapes_of(subject.model))
