"""`slim`: values, liveness, plan, cut, proof, repair."""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.inputs import Inputs, evaluation
from ssl_prune.slimming.blame import first_difference, units_at, units_in_scope
from ssl_prune.slimming.inner import InnerDifferenceError, inner_difference
from ssl_prune.slimming.liveness import Liveness, liveness, needed
from ssl_prune.slimming.plan import SlimPlan
from ssl_prune.slimming.planner import make_plan, removable
from ssl_prune.slimming.report import SlimReport, make_report
from ssl_prune.slimming.verify import Proof, verify

__all__ = ["SlimResult", "slim"]


@dataclass(frozen=True)
class SlimResult:
    """A slim network with the plan that made it and the report of what happened."""

    model: nn.Module
    plan: SlimPlan
    report: SlimReport


def slim(
    model: nn.Module,
    example_inputs: Inputs,
    exact: bool = True,
    tolerance: float = 1e-4,
    *,
    columns: bool = False,
    graph: ChannelGraph | None = None,
) -> SlimResult:
    r"""Cut a network with zeros down to what its outputs need, and prove that they stay the same.

    The slim network g satisfies max|f(x) − g(x)| ≤ tolerance · max|f(x)| in evaluation mode, on the example, on fresh
    inputs and on another batch size. What cannot be removed exactly is kept, and the report names it and the reason.

    Args:
        model: the network; it is left as it was.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        exact: refuse what the proof does not confirm. With False the cut is returned whatever its error is, and the
            report states the error.
        tolerance: allowed relative difference of the outputs.
        columns: also turn layers with all-zero columns (dead input features, dead kernel positions) into dense layers
            over the columns that are left. They are faster when few are left; see `ColumnConv2d`.
        graph: the channel graph, if it was traced before on inputs of the same shapes.

    Returns:
        The slim network (ordinary modules, same class), the plan and the report.

    Raises:
        GraphError: the network cannot be traced on this example.
        SlimError: the network's own outputs are not finite.
        TypeError: `example_inputs` is not a tensor, tuple or dict.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[0].weight[:5].zero_(), net[0].bias[:5].zero_()
        >>> slim(net, torch.randn(1, 4)).model[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance: got {tolerance}, expected a number of at least 0, for example 1e-4")
    graph = graph if graph is not None else trace(model, example_inputs)
    with evaluation(model):
        live = liveness(graph, model, example_inputs)
    best: tuple[nn.Module, SlimPlan, Proof] | None = None
    failure: str | None = None
    first = _Attempt(graph, model, live, example_inputs, tolerance, branches=True, columns=columns, guess=True)
    for attempt in (
        first,
        replace(first, guess=False),
        replace(first, guess=False, branches=False),
        replace(first, guess=False, branches=False, columns=False),
    ):
        dead = removable(graph, live, attempt.branches)
        cut, plan, proof = attempt(dead)
        if proof.holds or (not exact and math.isfinite(proof.max_error)):
            best = (cut, plan, proof)
            break
        failure = failure or proof.failure
        if attempt is first and not _anything_to_change(plan):
            break
    if best is None:
        dead, best = _repair(first)
    cut, plan, proof = best
    return SlimResult(cut, plan, make_report(graph, model, cut, live, dead, proof, failure, example_inputs))


@dataclass(frozen=True)
class _Attempt:
    """One way to cut: plan, apply, verify for a choice of dead units."""

    graph: ChannelGraph
    model: nn.Module
    live: Liveness
    inputs: Inputs
    tolerance: float
    branches: bool
    columns: bool
    guess: bool

    def __call__(self, dead: Tensor) -> tuple[nn.Module, SlimPlan, Proof]:
        plan = make_plan(
            self.graph, self.model, self.live, dead, branches=self.branches, columns=self.columns, guess=self.guess
        )
        cut = plan.apply(self.model)
        proof = verify(self.model, cut, self.inputs, self.tolerance)
        if proof.holds:
            different = self.look_inside(dead, plan, cut)
            if different is not None:
                proof = Proof(proof.max_error, str(different))
        return cut, plan, proof

    def look_inside(self, dead: Tensor, plan: SlimPlan, cut: nn.Module) -> InnerDifferenceError | None:
        """The first inner value that differs, of this cut or, where modules become others, of the one that keeps them."""
        if not bool(dead.any()):
            return None
        if any(m.becomes is not None for m in plan.modules.values()):
            other = removable(self.graph, self.live, False, ~dead)
            plan = make_plan(self.graph, self.model, self.live, other, branches=False, columns=False, guess=self.guess)
            dead, cut = other, plan.apply(self.model)
        precision = max((torch.finfo(p.dtype).eps for p in self.model.parameters() if p.is_floating_point()), default=0)
        allowed = max(10 * self.tolerance, 100 * precision)
        return inner_difference(self.graph, self.model, cut, dead, needed(self.live, dead), self.inputs, allowed)

    def without(self, keep: Tensor) -> Tensor:
        """(U,) what may go when some units are kept."""
        return removable(self.graph, self.live, self.branches, keep)


def _anything_to_change(plan: SlimPlan) -> bool:
    """Whether one of the other ways to cut would differ: branches, columns, numbers in the user's own modules."""
    return any(m.becomes is not None or (m.attributes and not m.keep) for m in plan.modules.values())


