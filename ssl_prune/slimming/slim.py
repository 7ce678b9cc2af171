"""`slim`: values, liveness, plan, cut, proof, repair."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.inputs import Inputs, evaluation
from ssl_prune.slimming.liveness import Liveness, liveness
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
    for branches, lower in ((True, columns), (False, columns), (False, False)):
        dead = removable(graph, live, branches)
        attempt = _Attempt(graph, model, live, example_inputs, tolerance, branches, lower)
        cut, plan, proof = attempt(dead)
        if proof.holds or (not exact and math.isfinite(proof.max_error)):
            best = (cut, plan, proof)
            break
        failure = failure or proof.failure
    if best is None:
        dead, best = _repair(attempt, dead)
    cut, plan, proof = best
    return SlimResult(cut, plan, make_report(graph, model, cut, live, dead, proof, failure, example_inputs))


class _Attempt:
    """One way to cut: plan, apply, verify for a choice of dead units."""

    def __init__(
        self,
        graph: ChannelGraph,
        model: nn.Module,
        live: Liveness,
        inputs: Inputs,
        tolerance: float,
        branches: bool,
        columns: bool,
    ) -> None:
        self._graph, self._model, self._live, self._inputs = graph, model, live, inputs
        self._tolerance, self._branches, self._columns = tolerance, branches, columns

    def __call__(self, dead: Tensor) -> tuple[nn.Module, SlimPlan, Proof]:
        plan = make_plan(self._graph, self._model, self._live, dead, branches=self._branches, columns=self._columns)
        cut = plan.apply(self._model)
        return cut, plan, verify(self._model, cut, self._inputs, self._tolerance)


def _repair(
    attempt: Callable[[Tensor], tuple[nn.Module, SlimPlan, Proof]], dead: Tensor
) -> tuple[Tensor, tuple[nn.Module, SlimPlan, Proof]]:
    """The largest part of `dead` that bisection finds provable: halves that fail are split, single units are kept."""
    accepted = torch.zeros_like(dead)
    best = attempt(accepted)
    if not best[2].holds:
        raise SlimError(
            f"even the unchanged network does not pass the proof: {best[2].failure}; is its forward random?"
        )
    pending = [dead.nonzero().flatten()]
    while pending:
        part = pending.pop()
        trial = accepted.clone()
        trial[part] = True
        outcome = attempt(trial)
        if outcome[2].holds:
            accepted, best = trial, outcome
        elif len(part) > 1:
            pending += [part[len(part) // 2 :], part[: len(part) // 2]]
    return accepted, best
