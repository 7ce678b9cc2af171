"""A stated size at once: the least important channels of a trained network are set to zero, and nothing is trained."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.budget.limits import Limits
from ssl_prune.budget.measure import at_zero
from ssl_prune.budget.measured_choice import plan, unmet
from ssl_prune.budget.problem import make_problem
from ssl_prune.budget.reached import miss, reached, shares_of, why_more
from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph
from ssl_prune.groups import Partition, partition
from ssl_prune.latency import without_zeros
from ssl_prune.scores import TaylorGate
from ssl_prune.scores.gates import Gates
from ssl_prune.slimming.outcome.changes import BudgetChange
from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.proof.outputs import Expected, verify
from ssl_prune.slimming.subject import Subject
from ssl_prune.slimming.work import is_large
from ssl_prune.utils.checks import check_number, check_whole
from ssl_prune.utils.copies import copied
from ssl_prune.utils.inputs import Inputs, call

__all__ = ["apply_budget", "cut_to_size"]

CUTS = 4  # that one size may take, where the proof keeps what was to go


def cut_to_size(
    subject: Subject,
    limits: Limits,
    data: Iterable[Any] | None,
    cut: Callable[[nn.Module], SlimResult],
    *,
    round_to: int = 1,
) -> SlimResult:
    """Set channels to zero and cut them; what the cut keeps all the same stays, and others go in its place.

    Args:
        subject: the network; it is left as it was.
        limits: the stated size.
        data: as in `apply_budget`.
        cut: makes and proves the cut of a network with zeros.
        round_to: count widths as multiples of this.

    Returns:
        The first cut that meets the size, else the smallest one; its report has the size that was reached.

    Raises:
        ValueError: as `apply_budget`.

    Warns:
        UserWarning: the size is missed.
    """
    batches = None if data is None else list(data)
    kept = torch.zeros(subject.graph.num_units, dtype=torch.bool)
    best, least = None, math.inf
    for _ in range(CUTS):
        try:
            model, change, units = _applied(subject, limits, batches, F.cross_entropy, 0.5, round_to, kept)
        except ValueError:
            if best is None:
                raise
            break  # without what the proof keeps the size is out of reach
        found = cut(model)
        change = reached(change, shares_of(found.report), why_more(found.report))
        above = max(change.left[kind] - share for kind, share in change.limits.items())
        if above < least:
            best, least = replace(found, report=replace(found.report, budget=change)), above
        stays = units if found.dead is None else units & ~found.dead
        if not change.missed or found.dead is None or not bool(stays.any()):
            break
        kept |= stays
    assert best is not None
    assert best.report.budget is not None
    if message := miss(best.report.budget, limits):
        warnings.warn(message, stacklevel=4)
    return best


def apply_budget(
    graph: ChannelGraph,
    model: nn.Module,
    inputs: Inputs,
    limits: Limits,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    *,
    cost_exponent: float = 0.5,
    round_to: int = 1,
) -> tuple[nn.Module, BudgetChange]:
    """A copy of `model` in which the channels that matter least are zero, so many that the size is met.

    Args:
        graph: the channel graph of `model`.
        model: the network; it is left as it was.
        inputs: the example.
        limits: the stated size.
        data: batches (input, target), a few hundred samples; the score is `TaylorGate` on them. None: the norms of
            scales and shifts, or of rows where there is no normalisation, which is much worse.
        loss: of outputs and targets.
        cost_exponent: power of a channel's saving that its score is divided by; with nothing trained after it a smaller one
            leaves more accuracy than with `Budget`.
        round_to: count widths as multiples of this.

    Raises:
        ValueError: the size is met already or out of reach; the data have no batch, one that does not fit, or one
            whose loss is not finite.
        SlimError: the outputs are not finite after it.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
        >>> apply_budget(trace(net, x), net, x, Limits(params=0.5), [(x, y)])[1].groups
        {'0': 5}
    """
    check_number(cost_exponent, "apply_budget: cost_exponent", low=0)
    check_whole(round_to, "apply_budget: round_to", 1, "channels")
    return _applied(Subject(graph, model, inputs), limits, data, loss, cost_exponent, round_to, None)[:2]


def _applied(
    subject: Subject,
    limits: Limits,
    data: Iterable[Any] | None,
    loss: Callable[[Any, Any], Tensor],
    cost_exponent: float,
    round_to: int,
    kept: Tensor | None,
) -> tuple[nn.Module, BudgetChange, Tensor]:
    """The copy, the record, and the units ``(U,)`` that are zero; `kept` ones stay."""
    graph, model, inputs = subject.graph, subject.model, subject.inputs
    changed = copied(model)
    problem = make_problem(
        graph, changed, partition(changed, "coupled", graph=graph), limits, inputs=inputs, round_to=round_to, kept=kept
    )
    groups = problem.parts.groups
    if data is None:
        scores = Gates(groups)(lambda part: part.norms() / part.sizes.clamp_min(1).sqrt())
    else:
        scores = _scores(changed, groups, data, loss)
    none = torch.zeros(groups.num_groups, dtype=torch.bool)
    saving = problem.saving(none).clamp_min(0)
    keys = torch.where(saving > 0, scores.double().cpu() / saving.clamp_min(1e-300) ** cost_exponent, torch.inf)
    left: dict[str, float] = {}
    if problem.times is None:
        dead = problem.controller.project(keys, none)
    else:
        reference = without_zeros(model)

        def excess(dead: Tensor) -> float:
            with at_zero(groups, dead):
                left.update(problem.measure(graph, changed, reference, inputs, dead))
            return problem.controller.excess(dead, measured=left)

        dead = plan(problem.controller, keys, none, excess)
        if message := unmet(problem.controller, excess(dead), limits):
            raise ValueError(message)
    groups.scale_((~dead).to(groups.dtype))
    expected = Expected(model, inputs, is_large(graph.program))
    difference = verify(model, changed, inputs, math.inf, expected).max_error
    if not math.isfinite(difference):
        raise SlimError("budget: the network's outputs are not finite, or not zero where they were, after its cut")
    layers = Counter(groups.layers[i] for i in groups.layer.cpu()[dead].tolist())
    change = BudgetChange(dict(problem.controller.limits), {**problem.left(dead), **left}, dict(layers), difference)
    return changed, change, problem.parts.dead_units(dead)


def _scores(model: nn.Module, groups: Partition, data: Iterable[Any], loss: Callable[[Any, Any], Tensor]) -> Tensor:
    """`TaylorGate` on a few batches, in evaluation mode; of what is not trained too, which would count for nothing."""
    score = TaylorGate()
    score.bind(groups)
    modes = [(module, module.training) for module in model.modules()]
    frozen = [member.param for member in groups.members if not member.param.requires_grad]
    number = -1
    try:
        for module, _ in modes:
            module.training = False
        for param in frozen:
            param.requires_grad_(True)
        for number, batch in enumerate(data):
            model.zero_grad()
            _loss_of(model, batch, loss, f"data: batch {number}").backward()
            score.update()
    finally:
        model.zero_grad()
        for param in frozen:
            param.requires_grad_(False)
        for module, mode in modes:
            module.training = mode
    if number < 0:
        raise ValueError("data: got no batch, expected batches (input, target), for example a list of one")
    return score.values()


def _loss_of(model: nn.Module, batch: Any, loss: Callable[[Any, Any], Tensor], which: str) -> Tensor:
    if not isinstance(batch, Sequence) or len(batch) < 2:  # a tensor would be taken apart into samples
        raise ValueError(f"{which} is a {type(batch).__name__}, expected a pair (input, target)")
    try:
        with torch.enable_grad():
            value = loss(call(model, batch[0]), batch[1])
    except Exception as error:  # whatever a network or a loss says of what does not fit
        raise ValueError(f"{which} does not fit the network or the loss: {type(error).__name__}: {error}") from error
    if not bool(value.isfinite().all()):
        raise ValueError(
            f"{which} has a loss that is not finite, so that nothing can be chosen by it: {value.detach()}"
        )
    return value
