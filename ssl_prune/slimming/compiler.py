"""`slim`: values, liveness, plan, cut, proof, repair."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from ssl_prune.budget.outcome import BudgetChange
from ssl_prune.costs import cost
from ssl_prune.errors import GraphError, SlimError
from ssl_prune.graph import ChannelGraph, by_export
from ssl_prune.graph.fallback.autograd_graph import AutogradGraph
from ssl_prune.oneshot.threshold import ThresholdChange, apply_threshold, check_threshold
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.fallback.compiler import slim_by_autograd
from ssl_prune.slimming.modules.materialized import computing_layers
from ssl_prune.slimming.outcome.slim_report import SlimReport, make_report
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan
from ssl_prune.slimming.plan.rounding import check_round_to, practical_widths
from ssl_prune.slimming.plan.training_mode import branches_may_go, held_in_training
from ssl_prune.slimming.proof.candidate import Attempt, Outcome
from ssl_prune.slimming.proof.outputs import Expected, verify
from ssl_prune.slimming.proof.repair import repair
from ssl_prune.slimming.work import is_large
from ssl_prune.utils.inputs import Inputs, evaluation, map_tensors

__all__ = ["SlimResult", "slim"]

_QUICK = 6e10  # multiply-accumulates that a repair may be worth where a second one follows it


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
    columns: bool | Literal["measured"] = False,
    threshold: float = 0.0,
    round_to: int | Literal["measured"] = 1,
    budget: Mapping[str, float] | None = None,
    data: Iterable[Any] | None = None,
    graph: ChannelGraph | None = None,
) -> SlimResult:
    r"""Cut a network with zeros down to what its outputs need, and prove that they stay the same.

    The slim network g satisfies max|f(x) − g(x)| ≤ tolerance · max|f(x)| in evaluation mode, on the example, on fresh
    inputs, on another batch size and, where the network takes one, another input size; and every value on the way is
    what survives of the dense one. What cannot be removed exactly is kept, and the report names it and the reason.

    Networks that `torch.export` refuses (Python branches on data, custom autograd functions) are traced by
    torch-pruning's autograd graph; then constants are not folded, and the proof is made of more trials.

    Args:
        model: the network; it is left as it was.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        exact: refuse what the proof does not confirm. With False the cut is returned whatever its error is, and the
            report states the error.
        tolerance: allowed relative difference of the outputs.
        columns: what becomes of all-zero columns of a layer's matrix (dead input features, dead kernel positions).
            False: kernels are cropped where that never costs time, other zeros stay. True: layers are written with the
            fewest weights, if need be as a dense product over gathered columns (`ColumnConv`). "measured": each layer
            in the form that is fastest on this machine, with these threads, at the example's sizes and batch.
        threshold: for a network that is only nearly zero: first set to zero, on a copy, every channel of which all
            weights, biases, scales and shifts are within it, and every one that no larger weight reads. That changes the
            outputs, by what `report.threshold` states; the proof and `report.max_error` are against the network after it.
        round_to: keep the fewest dead channels with which every width is a multiple of this number, or "measured": keep
            a few where the layers at the shapes of the example are measurably faster with them; pass a batch of the
            size that counts.
        budget: for a network that has no zeros yet: first set to zero, on a copy, the channels that matter least, so many
            that a size is met: {"macs": 0.5}, {"params": 100_000}, {"latency": 0.5}, {"latency_ms": 0.8} or several; see
            `Limits`. That changes the outputs, by what `report.budget` states. `ssl_prune.callbacks.Budget` does it while training.
        data: with `budget`, batches (input, class) to tell what matters, a few hundred samples; without them norms have
            to do, which is much worse. For another loss than cross-entropy see `apply_budget`.
        graph: the channel graph, if it was traced before on inputs of the same shapes.

    Returns:
        The slim network (ordinary modules, same class), the plan and the report.

    Raises:
        GraphError: neither tracer can follow the network on this example.
        SlimError: the network's own outputs are not finite, or no longer after the threshold.
        TypeError: `example_inputs` is not a tensor, tuple or dict.
        ValueError: `tolerance`, `columns`, `threshold`, `round_to` or `budget` is none of what is listed above, or the
            budget is met already or out of reach.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[0].weight[:5].zero_(), net[0].bias[:5].zero_()
        >>> slim(net, torch.randn(1, 4)).model[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance: got {tolerance}, expected a number of at least 0, for example 1e-4")
    if columns not in (True, False, "measured"):
        raise ValueError(f'columns: got {columns!r}, expected True, False or "measured"')
    check_threshold(threshold)
    check_round_to(round_to)
    if data is not None and budget is None:
        raise ValueError('data: only used to choose for a budget; give one too, for example budget={"macs": 0.5}')
    refusal = graph.refusal if isinstance(graph, AutogradGraph) else None
    if graph is None:
        try:
            graph = by_export(model, example_inputs)
        except GraphError as error:
            refusal = str(error)
    if graph is None or refusal is not None:
        asked = (("threshold", threshold), ("round_to", round_to != 1), ("columns", columns), ("budget", budget))
        for name, wanted in asked:
            if wanted:
                raise ValueError(f"{name}: not available for a network that only the second tracer follows ({refusal})")
        result = SlimResult(*slim_by_autograd(model, example_inputs, exact, tolerance, refusal=refusal or ""))
        return _from_the_dense(result, model, example_inputs)
    given = model
    small: ThresholdChange | None = None
    sized: BudgetChange | None = None
    if threshold:
        model, small = apply_threshold(graph, model, example_inputs, threshold)
    if budget is not None:
        from ssl_prune.budget.limits import Limits  # a budget is written in terms of slimming
        from ssl_prune.oneshot.budget import apply_budget

        width = round_to if isinstance(round_to, int) else 1
        model, sized = apply_budget(graph, model, example_inputs, Limits.of(budget), data, round_to=width)
    result = _slim(graph, model, example_inputs, exact, tolerance, columns, round_to)
    other = _without_computing(graph, model, example_inputs, exact, tolerance, columns, round_to)
    if other is not None and other.report.macs[1] < result.report.macs[1]:
        result = other
    result = replace(result, report=replace(result.report, threshold=small, budget=sized))
    return _from_the_dense(result, given, example_inputs)


def _from_the_dense(result: SlimResult, model: nn.Module, inputs: Inputs) -> SlimResult:
    """For a network that was cut while it trained, plan and report from the dense one on."""
    from ssl_prune.shrinking.history import lineage_of  # which cuts with plans of slimming

    lineage = lineage_of(model)
    if lineage is None:
        return result
    plan, report = lineage.complete(result.plan, result.report, inputs)
    return replace(result, plan=plan, report=report)


def _slim(
    graph: ChannelGraph,
    model: nn.Module,
    example_inputs: Inputs,
    exact: bool,
    tolerance: float,
    columns: bool | Literal["measured"] | None,
    round_to: int | Literal["measured"],
    training: bool = False,
) -> SlimResult:
    """`slim` with the modules as they are; for `training`, only what takes no part in training either."""
    with evaluation(model):
        live = liveness(graph, model, example_inputs)
    branches = not training or branches_may_go(graph, model, live)
    held = held_in_training(graph, model, live, branches) if training else None
    first = Attempt(graph, model, live, example_inputs, tolerance, columns=columns, branches=branches, widths=held)
    removed = first.without(None)
    with evaluation(model):
        widths = practical_widths(graph, live, removed, round_to, branches=branches)
    narrow = removed & ~widths.dead
    first = replace(first, widths=narrow if held is None else narrow | held)
    followers = (removed & ~first.without(None)).nonzero().flatten().tolist()
    reasons = {unit: widths.reasons.get(unit, "a channel kept for its layer's width reads it") for unit in followers}
    best: Outcome | None = None
    tried: list[Outcome] = []  # the first one, until a repair takes it: each holds a network
    failure: str | None = None
    for attempt in first.simpler():
        dead = attempt.without(None)
        outcome = attempt(dead)
        tried = tried or [outcome]
        if outcome.proof.holds or (not exact and math.isfinite(outcome.proof.max_error)):
            best = outcome
            if torch.equal(dead, first.without(None)):
                failure = None  # only written in another way
            break
        failure = failure or outcome.proof.failure
    start = first.effort.spent
    loose = best is not None and _loosened(best.plan, model)
    if best is None:
        del outcome
        dead, best = repair(first, tried.pop())
        loose = first.effort.spent - start < _QUICK
    tried.clear()
    best = best._replace(model=SlimPlan.own(best.model, model))
    slow = first.expected.slow
    fewer = sum(p.numel() for p in best.model.parameters()) < sum(p.numel() for p in model.parameters())
    more = _again(best, example_inputs, exact, tolerance, columns, round_to, training) if loose and fewer else None
    cut = best.model if more is None else more.model
    proof = best.proof if more is None else verify(model, cut, example_inputs, tolerance, first.expected)
    if more is None or (exact and not proof.holds):
        report = make_report(graph, model, best.model, live, dead, best.proof, failure, example_inputs, reasons, slow)
        return SlimResult(best.model, best.plan, report)
    report = make_report(graph, model, cut, live, dead, proof, failure, example_inputs, reasons, slow)
    both = dict(Counter(report.removed) + Counter(more.report.removed))
    report = replace(report, removed=both, kept=more.report.kept, refused=failure or more.report.refused)
    return SlimResult(cut, replace(best.plan, then=more.plan), report)


def slim_in_training(
    graph: ChannelGraph, model: nn.Module, inputs: Inputs, tolerance: float, round_to: int = 1
) -> SlimResult:
    """`slim` of what takes no part in training either; see `training_cut`."""
    return _slim(graph, model, inputs, True, tolerance, None, round_to, training=True)


def _loosened(plan: SlimPlan, model: nn.Module) -> bool:
    """Whether a module became another, or a grouped convolution a plain one, whose channels are less tied."""
    return any(
        module.becomes is not None
        or (module.attributes.get("groups") == 1 and getattr(model.get_submodule(name), "groups", 1) > 1)
        for name, module in plan.modules.items()
    )


def _again(
    best: Outcome,
    inputs: Inputs,
    exact: bool,
    tolerance: float,
    columns: bool | Literal["measured"] | None,
    round_to: int | Literal["measured"],
    training: bool,
) -> SlimResult | None:
    """What more can go in the cut network.

    That is where modules became others, or grouped convolutions plain ones, which may tie less together than what they
    were, and where a repair kept more than it had to.
    """
    try:
        graph = by_export(best.model, inputs)
    except GraphError:
        return None
    forms = columns if columns != "measured" else False  # what was fastest is not changed again
    with evaluation(best.model):
        live = liveness(graph, best.model, inputs)
    if not Attempt(graph, best.model, live, inputs, tolerance, columns=forms).changes_anything:
        return None
    if training:
        more = _slim(graph, best.model, inputs, exact, tolerance, forms, round_to, training)
    else:
        more = slim(best.model, inputs, exact, tolerance, columns=forms or False, round_to=round_to, graph=graph)
    smaller = more.report.params[1] < more.report.params[0] or more.report.macs[1] < more.report.macs[0]
    return more if smaller else None


def _without_computing(
    graph: ChannelGraph,
    model: nn.Module,
    inputs: Inputs,
    exact: bool,
    tolerance: float,
    columns: bool | Literal["measured"],
    round_to: int | Literal["measured"],
) -> SlimResult | None:
    """The network whose layers no longer compute their weights, slimmed: what a weight is made of ties its channels."""
    computing = computing_layers(graph.program, model)
    if not computing:
        return None
    shapes = {n: list(t.shape) for n, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    first = SlimPlan({name: ModulePlan(becomes={"kind": "Plain"}) for name in computing}, shapes)
    try:
        then = slim(first.apply(model, shared=True), inputs, exact, tolerance, columns=columns, round_to=round_to)
    except SlimError:
        return None
    cut = SlimPlan.own(then.model, model)
    proof = verify(model, cut, inputs, tolerance, Expected(model, inputs, is_large(graph.program)))
    if not then.report.removed or (exact and not proof.holds):
        return None
    before = cost(model, map_tensors(torch.clone, inputs))
    report = replace(
        then.report,
        macs=(before.macs, then.report.macs[1]),
        params=(before.params, then.report.params[1]),
        bytes=(before.bytes, then.report.bytes[1]),
        max_error=proof.max_error,
    )
    return SlimResult(cut, replace(first, then=then.plan), report)
