"""One way to cut a network, and the simpler ways beside it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, fx, nn

from ssl_prune.slimming.analysis.liveness import Liveness, needed
from ssl_prune.slimming.plan.attributes import ambiguous_attributes
from ssl_prune.slimming.plan.kernel_forms import Choice, cropped, fastest, smallest
from ssl_prune.slimming.plan.one_number import evened
from ssl_prune.slimming.plan.plan import SlimPlan
from ssl_prune.slimming.plan.planner import make_plan, removable
from ssl_prune.slimming.proof.inner_values import InnerDifferenceError, inner_difference
from ssl_prune.slimming.proof.outputs import Expected, Proof, verify
from ssl_prune.slimming.subject import Subject
from ssl_prune.slimming.work import Effort, is_large

__all__ = ["Attempt", "Outcome"]


_OTHERS = ("Identity", "Constant", "Uneven", "Attention", "ResponseNorm")


class Outcome(NamedTuple):
    """A cut network, its plan, and what the comparison found.

    The network shares with the dense one what was not cut. `different` is the first node of the dense program whose
    value is not the same, where the outputs are.
    """

    model: nn.Module
    plan: SlimPlan
    proof: Proof
    different: fx.Node | None = None


@dataclass(frozen=True)
class Attempt:
    """One way to cut: plan, apply, verify for a choice of dead units.

    Args:
        live: the network, and what is needed of it.
        tolerance: allowed relative difference of the outputs.
        columns: as in `slim`; None leaves every kernel as it is.
        branches: modules may become others: whole constant branches go, recurrent layers may be uneven; "whole": such
            a branch becomes a constant at every position.
        guess: change numbers in the user's own modules that look like widths, see `guessed_attributes`.
        even: keep more where one number of a module may state several widths, see `evened`.
        widths: ``(U,)`` dead units that stay for the sake of a width, or of training; None: none.
    """

    live: Liveness
    tolerance: float
    columns: bool | Literal["measured"] | None
    branches: bool | Literal["whole"] = True
    guess: bool | str = True
    even: bool = False
    widths: Tensor | None = None
    _shared: list[tuple[Expected, Effort]] = field(default_factory=list)  # one for all attempts made from this one
    _measured: dict[bytes, SlimPlan] = field(default_factory=dict, init=False)  # of dead units, by what was timed once

    def __call__(self, dead: Tensor) -> Outcome:
        """Cut, compare the outputs, then every value on the way."""
        outcome = self.by_outputs(dead)
        return self.inspected(dead, outcome) if outcome.proof.holds else outcome

    def by_outputs(self, dead: Tensor) -> Outcome:
        """Cut and compare the outputs alone: half a proof."""
        plan = self.plan(dead)
        cut = plan.apply(self.subject.model, shared=True)
        before = self.expected.taken
        proof = self.compare(cut)
        self.effort.cut(self.expected.taken - before)
        return Outcome(cut, plan, proof)

    def compare(self, cut: nn.Module) -> Proof:
        """The outputs of another network beside those of this one."""
        return verify(self.subject.model, cut, self.subject.inputs, self.tolerance, self.expected)

    @property
    def subject(self) -> Subject:
        """The network."""
        return self.live.subject

    @property
    def expected(self) -> Expected:
        """Trial inputs, and the outputs of the network on them."""
        return self._both[0]

    @property
    def effort(self) -> Effort:
        """The work that has gone into attempts to cut this network."""
        return self._both[1]

    def inspected(self, dead: Tensor, outcome: Outcome) -> Outcome:
        """The other half: compare every value on the way."""
        different = self.look_inside(dead, outcome.plan, outcome.model)
        if different is None:
            return outcome
        proof = Proof(outcome.proof.max_error, str(different))
        return outcome._replace(proof=proof, different=different.node)

    def simpler(self) -> Iterator["Attempt"]:
        """This way, then those that change less: numbers in modules, branches, columns, crops."""
        yield self
        dead = self.without(None)
        plan = self.plan(dead)
        plain, wide = replace(self, columns=None), replace(self, columns=None, guess="wide")
        if self.guess is True and wide.plan(dead) != plain.plan(dead):
            yield replace(self, guess="wide")
        for name in ambiguous_attributes(self.subject, dead) if self.guess is True else []:
            yield replace(self, guess=name)
        even = replace(self, even=True)
        if not torch.equal(even.without(None), dead):
            yield even
        attempt = self
        if any(m.attributes and not m.keep for m in plan.modules.values()):
            attempt = replace(attempt, guess=False)
            yield attempt
        if any(m.becomes is not None and m.becomes["kind"] in ("Identity", "Constant") for m in plan.modules.values()):
            yield replace(self, branches="whole")
        if any(m.becomes is not None and m.becomes["kind"] in _OTHERS for m in plan.modules.values()):
            attempt = replace(attempt, branches=False)
            yield attempt
        for columns in (False, None):
            plain = replace(attempt, columns=columns)
            if columns != attempt.columns and plain.plan(dead) != plan:
                attempt = plain
                yield attempt

    @property
    def changes_anything(self) -> bool:
        """Whether there is something to cut or to write in another way."""
        return bool(self.plan(self.without(None)).modules)

    def plan(self, dead: Tensor) -> SlimPlan:
        """Survivors of every axis, folds, forms of kernels, and what modules become."""
        make = partial(make_plan, self.live, dead, branches=self.branches, choose=self._choose, guess=self.guess)
        if self.columns != "measured":
            return make()
        key = dead.cpu().numpy().tobytes()
        if key not in self._measured:  # times differ from one measurement to the next
            self._measured[key] = make()
        return self._measured[key]

    def without(self, keep: Tensor | None) -> Tensor:
        """``(U,)`` what may go when some units are kept."""
        if self.widths is not None and bool(self.widths.any()):
            keep = self.widths if keep is None else keep | self.widths
        while True:
            dead = removable(self.live, bool(self.branches), keep)
            more = evened(self.subject.graph, ~dead) if self.even else torch.zeros_like(dead)
            if not bool(more.any()):
                return dead
            keep = more if keep is None else keep | more

    def look_inside(self, dead: Tensor, plan: SlimPlan, cut: nn.Module) -> InnerDifferenceError | None:
        """The first inner value that differs, of this cut or, where modules become others, of the one that keeps them."""
        if not bool(dead.any()):
            return None
        if any(m.becomes is not None for m in plan.modules.values()):
            dead = removable(self.live, False, ~dead)
            cut = replace(self, branches=False, columns=None).plan(dead).apply(self.subject.model, shared=True)
        self.effort.look()
        precision = max(
            (torch.finfo(p.dtype).eps for p in self.subject.model.parameters() if p.is_floating_point()), default=0
        )
        allowed = max(10 * self.tolerance, 100 * precision)
        return inner_difference(self.subject, cut, dead, needed(self.live, dead), allowed)

    @property
    def _both(self) -> tuple[Expected, Effort]:
        if not self._shared:
            program = self.subject.graph.program
            expected = Expected(self.subject.model, self.subject.inputs, is_large(program))
            self._shared.append((expected, Effort(program)))
        return self._shared[0]

    @property
    def _choose(self) -> Choice | None:
        if self.columns is None:
            return None
        if self.columns == "measured":
            return partial(fastest, self.subject)
        return smallest if self.columns else cropped
