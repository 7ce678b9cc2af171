"""Says how small the network shall be; the strength of the group lasso beside it finds itself."""

from __future__ import annotations

import importlib.util
import os
from math import isfinite
from typing import Any

from torch import Tensor, nn

from ssl_prune._lightning import pl
from ssl_prune.budget import BudgetProblem, Limits, make_problem
from ssl_prune.budget.due_size import moments, window_of
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.callbacks._distill import Distillation
from ssl_prune.callbacks._run import run_length
from ssl_prune.callbacks._targets import Writes
from ssl_prune.callbacks._timed import Look, TimedBatch
from ssl_prune.graph import ChannelGraph, by_export
from ssl_prune.groups import Partition
from ssl_prune.latency import without_zeros
from ssl_prune.report.budget_plot import plot_budget
from ssl_prune.schedules import Ramp
from ssl_prune.scores import Score, TaylorGate
from ssl_prune.shrinking import dense_form
from ssl_prune.timing import Time, TimeLike
from ssl_prune.utils.inputs import Inputs, batch_of
from ssl_prune.utils.json_file import write_json

__all__ = ["Budget"]

DECISIONS = 60  # at least so many where the window has as many steps: fewer leave groups over at the end of a short run


class Budget(pl.Callback, Writes):
    r"""Meet a stated size: beside `GroupLasso("coupled")` without a strength.

    Between the first and the last step of the window the size that is due falls by a cosine from the dense network's to
    the stated one. Which channels go is decided by a score over a power of what each saves; the strength is what brings
    the next ones to zero in time. Zeros stay frozen; after the window the network recovers without a penalty.

    Args:
        macs: multiply-accumulates that may be left: a share of the dense network's in (0, 1], or a number.
        params: parameters, in the same way. Several limits hold all at once.
        latency: time of one forward pass of `latency_batch` samples on this machine: a share of the dense network's. It
            comes from a table of the network's layers, and what goes in the end was measured together. Times fall in steps,
            so a step that leads far below the limit is taken where only many other channels could take its place.
        latency_ms: the same in milliseconds.
        window: first and last moment of the shrinkage, times with their unit, between which the size that is due falls by
            a cosine; or a schedule from 0 to 1. Where it ends within the first epochs,
            `score=LayerwiseRank()` with a smaller `cost_exponent` leaves rounder shapes.
        min_keep_ratio: share of each layer's channels that stay in any case, one at least; None: a tenth, where the stated
            size is at least twice that of the network with a tenth of each layer, else one; with a latency one.
        round_to: have widths go by so many channels, as `Slim(round_to=...)` leaves multiples of this: fewer save nothing.
        score: which channels matter; default `TaylorGate`.
        cost_exponent: power of a channel's saving that its score is divided by, the smaller the less goes of layers that cost much;
            None: 1, and 0.5 with a latency, whose steps one such layer can take beyond the stated time.
        every: optimizer steps between two decisions; fewer where the window has less than 60 times as many.
        lookahead: how far ahead the strength looks, a time with its unit.
        latency_batch: samples of the forward pass that is timed, the first that training reads.
        distill: weight of a distillation term in the loss after the window; the teacher is the network at its start.
        temperature: of the distillation.
        path: a `.json` file for the decisions, with every group's key and the step at which it went, and a picture beside
            it; relative to the trainer's `default_root_dir`.
        metric: name of the logged value that the picture shows.

    Attributes:
        solver: what the run does, once training has started: `dead`, `history`, `projected`.

    Raises:
        TypeError: a score that is none, a path that is none.
        ValueError: at construction, a number out of its range; in `setup` or at the start of training, no group lasso to
            steer, a size that is met already or cannot be reached, a file that another callback writes too.

    Warns:
        UserWarning: at the end of the window, a latency that was not reached though all that may go is gone.

    Example:
        >>> Budget(macs=0.5).limits.kinds
        ('macs',)
    """

    def __init__(
        self,
        macs: float | None = None,
        params: float | None = None,
        latency: float | None = None,
        latency_ms: float | None = None,
        *,
        window: tuple[TimeLike, TimeLike] | Ramp = ("0.1", "0.65"),
        min_keep_ratio: float | None = None,
        round_to: int = 1,
        score: Score | None = None,
        cost_exponent: float | None = None,
        every: int = 10,
        lookahead: TimeLike = "0.05",
        latency_batch: int = 64,
        distill: float = 0.0,
        temperature: float = 2.0,
        path: str | os.PathLike[str] | None = None,
        metric: str = "val_acc",
    ) -> None:
        super().__init__()
        self.limits = Limits(macs, params, latency, latency_ms)
        if not isinstance(latency_batch, int) or latency_batch < 1:
            raise ValueError(f"Budget: latency_batch must be a number of samples >= 1, got {latency_batch!r}")
        if min_keep_ratio is not None and not 0 <= min_keep_ratio < 1:
            raise ValueError(
                f"Budget: min_keep_ratio must be a share of a layer's channels in [0, 1), got {min_keep_ratio!r}"
            )
        if not isinstance(round_to, int) or round_to < 1:
            raise ValueError(f"Budget: round_to must be a whole number of channels >= 1, got {round_to!r}")
        if Time.of(lookahead, "Budget: lookahead").amount == 0:
            raise ValueError(f"Budget: lookahead must be longer than 0, got {lookahead!r}")
        if cost_exponent is None:
            cost_exponent = 0.5 if "latency" in self.limits.kinds else 1.0
        if not 0 <= cost_exponent < float("inf") or not isinstance(every, int) or every < 1:
            raise ValueError(
                f"Budget: cost_exponent must be finite and >= 0, and every a whole number >= 1, got {cost_exponent}, {every}"
            )
        self.window, self.min_keep_ratio = window_of(window), min_keep_ratio
        self.round_to, self.cost_exponent = round_to, cost_exponent
        self.every, self.lookahead, self.latency_batch = every, lookahead, latency_batch
        if score is not None and not isinstance(score, Score):
            raise TypeError(
                f"Budget: score must be a score of ssl_prune.scores, such as LayerwiseRank(), got {score!r}"
            )
        self.write_to(path, [".png"])
        self.metric = metric
        self.distillation = Distillation(distill, temperature)
        self.measured: list[tuple[int, float]] = []
        self.problem: BudgetProblem | None = None
        self._network: nn.Module | None = None
        self._teacher: dict[str, Any] = {}
        self._timed = TimedBatch(latency_batch)
        self.score = TaylorGate() if score is None else score
        self.solver: BudgetSolver | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look for the group lasso to steer."""
        from ssl_prune.callbacks._penalty import PenaltyCallback

        free = [c for c in trainer.callbacks if isinstance(c, PenaltyCallback) and c.strength is None]  # type: ignore[attr-defined]
        if stage == "fit" and len(free) != 1:
            raise ValueError(
                f'Budget: found {len(free)} group lassos without a strength, expected one: add GroupLasso("coupled"), '
                "which says what may go, and give it no strength"
            )
        if stage == "fit":
            self.refuse_targets(trainer)
            self._timed = TimedBatch(self.latency_batch if "latency" in self.limits.kinds else 0)

    def make_solver(
        self,
        trainer: pl.Trainer,
        network: nn.Module,
        graph: ChannelGraph,
        groups: Partition,
        example: Inputs,
        trained: nn.Module | None = None,
    ) -> BudgetSolver:
        """The solver that meets the size.

        Args:
            trainer: of the run; its length must be known.
            network: the network in its dense form.
            graph: its channel graph.
            groups: coupled groups that may go.
            example: one input of the network.
            trained: the network that trains, if it was cut already.

        Raises:
            ValueError: the run has no end, or the size is met already or out of reach.
        """
        if trainer.estimated_stepping_batches == float("inf"):
            raise ValueError("Budget: the run has no end; set max_epochs or max_steps")
        if trainer.world_size > 1 and "latency" in self.limits.kinds:
            raise ValueError(
                f"Budget: latency with {trainer.world_size} processes: each would measure other times and choose other "
                "channels; state macs or params, or train with one process"
            )
        run = run_length(trainer)
        first, last = moments(self.window, run)
        self._network = network if trained is None else trained
        if self.distillation.weight:
            self.distillation.load_state_dict(self._teacher, network)
            self.distillation.watch(self._network)
        inputs = batch_of(example, self.latency_batch)
        # Shapes of the graph are those of one sample; the times are those of the batch.
        timed = graph if "latency" not in self.limits.kinds else by_export(network, inputs)
        options: dict[str, Any] = {"min_keep_ratio": self.min_keep_ratio, "round_to": self.round_to}
        self.problem = make_problem(timed, network, groups, self.limits, inputs=inputs, **options)
        measure = None
        if self.problem.times is not None:
            measure = Look(
                self.problem, self.limits, self._timed, trainer.lightning_module, self._network,
                without_zeros(network), example,
            )  # fmt: skip
        self.solver = BudgetSolver(
            self.problem.parts.groups,
            self.score,
            self.problem.controller,
            self.problem.saving,
            self.window,
            run=run,
            lookahead=self.lookahead,
            cost_exponent=self.cost_exponent,
            every=max(1, min(self.every, (last - first) // DECISIONS)),
            measure=measure,
        )
        return self.solver

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what is timed."""
        self._timed.take(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add the distillation term to the loss, once the network has its size."""
        if self.solver is None or not self.distillation.weight:
            return
        if not self.solver.frozen:
            self.distillation.forget()
            return
        term = self.distillation.term()
        if term is None:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        loss.add_(term * (scale / trainer.accumulate_grad_batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the teacher at the start of the window; log the size that is due and the one that is left."""
        if self.solver is None:
            return
        wanted = self.distillation.weight and self.distillation.teacher is None
        if wanted and self._network is not None and self.solver.step_count >= self.solver.first:
            self.distillation.save(dense_form(self._network))  # of which a resumed run makes it again
        if not self.solver.history or trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        _, due, left, strength = self.solver.history[-1]
        kind = self.limits.kinds[0]
        values = {f"budget_{kind}_due": due, f"budget_{kind}_left": left, "budget_strength": strength}
        pl_module.log_dict(values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the picture shows."""
        value = trainer.callback_metrics.get(self.metric)
        if value is not None and not trainer.sanity_checking:
            self.measured.append((int(trainer.global_step), float(value)))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the decisions and their picture."""
        self.distillation.stop()
        path = self.target(trainer)
        if path is None or self.solver is None or not trainer.is_global_zero:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self.problem is not None
        kind, history = self.limits.kinds[0], self.solver.history
        record = {
            "limits": self.problem.controller.limits,
            "left": self.problem.left(self.solver.dead),
            "projected": self.solver.projected,
            "groups": [int((~self.solver.dead).sum()), len(self.solver.dead)],
            "channels": self._channels(),
            "history": [dict(zip(("step", "due", "left", "strength"), entry, strict=True)) for entry in history],
            self.metric: self.measured,
        }
        write_json(path, record)
        if history and importlib.util.find_spec("matplotlib") is not None:
            plot_budget(history, path.with_suffix(".png"), kind=kind, metric=self.measured, metric_name=self.metric)

    def _channels(self) -> list[dict[str, Any]]:
        """Of each group its name, its last key, and the step at which it went."""
        assert self.solver is not None
        assert self.problem is not None
        names, solver = self.problem.parts.groups, self.solver
        return [
            {"name": names.describe(g), "key": key if isfinite(key) else None, "gone": step if step >= 0 else None}
            for g, (key, step) in enumerate(zip(solver.keys.tolist(), solver.gone.tolist(), strict=True))
        ]

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the network when a run breaks off."""
        self.distillation.stop()

    def state_dict(self) -> dict[str, Any]:
        """The teacher's tensors and the measured values."""
        return {"teacher": self.distillation.state_dict() or self._teacher, "measured": list(self.measured)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the teacher until there is a network to make it of."""
        self._teacher = state_dict["teacher"]
        self.measured = [(int(step), float(value)) for step, value in state_dict["measured"]]
