"""Any penalty over any granularity, as a callback."""

from typing import Any, Literal

import torch
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks._network import network_of
from ssl_prune.callbacks._options import refuse_lost
from ssl_prune.callbacks._run_context import RunContext, run_length
from ssl_prune.callbacks._step import StepCallback
from ssl_prune.groups import Coupled, Granularity, Partition, Patterns
from ssl_prune.penalties import GroupLasso, Penalty
from ssl_prune.schedules import Schedule
from ssl_prune.solvers import GatedSolver, ProximalSolver, Solver, SubgradientSolver
from ssl_prune.timing import RunLength, Time, TimeLike
from ssl_prune.utils.checks import check_number, check_whole

__all__ = ["Penalise"]


class Penalise(StepCallback):
    r"""Train with `loss + strength · penalty`, so that groups of weights become exactly zero.

    After each optimizer step w ← prox(w, lr · strength · penalty). `GroupLasso` and `L1` are this with their penalties.

    Args:
        penalty: what being non-zero costs: an object of `ssl_prune.penalties`, or one of your own.
        granularity: which entries live or die together: "filter", "channel", "shape", "depth", "neuron", "coupled",
            "weight", or an object of `ssl_prune.groups`.
        strength: weight of the penalty in the objective; multiplied by the learning rate of the step. None: a `Budget`
            beside it finds it, of the group lasso over coupled channels.
        solver: "proximal" (exact zeros); "subgradient" (penalty gradients, added before clipping, and a threshold); or
            "gating" (the group lasso split into smooth factors, which LBFGS can step too, and a threshold).
        schedule: a factor on the strength over time; default 1 throughout.
        include: name patterns ("conv*") or module types of the layers under penalty; default all.
        exclude: layers to leave out.
        preconditioned: take the proximal map in the metric of the optimizer (SGD, Adam, AdamW, RMSprop, Adagrad).
        threshold: of the subgradient solver, entries below it become zero after each step; of the gating solver, groups
            whose norm is not above it; default 1e-4.
        factors: of the gating solver, how many factors a group has: with D the penalty is ‖w_g‖₂^(2/D); default 2.
        freeze_at: from here on the strength is 0 and zeros stay frozen: a time with its unit, "0.7" of the run, "7ep"
            (epochs) or "1000it" (optimizer steps).
        target_groups: the same as soon as no more than this many groups are left; with a strength that rises, this meets a
            number of filters or columns without a search for the strength.
        module: name of the submodule to look at; default the one that holds all parameters.

    Raises:
        TypeError: the penalty is none, or lacks what the options ask for.
        ValueError: at construction or in `setup`: a strength below zero, an unknown granularity, an option that nothing
            would read, a pattern that matches nothing, no example input; before the first step, as many `target_groups` as
            there are groups.

    Warns:
        UserWarning: before the first step, a `freeze_at` after the end of the run.

    Note:
        A group goes as a whole, also what of it has `requires_grad=False`, where an optimizer holds it. Leave layers that
        shall stay as they are out with `exclude`.

    Example:
        >>> from ssl_prune.penalties import GroupLasso
        >>> Penalise(GroupLasso("sqrt"), "filter", strength=1e-3, freeze_at="0.7").strength
        0.001

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 4.2.
    """

    def __init__(
        self,
        penalty: Penalty,
        granularity: str | Granularity,
        strength: float | None = None,
        solver: Literal["proximal", "subgradient", "gating"] = "proximal",
        schedule: Schedule | None = None,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        *,
        preconditioned: bool = False,
        threshold: float | None = None,
        factors: int | None = None,
        freeze_at: TimeLike | None = None,
        target_groups: int | None = None,
        module: str | None = None,
    ) -> None:
        super().__init__(granularity, include, exclude, module)
        who = type(self).__name__
        if not isinstance(penalty, Penalty):
            raise TypeError(
                f"{who}: penalty must be an object of ssl_prune.penalties, such as GroupLasso(), got {penalty!r}"
            )
        if schedule is not None and not isinstance(schedule, Schedule):
            raise TypeError(
                f'{who}: schedule must be an object of ssl_prune.schedules, such as Linear(end="5ep"), got {schedule!r}'
            )
        if strength is not None:
            check_number(strength, f"{who}: strength", low=0)
        if solver not in ("proximal", "subgradient", "gating"):
            raise ValueError(f'{who}: solver must be "proximal", "subgradient" or "gating", got {solver!r}')
        if solver == "gating" and not isinstance(penalty, GroupLasso):
            raise ValueError(
                f'{who}: solver="gating" makes a group lasso, got penalty {penalty!r}; take another solver'
            )
        if preconditioned and solver != "proximal":
            raise ValueError(
                f"{who}: preconditioned=True is a proximal map, got solver={solver!r}; leave one of them at its default"
            )
        if threshold is not None:
            check_number(threshold, f"{who}: threshold", low=0)
        if factors is not None:
            check_whole(factors, f"{who}: factors", 2)
        if target_groups is not None:
            check_whole(target_groups, f"{who}: target_groups", 0, "groups")
        self.penalty, self.strength = penalty, None if strength is None else float(strength)
        self.solver_kind, self.schedule = solver, schedule
        self.preconditioned, self.threshold = preconditioned, threshold
        self.freeze_at = None if freeze_at is None else Time.of(freeze_at, f"{who}: freeze_at")
        self.target_groups, self.factors = target_groups, factors
        self._refuse_lost()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Say that a strength is wanted; check granularity, patterns and example input."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.strength is None:
            RunContext.of(pl_module).waiting.add(self)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask who finds the strength; by now every callback has been set up."""
        if self.strength is None and RunContext.of(pl_module).budget is None:
            raise ValueError(
                f"{type(self).__name__}: give a strength, or a Budget beside it that finds one: "
                'callbacks=[GroupLasso("coupled"), Budget(macs=0.5)]'
            )

    def make_solver(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module, groups: Partition
    ) -> Solver:
        """The solver of the penalty, or what a `Budget` has in its place."""
        if self.strength is None:
            budget = RunContext.of(pl_module).budget
            assert budget is not None  # `on_fit_start` has seen one
            return budget.make_solver(trainer, pl_module, network, groups, network_of(pl_module, self.module))
        run = run_length(trainer)
        freeze_at = None if self.freeze_at is None else self.freeze_at.first_step(run, self._of("freeze_at"))
        self._check_freeze(trainer, groups, run, freeze_at)
        options: dict[str, Any] = {"freeze_at": freeze_at, "target_groups": self.target_groups, "run": run}
        given = groups, self.penalty, self.strength, self.schedule
        if self.solver_kind == "proximal":
            return ProximalSolver(*given, preconditioned=self.preconditioned, **options)
        own = {"threshold": self.threshold, "factors": self.factors}
        options.update((name, value) for name, value in own.items() if value is not None)
        if self.solver_kind == "gating":
            return GatedSolver(*given, **options)
        return SubgradientSolver(*given, **options)

    def when_restored(self, solver: Solver) -> None:
        """A resumed run may be given another strength."""
        if self.strength is not None:
            solver.strength = self.strength

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the subgradient: after unscaling, before clipping."""
        if isinstance(self.solver, SubgradientSolver):
            self.solver.add_gradient(optimizer)

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super()._attach(trainer, pl_module)
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if isinstance(self.solver, (SubgradientSolver, GatedSolver)) and scaled:
            self.solver.check_amp()

    def _identity(self) -> dict[str, Any]:
        own = super()._identity()
        return {"penalty": str(self.penalty), **own} if type(self) is Penalise else own

    def _check_freeze(self, trainer: pl.Trainer, groups: Partition, run: RunLength, freeze_at: int | None) -> None:
        """Say that a freeze never comes in this run, which may go on later; refuse one that leaves nothing to the penalty."""
        trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if freeze_at is not None and run.steps is not None and freeze_at > run.steps and not trial:
            pl.utilities.rank_zero_warn(
                f'{self._of("freeze_at")}: got "{self.freeze_at}", which is step {freeze_at} of a run of {run.steps}, expected '
                'a time in the run: nothing is frozen unless it goes on; give an earlier one, such as "0.7" of it'
            )
        if self.target_groups is not None and self.target_groups >= groups.num_groups:
            raise ValueError(
                f"{self._of('target_groups')}: got {self.target_groups} of the {groups.num_groups} {groups.kind} groups that "
                "there are, so zeros would be frozen before the first step; expected fewer, or leave it out"
            )

    def _of(self, option: str) -> str:
        return f"{type(self).__name__}: {option}"

    def _refuse_lost(self) -> None:
        """Refuse options that nothing would read."""
        if self.strength is None:
            if not isinstance(self.kind, Coupled):
                raise ValueError(
                    f"{type(self).__name__}: strength must be a finite number >= 0, got None with granularity="
                    f'{self.granularity!r}; only GroupLasso("coupled") goes without one, beside a Budget that finds it'
                )
            refuse_lost(
                self, "without a strength a Budget decides when and how strongly to shrink", "give a strength",
                penalty=(self.penalty, GroupLasso()), solver=(self.solver_kind, "proximal"), schedule=(self.schedule, None),
                preconditioned=(self.preconditioned, False), threshold=(self.threshold, None), factors=(self.factors, None),
                freeze_at=(self.freeze_at, None), target_groups=(self.target_groups, None),
            )  # fmt: skip
        if self.solver_kind == "proximal":
            way_out = 'give solver="subgradient"'
            refuse_lost(
                self, "the proximal solver's zeros need no threshold", way_out, threshold=(self.threshold, None)
            )
        if self.solver_kind != "gating":
            refuse_lost(self, "there are no gates", 'give solver="gating"', factors=(self.factors, None))
