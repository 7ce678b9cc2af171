"""From a stated size and a run to the solver that meets it."""

from dataclasses import dataclass

from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.budget import Limits, Steering, Window, steer
from ssl_prune.budget.options import BudgetOptions
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.callbacks._run_context import RunContext, run_length
from ssl_prune.callbacks._timed import Look, TimedBatch
from ssl_prune.graph import trace
from ssl_prune.groups import Partition
from ssl_prune.latency import without_zeros
from ssl_prune.timing import Time
from ssl_prune.utils.inputs import batch_of

__all__ = ["Shrinkage", "budget_solver", "check_shrinkage"]

DECISIONS = 60  # at least so many where the window has as many steps: fewer leave groups over at the end of a short run


@dataclass(frozen=True)
class Shrinkage:
    """When a network becomes smaller, as a user states it.

    Args:
        first: the first moment.
        last: the last moment.
        lookahead: how far ahead the strength looks.
    """

    first: Time
    last: Time
    lookahead: Time

    def window(self, trainer: pl.Trainer) -> Window:
        """The same in optimizer steps.

        Raises:
            ValueError: the run has no end, or no step lies in the window.
        """
        run = run_length(trainer)
        if run.steps is None:
            raise ValueError("Budget: the run has no end; set max_epochs or max_steps")
        first, last = (round(time.steps(run, "Budget: window")) for time in (self.first, self.last))
        if last <= first or last > run.steps:
            raise ValueError(
                f"Budget: the window has no step in a run of {run.steps} steps, or ends after it: it is from step {first} to "
                f"{last}; train longer or widen it"
            )
        return Window(first, last, max(1, round(self.lookahead.steps(run, "Budget: lookahead"))))


def check_shrinkage(window: object, lookahead: str | float | Time) -> Shrinkage:
    """Read the times of a window.

    Raises:
        ValueError: not two times, or one without its unit; in one unit, the first not before the last; no lookahead.
    """
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise ValueError(f'Budget: window must be two times, such as ("0.1", "0.65"), got {window!r}')
    first, last = (Time.of(time, "Budget: window") for time in window)
    if not last.amount or (first.unit == last.unit and first.amount >= last.amount):
        raise ValueError(f"Budget: window must be two times, the first before the last, got {window!r}")
    ahead = Time.of(lookahead, "Budget: lookahead")
    if not ahead.amount:
        raise ValueError(f'Budget: lookahead must be a time above 0, such as "0.05", got {lookahead!r}')
    return Shrinkage(first, last, ahead)


def budget_solver(
    limits: Limits,
    shrinkage: Shrinkage,
    options: BudgetOptions,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    network: nn.Module,
    groups: Partition,
    trained: nn.Module,
    timed: TimedBatch,
) -> tuple[Steering, BudgetSolver]:
    """The solver that meets a stated size, and what it knows of the network.

    Args:
        limits: the size.
        shrinkage: when it is met.
        options: how channels are chosen.
        trainer: of the run; its length must be known.
        pl_module: around the network.
        network: in its dense form.
        groups: coupled groups that may go.
        trained: the network that trains, if it was cut already.
        timed: samples of the training data.

    Raises:
        ValueError: the run has no end, or the size is met already or out of reach.
    """
    window = shrinkage.window(trainer)
    measured = "latency" in limits.kinds
    if trainer.world_size > 1 and measured:
        raise ValueError(
            f"Budget: latency with {trainer.world_size} processes: each would measure other times and choose other "
            "channels; state macs or params, or train with one process"
        )
    context = RunContext.of(pl_module)
    example = context.example(pl_module, trained)
    assert example is not None  # the groups needed it
    inputs = batch_of(example, options.latency_batch)
    # Shapes of the graph are those of one sample; the times are those of the batch.
    graph = trace(network, inputs) if measured else context.graph(network, example)
    steering = steer(
        graph, network, groups, limits,
        inputs=inputs, min_keep_ratio=options.min_keep_ratio, round_to=options.round_to,
    )  # fmt: skip
    look = None
    if measured:
        look = Look(steering, limits, timed, pl_module, trained, without_zeros(network), example)
    solver = BudgetSolver(
        steering.parts.groups,
        options.score,
        steering.controller,
        steering.saving,
        window,
        cost_exponent=options.cost_exponent,
        every=max(1, min(options.every, (window.end - window.start) // DECISIONS)),
        norms=steering.norms,
        look=look,
    )
    return steering, solver
