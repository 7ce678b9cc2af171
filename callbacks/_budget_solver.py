"""From a stated size and a run to the solver that meets it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssl_prune._lightning import pl
from ssl_prune.budget import BudgetProblem, Limits, make_problem
from ssl_prune.budget.due_size import moments, window_of
from ssl_prune.budget.options import BudgetOptions
from ssl_prune.budget.provable import unprovable
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.callbacks._run_context import RunContext, run_length
from ssl_prune.callbacks._timed import LatencyMeasurement, TimedBatch
from ssl_prune.callbacks._whole import on_one, whole_of
from ssl_prune.graph import ChannelGraph, by_export
from ssl_prune.groups import Partition
from ssl_prune.groups.gathered import held_by
from ssl_prune.latency import without_zeros
from ssl_prune.report.budget_plot import plot_budget
from ssl_prune.shrinking import dense_form
from ssl_prune.sizes.remaining import remaining
from ssl_prune.utils.inputs import Inputs, batch_of
from ssl_prune.utils.json_file import write_json

__all__ = ["budget_solver", "left_now", "write_decisions"]

DECISIONS = 60  # at least so many where the window has as many steps: fewer leave groups over at the end of a short run


def budget_solver(
    limits: Limits,
    options: BudgetOptions,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    network: nn.Module,
    groups: Partition,
    trained: nn.Module,
    timed: TimedBatch,
    kept: Tensor | None,
) -> tuple[BudgetProblem, BudgetSolver, Tensor | None]:
    """The solver that meets a stated size, and what it knows of the network.

    Args:
        limits: the size.
        options: when it is met, and how channels are chosen.
        trainer: of the run; its length must be known.
        pl_module: around the network.
        network: in its dense form.
        groups: coupled groups that may go.
        trained: the network that trains, if it was cut already.
        timed: samples of the training data.
        kept: ``(U,)`` units that a proof keeps, if that is known; else they are found, unless the run has begun.

    Returns:
        What is known of the network, the solver, and the units that a proof keeps.

    Raises:
        ValueError: the run has no end, or the size is met already or out of reach.
    """
    run = run_length(trainer)
    if run.steps is None:
        raise ValueError("Budget: the run has no end; set max_epochs or max_steps")
    trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
    if trial:
        pl.utilities.rank_zero_info(
            "Budget: fast_dev_run is too short to meet a size, so none is tried: all channels stay"
        )
        after = window_of((f"{run.steps}it", f"{run.steps + 1}it"))
        options = replace(options, window=after, lookahead="1it")
    first, last = moments(options.window, run)
    if last > run.steps and not trial:
        raise ValueError(
            f"Budget: window: it ends at step {last} of a run of {run.steps} steps, after which no size is met; train longer or "
            "end it earlier"
        )
    measured = "latency" in limits.kinds
    if trainer.world_size > 1 and measured:
        raise ValueError(
            f"Budget: latency with {trainer.world_size} processes: each would measure other times and choose other "
            "channels; state macs or params, or train with one process"
        )
    frozen = [member.name for member in groups.members if not member.param.requires_grad]
    if frozen:
        pl.utilities.rank_zero_warn(
            f"Budget: {frozen[0]} is not trained (requires_grad=False), {len(frozen)} such parameters in all: their channels go "
            "like others, and first where the score is of gradients; leave layers that shall stay out with exclude"
        )
    context = RunContext.of(pl_module)
    example = context.example(pl_module, trained)
    assert example is not None  # the groups needed it
    inputs = batch_of(example, options.latency_batch)
    # Shapes of the graph are those of one sample; the times are those of the batch.
    graph = by_export(network, inputs) if measured else context.graph(network, example)
    make = partial(
        make_problem, graph, network, groups, limits,
        inputs=inputs, min_keep_ratio=options.min_keep_ratio, round_to=options.round_to,
    )  # fmt: skip
    problem = make(kept=kept)
    if kept is None and not trial and not trainer.global_step:
        kept = found = _kept_by_a_proof(trainer, pl_module, graph, network, inputs if measured else example, problem)
        problem = make(kept=found) if bool(found.any()) else problem
    measure = None
    if measured:
        measure = LatencyMeasurement(problem, limits, timed, pl_module, trained, without_zeros(network), example)
    solver = BudgetSolver(
        problem.parts.groups,
        options.score,
        problem.controller,
        problem.saving,
        options.window,
        run=run,
        lookahead=options.lookahead,
        cost_exponent=options.cost_exponent,
        every=max(1, min(options.every, (last - first) // DECISIONS)),
        measure=measure,
        stated=limits,
    )
    return problem, solver, kept


def _kept_by_a_proof(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    graph: ChannelGraph,
    network: nn.Module,
    inputs: Inputs,
    problem: BudgetProblem,
) -> Tensor:
    """What one process finds, for all: running statistics, which a proof looks at, may differ between processes."""

    def look(whole: nn.Module) -> Tensor:
        parts = replace(problem.parts, groups=held_by(problem.parts.groups, whole))
        return unprovable(graph, whole, inputs, parts)

    return on_one(trainer, pl_module, network, look)


def left_now(pl_module: pl.LightningModule, network: nn.Module) -> dict[str, float]:
    """kind -> the share of the dense network that a cut would leave of the weights as they are now."""
    dense, context = dense_form(whole_of(pl_module, network)), RunContext.of(pl_module)
    example = context.example(pl_module, network)
    assert example is not None  # the groups needed it
    found = remaining(context.graph(dense, example), dense, example)
    pairs = {"macs": found.macs, "params": found.params}
    return {kind: after / before for kind, (before, after) in pairs.items()}


def write_decisions(
    path: Path, record: dict[str, Any], metric: str, measured: Sequence[tuple[int, float]], drawn: str | None = None
) -> None:
    """Write a `budget_record` with the measured values of a metric.

    Args:
        path: the `.json` file; its folder is made.
        record: the decisions.
        metric: name of the value.
        measured: (step, value) pairs.
        drawn: the kind of size to draw in a picture beside the file, where matplotlib is there; None: no picture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**record, metric: measured})
    history = [(int(e["step"]), e["due"], e["left"], e["strength"]) for e in record["history"]]
    if drawn is not None and history and importlib.util.find_spec("matplotlib") is not None:
        plot_budget(history, path.with_suffix(".png"), kind=drawn, metric=measured, metric_name=metric)
