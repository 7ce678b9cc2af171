"""The compiler of networks that `torch.export` follows: their program tells what is constant and what is needed."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ssl_prune.slimming.analysis.expert_orders import expert_orders
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.kept import Kept
from ssl_prune.slimming.modules.materialized import computing_layers
from ssl_prune.slimming.outcome.kept_reasons import explain_kept
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan
from ssl_prune.slimming.plan.rounding import practical_widths
from ssl_prune.slimming.plan.training_mode import branches_may_go, held_in_training
from ssl_prune.slimming.proof.candidate import Attempt, Outcome
from ssl_prune.slimming.proof.outputs import Proof
from ssl_prune.slimming.proof.repair import repair
from ssl_prune.slimming.protocol import Compiler
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import evaluation

__all__ = ["ProgramCompiler"]


class ProgramCompiler(Compiler):
    """Liveness, then widths; the rest is done when it is asked for.

    Args:
        subject: the network.
        settings: how to cut.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self.subject, self._settings = subject, settings
        self.weights = [reader.weight for reader in subject.graph.readers if reader.weight is not None]
        live = liveness(subject)
        branches = not settings.training or branches_may_go(live)
        held = held_in_training(live, branches) if settings.training else None
        columns = None if settings.training else settings.columns
        whole = Attempt(live, settings.tolerance, columns, branches, widths=held)
        self._live, self._dead = live, whole.without(None)
        self._first, self._reasons = _rounded(whole, self._dead, settings)

    @property
    def slow(self) -> bool:
        """By its operators."""
        return self._first.expected.slow

    @property
    def spent(self) -> float:
        """Of all attempts together."""
        return self._first.effort.spent

    @property
    def rewrites(self) -> list[dict[str, ModulePlan]]:
        """Layers that are one product with a weight of their own making, and hidden units of experts in another order."""
        if self._settings.training:
            return []
        computing = computing_layers(self.subject.graph.program, self.subject.model)
        plain = {name: ModulePlan(becomes={"kind": "Plain"}) for name in computing}
        orders: dict[str, dict[str, Any]] = {}
        for order in expert_orders(self.subject):
            owner, _, leaf = order.name.rpartition(".")
            orders.setdefault(owner, {})[leaf] = {"axis": order.axis, "rows": order.rows}
        return [each for each in (plain, {name: ModulePlan(ordered=own) for name, own in orders.items()}) if each]

    @property
    def changes_anything(self) -> bool:
        """Whether there is something to cut or to write in another way."""
        return self._first.changes_anything

    def dead(self) -> Tensor:
        """What reaches no output, without what widths and training need."""
        return self._first.without(None)

    def plan(self, dead: Tensor) -> SlimPlan:
        """Survivors of every axis, folds, forms of kernels, and what modules become."""
        return self._first.plan(dead)

    def prove(self) -> Iterator[tuple[Tensor, Outcome]]:
        """By outputs, then by every value on the way."""
        for attempt in self._first.simpler():
            dead = attempt.without(None)
            yield dead, attempt(dead)

    def repair(self, whole: Outcome) -> tuple[Tensor, Outcome]:
        """Keep what the first code to go wrong handles."""
        return repair(self._first, whole)

    def compare(self, cut: nn.Module) -> Proof:
        """On the example and other inputs."""
        return self._first.compare(cut)

    def explain(self, dead: Tensor, gone: Collection[str]) -> tuple[Kept, ...]:
        """By what reads each zero, and what it finds there."""
        return explain_kept(self._live, dead, gone, self._reasons)


def _rounded(whole: Attempt, dead: Tensor, settings: Settings) -> tuple[Attempt, Mapping[int, str]]:
    """The way to cut at practical widths, and why it keeps which dead units."""
    with evaluation(whole.subject.model):
        widths = practical_widths(whole.live, dead, settings.round_to, branches=bool(whole.branches))
    narrow = dead & ~widths.dead
    first = replace(whole, widths=narrow if whole.widths is None else narrow | whole.widths)
    followers = (dead & ~first.without(None)).nonzero().flatten().tolist()
    return first, {
        unit: widths.reasons.get(unit, "a channel kept for its layer's width reads it") for unit in followers
    }
