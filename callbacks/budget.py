"""Says how small the network shall be; the strength of the group lasso beside it finds itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from weakref import ref

from torch import Tensor, nn

from ssl_prune._lightning import pl
from ssl_prune.budget import BudgetProblem, Limits
from ssl_prune.budget.due_size import window_of
from ssl_prune.budget.options import BudgetOptions
from ssl_prune.budget.reached import miss
from ssl_prune.budget.record import RECORDED, budget_record, outcome
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.callbacks._budget_solver import budget_solver, left_now, write_decisions
from ssl_prune.callbacks._options import refuse_lost
from ssl_prune.callbacks._resumes import Resumes
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.callbacks._targets import Writes
from ssl_prune.callbacks._timed import TimedBatch
from ssl_prune.callbacks._whole import drop_whole, gather_at_end, whole_of
from ssl_prune.groups import Partition
from ssl_prune.schedules import Ramp
from ssl_prune.scores import Score, TaylorGate
from ssl_prune.slimming.outcome.changes import BudgetChange
from ssl_prune.timing import TimeLike

__all__ = ["Budget"]

METRIC = "val_acc"


class Budget(Resumes, Writes):
    r"""Meet a stated size: beside `GroupLasso("coupled")` without a strength.

    Between the first and the last step of the window the size that is due falls by a cosine from the dense network's to
    the stated one. Which channels go is decided by a score over a power of what each saves; the strength is what brings
    the next ones to zero in time. Zeros stay frozen; after the window the network recovers without a penalty.

    Args:
        macs: multiply-accumulates that may be left: a share of the dense network's in (0, 1], or a number.
        params: parameters, in the same way. Several limits hold all at once.
        latency: time of one forward pass of `latency_batch` samples on this machine, as a share of the dense network's. It
            comes from a table of the network's layers, and what goes in the end was measured together. Times fall in steps,
            so a step that leads far below the limit is taken where only many other channels could take its place.
        latency_ms: the same time in milliseconds.
        window: first and last moment of the shrinkage: times with their units, "0.1" of the run, "5ep" (epochs) or
            "1000it" (optimizer steps), between which the size that is due falls by a cosine; or a schedule from 0 to 1.
            Where it ends within the first epochs, `score=LayerwiseRank()` with a smaller
            `cost_exponent` leaves rounder shapes.
        min_keep_ratio: share of each layer's channels that stay in any case, one at least; None: a tenth, where the stated
            size is at least twice that of the network with a tenth of each layer, else one; with a latency one.
        round_to: have widths go by so many channels, as `Slim(round_to=...)` leaves multiples of this: fewer save nothing.
        score: which channels matter, of weights and their gradients alone; default `TaylorGate`.
        cost_exponent: power of a channel's saving that its score is divided by, the smaller the less goes of layers that cost much;
            None: 1, and 0.5 with a latency, whose steps one such layer can take beyond the stated time.
        every: most optimizer steps between two decisions; fewer where the window has less than 60 times as many.
        lookahead: how far ahead the strength looks, a time with its unit.
        latency_batch: samples of the forward pass that is timed, the first that training reads.
        path: a `.json` file for the decisions, with every group's key and the step at which it went, and a picture beside
            it; relative to the trainer's `default_root_dir`.
        metric: name of a value that the LightningModule logs, which the picture shows and the file holds.

    Attributes:
        solver: what the run does, once training has started: `dead`, `history`, `projected`.
        reached: after a fit, what was stated and what is left of the network as `Slim` has cut it or, without one, as a cut
            would leave it.

    Raises:
        TypeError: a score that is none, a path that is none.
        ValueError: at construction, a number out of its range, an option that nothing would read, a score that needs a
            `ScoreContext`; before the first step, no group lasso to steer, a size met already or out of reach, a window that
            does not fit the run, a file that another callback writes.

    Warns:
        UserWarning: before the first step, parameters that are not trained; after validation, a `metric` that was not logged;
            at the end of the window, a latency that was not reached though all that may go is gone; at the end of the fit, a
            size that is missed, with what is due, what is reached and why.

    Note:
        The window counts in the steps of whichever of `max_epochs` and `max_steps` ends first. How many steps fit into a
        `max_time`, and when `EarlyStopping` or `trainer.should_stop` end a run, nobody knows before: one that ends within
        the window misses its size, which is said. Give the window in epochs or steps that such a run has for sure.

        Averages of the weights that `WeightAveraging`, `EMAWeightAveraging` or `StochasticWeightAveraging` keep have the
        zeros of the network from the same step on.

        Channels of frozen parameters (`requires_grad=False`) go like others, also where these stand in one group with
        parameters that are trained. A score of gradients sees nothing of them, so they would go first: leave such layers out
        with `GroupLasso("coupled", exclude=...)`, or score by `Magnitude()`.

        A run with `fast_dev_run` has no steps for a window: all else is done, and no channel goes.

    Example:
        >>> Budget(macs=0.5).limits.kinds
        ('macs',)
    """

    def __init__(
        self,
        macs: float | None = None,
        params: float | None = None,
        latency: float | None = None,
        *,
        latency_ms: float | None = None,
        window: tuple[TimeLike, TimeLike] | Ramp = ("0.1", "0.65"),
        min_keep_ratio: float | None = None,
        round_to: int = 1,
        score: Score | None = None,
        cost_exponent: float | None = None,
        every: int = 10,
        lookahead: TimeLike = "0.05",
        latency_batch: int = 64,
        path: str | os.PathLike[str] | None = None,
        metric: str = METRIC,
    ) -> None:
        super().__init__()
        self.limits = Limits(macs=macs, params=params, latency=latency, latency_ms=latency_ms)
        measured = "latency" in self.limits.kinds
        cost_exponent = (0.5 if measured else 1.0) if cost_exponent is None else cost_exponent
        self.options = BudgetOptions(
            window_of(window), lookahead, min_keep_ratio, round_to, TaylorGate() if score is None else score,
            cost_exponent, every, latency_batch,
        )  # fmt: skip
        if not measured:
            refuse_lost(self, "no latency is limited", "limit one", latency_batch=(latency_batch, 64))
        if path is None:
            refuse_lost(self, "it is shown in the picture beside path", "give a path", metric=(metric, METRIC))
        if metric in RECORDED:
            raise ValueError(
                f"Budget: metric={metric!r} would take the place of a decision in the file, whose keys are "
                f"{', '.join(RECORDED)}; log the value under another name"
            )
        self.write_to(path, [".png"])
        self.metric = metric
        self.measured: list[tuple[int, float]] = []
        self.problem: BudgetProblem | None = None
        self.solver: BudgetSolver | None = None
        self._record: dict[str, Any] | None = None
        self.reached: BudgetChange | None = None
        self._network: ref[nn.Module] | None = None
        self._kept: Tensor | None = None  # units that the proof keeps, as the first run has found them
        self._timed = TimedBatch(latency_batch if measured else 0)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Be there for the group lasso that wants a strength."""
        if stage == "fit":
            RunContext.begin(trainer, pl_module).budgets.add(self)
            self.refuse_targets(trainer)
            self._record = None
            self._timed = TimedBatch(self._timed.size)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for the group lasso; by now every callback has been set up."""
        context = RunContext.of(pl_module)
        lassos, budgets = len(context.waiting), len(context.budgets)
        if (lassos, budgets) != (1, 1):
            raise ValueError(
                f"Budget: found {lassos} group lassos without a strength and {budgets} budgets, expected one of each: add "
                'GroupLasso("coupled"), which says what may go, give it no strength, and give one Budget all limits'
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what an earlier run measured and reached, unless this one goes on with it; say what will be replaced."""
        self.say_what_is_replaced(trainer)
        self.reached = None
        if not trainer.global_step:
            self.measured = []

    def make_solver(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        network: nn.Module,
        groups: Partition,
        trained: nn.Module,
    ) -> BudgetSolver:
        """The solver that meets the size; asked for by the group lasso.

        Args:
            trainer: of the run; its length must be known.
            pl_module: around the network.
            network: in its dense form.
            groups: coupled groups that may go.
            trained: the network that trains, if it was cut already.

        Raises:
            ValueError: the run has no end, or the size is met already or out of reach.
        """
        if not trainer.global_step:
            self._kept = None
        self.problem, self.solver, self._kept = budget_solver(
            self.limits, self.options, trainer, pl_module, network, groups, trained, self._timed, self._kept
        )
        self._network = ref(trained)
        return self.solver

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what is timed."""
        self._timed.take(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the size that is due and the one that is left."""
        if self.solver is None or not self.solver.history:
            return
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            _, due, left, strength = self.solver.history[-1]
            kind = self.limits.kinds[0]
            pl_module.log_dict({f"budget_{kind}_due": due, f"budget_{kind}_left": left, "budget_strength": strength})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the picture shows."""
        if trainer.sanity_checking:
            return
        value = trainer.callback_metrics.get(self.metric)
        if value is not None:
            self.measured.append((int(trainer.global_step), float(value)))
        else:
            self._miss_metric(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Know the decisions and, of shards, the whole network; miss a metric that was not logged."""
        if self._network is not None and (network := self._network()) is not None:
            gather_at_end(trainer, pl_module, network)
        if self.path is None or self.solver is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._miss_metric(trainer)
        self._record = self._decisions()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the decisions and their picture; of a run that was killed after its last step they are in the checkpoint."""
        path, record = self.target(trainer), self._record
        if path is None or record is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        write_decisions(path, record, self.metric, self.measured, self.limits.kinds[0])

    def judge(self, network: nn.Module, left: Mapping[str, float], why: str, whole: nn.Module) -> BudgetChange | None:
        """Compare the stated size with the one that is left; `Slim` asks for it, else `teardown` does.

        Args:
            network: of which so much is left.
            left: kind -> the share of the dense network.
            why: the reason, if that is too much although all has gone that was to go.
            whole: the same network, gathered if it has shards.

        Returns:
            What was stated and what is reached; None if the budget is of another network.
        """
        if self.solver is None or self.problem is None or self._network is None or self._network() is not network:
            return None
        self.reached = outcome(self.problem, self.solver, left, why, whole)
        return self.reached

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Say whether the size was met; by now the network has the weights that it keeps."""
        network = None if self._network is None else self._network()
        if stage != "fit" or network is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.reached is None:
            self.judge(network, left_now(pl_module, network), "", whole_of(pl_module, network))
        drop_whole(pl_module, network)
        assert self.reached is not None
        message = miss(self.reached, self.limits)
        if message and self.solver is not None and not self.solver.unmet:  # which was said when the window ended
            pl.utilities.rank_zero_warn(message)
        path, record = self.target(trainer), self._decisions()
        if path is not None and record is not None:
            write_decisions(path, record, self.metric, self.measured)

    def state_dict(self) -> dict[str, Any]:
        """The measured values, what a proof keeps, and the decisions where they are to be written."""
        state: dict[str, Any] = {"measured": list(self.measured), "kept": self._kept}
        record = self._record if self.solver is None else self._decisions()
        return state if self.path is None or record is None else {**state, "record": record}

    def _take_over(self, state: dict[str, Any]) -> None:
        self.measured = [(int(step), float(value)) for step, value in state["measured"]]
        self._kept = state.get("kept")  # earlier versions did not ask
        self._record = state.get("record")

    def _decisions(self) -> dict[str, Any] | None:
        problem, solver = self.problem, self.solver
        return None if problem is None or solver is None else budget_record(problem, solver, self.reached)

    def _miss_metric(self, trainer: pl.Trainer) -> None:
        """Say that there is no value of this name; the default one was not asked for."""
        if not self.measured and self.metric != METRIC:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            pl.utilities.rank_zero_warn(
                f"Budget: metric={self.metric!r} is not logged, expected one of what is: {known}; log it in validation_step, or "
                "name another"
            )