ROUNDS = 12
SECONDS = 30.0


def _repair(attempt: _Attempt) -> tuple[Tensor, tuple[nn.Module, SlimPlan, Proof]]:
    """The largest cut that can be found in bounded time: keep what the first module to differ handles, until it holds.

    What was kept for that is then tried again in halves. In the end fewer units go, never wrong ones.
    """
    start = time.perf_counter()
    none = torch.zeros_like(attempt.live.alive)
    keep, dead = none.clone(), none
    outcome = None
    for _ in range(ROUNDS):
        dead = attempt.without(keep)
        outcome = attempt(dead)
        if outcome[2].holds:
            break
        suspects = none
        different = attempt.look_inside(dead, outcome[1], outcome[0])
        if different is not None:
            suspects = units_at(attempt.graph, different.node) & dead
        blamed = first_difference(attempt.model, outcome[0], attempt.inputs, attempt.tolerance)
        while blamed is not None and not bool(suspects.any()):
            suspects = units_in_scope(attempt.graph, blamed) & dead
            blamed = blamed.rpartition(".")[0] if blamed else None
        if not bool(suspects.any()) or time.perf_counter() - start > SECONDS:
            outcome = None
            break
        keep |= suspects
    if outcome is None or not outcome[2].holds:
        attempt = replace(attempt, branches=False, columns=False, guess=False)
        keep = torch.ones_like(none)
        dead = attempt.without(keep)
        outcome = attempt(dead)
        if not outcome[2].holds:
            raise SlimError(
                f"even the unchanged network does not pass the proof: {outcome[2].failure}; is its forward random?"
            )
    return _retry(attempt, keep & attempt.without(none), dead, outcome, start + SECONDS)


def _retry(
    attempt: _Attempt,
    kept: Tensor,
    dead: Tensor,
    best: tuple[nn.Module, SlimPlan, Proof],
    until: float,
) -> tuple[Tensor, tuple[nn.Module, SlimPlan, Proof]]:
    """Remove as much of what was `kept` as bisection finds provable before the time is over."""
    pending = [kept.nonzero().flatten()] if bool(kept.any()) else []
    if pending and len(pending[0]) > 1:  # the whole has failed before
        pending = list(pending[0].tensor_split(2))[::-1]
    while pending and time.perf_counter() < until:
        part = pending.pop()
        trial_keep = kept.clone()
        trial_keep[part] = False
        trial = attempt.without(trial_keep)
        if torch.equal(trial, dead):
            continue
        outcome = attempt(trial)
        if outcome[2].holds:
            kept, dead, best = trial_keep, trial, outcome
        elif len(part) > 1:
            pending += [part[len(part) // 2 :], part[: len(part) // 2]]
    return dead, best
