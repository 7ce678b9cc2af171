"""The part that all penalty callbacks share: validate, attach a solver to the optimizers, log, resume."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.callbacks._network import (
    example_of,
    forget,
    graph_of,
    known_graph,
    network_of,
    refuse_sharded,
    remember,
)
from ssl_prune.callbacks._run import run_length
from ssl_prune.callbacks.budget import Budget
from ssl_prune.groups import GRANULARITIES, Granularity, Partition, Patterns, partition
from ssl_prune.groups.shards import is_sharded, reshard
from ssl_prune.penalties import Penalty
from ssl_prune.schedules import Schedule
from ssl_prune.shrinking import Source, carry, dense_form, lineage_of
from ssl_prune.solvers import ProximalSolver, SubgradientSolver

__all__ = ["PenaltyCallback"]

Solver = ProximalSolver | SubgradientSolver | BudgetSolver


class PenaltyCallback(pl.Callback):
    """Trains with `loss + strength · penalty`; see `GroupLasso` and `L1`.

    The proximal solver runs as a hook after each optimizer step, so accumulation, clipping and steps that a gradient
    scaler skips need no care. The subgradient is added before clipping, once a step.

    Note:
        `freeze_at` as a share counts optimizer steps of the whole run, so it needs a run of known length.

        Under `ModelParallelStrategy`, parameters that `configure_model` shards with `fully_shard` stay sharded: each step
        all-reduces one number a group. What needs the channel graph is traced in `setup`, so the network must be built in
        `__init__` and have an `example_input_array`.
    """

    def __init__(
        self,
        granularity: str | Granularity,
        penalty: Penalty,
        strength: float | None,
        *,
        solver: Literal["proximal", "subgradient"],
        schedule: Schedule | None,
        include: Patterns | None,
        exclude: Patterns | None,
        preconditioned: bool,
        threshold: float,
        freeze_at: int | float | None,
        target_groups: int | None,
        module: str | None,
    ) -> None:
        super().__init__()
        if strength is None and granularity != "coupled":
            raise ValueError(
                f"{type(self).__name__}: strength must be a finite number >= 0, got None; only "
                'GroupLasso("coupled") goes without one, beside a Budget that finds it'
            )
        if strength is not None and not (isinstance(strength, (int, float)) and 0 <= strength < float("inf")):
            raise ValueError(f"{type(self).__name__}: strength must be a finite number >= 0, got {strength!r}")
        if solver not in ("proximal", "subgradient"):
            raise ValueError(f'{type(self).__name__}: solver must be "proximal" or "subgradient", got {solver!r}')
        if preconditioned and solver == "subgradient":
            raise ValueError(
                f'{type(self).__name__}: preconditioned=True is a proximal map, got solver="subgradient"; '
                "leave one of them at its default"
            )
        if not 0 <= threshold < float("inf"):
            raise ValueError(f"{type(self).__name__}: threshold must be a finite number >= 0, got {threshold!r}")
        if isinstance(granularity, str) and granularity not in GRANULARITIES:
            raise ValueError(
                f"{type(self).__name__}: unknown granularity {granularity!r}; expected one of {', '.join(GRANULARITIES)}"
            )
        if freeze_at is not None and not (0 <= freeze_at < 1 or (float(freeze_at).is_integer() and freeze_at > 0)):
            raise ValueError(
                f"{type(self).__name__}: freeze_at must be a share of the run in [0, 1) or an epoch (a whole number "
                f"from 1 on), got {freeze_at!r}"
            )
        if target_groups is not None and (not isinstance(target_groups, int) or target_groups < 0):
            raise ValueError(
                f"{type(self).__name__}: target_groups must be a number of groups >= 0, got {target_groups!r}"
            )
        if strength is None:
            given = {"schedule": schedule, "freeze_at": freeze_at, "target_groups": target_groups}
            named = [name for name, value in given.items() if value is not None]
            if solver != "proximal" or preconditioned or named:
                raise ValueError(
                    f"{type(self).__name__}: without a strength a Budget decides when and how strongly to shrink; leave "
                    f"{', '.join(named) or 'solver and preconditioned'} at its default"
                )
        self.granularity, self.penalty = granularity, penalty
        self.strength = None if strength is None else float(strength)
        self.solver_kind, self.schedule, self.preconditioned, self.threshold = (
            solver,
            schedule,
            preconditioned,
            threshold,
        )
        self.include, self.exclude, self.freeze_at, self.module = include, exclude, freeze_at, module
        self.target_groups = target_groups
        self.solver: Solver | None = None
        self._restored: dict[str, Any] | None = None
        self._nothing_left = False  # of the groups, after a cut

    @property
    def groups(self) -> Partition | None:
        """The groups under penalty, once training has started."""
        return self.solver.groups if self.solver is not None else None

    @property
    def state_key(self) -> str:
        """Distinct for every callback of one run, so that each finds its own state in a checkpoint."""
        return self._generate_state_key(
            granularity=str(self.granularity), include=str(self.include), exclude=str(self.exclude), module=self.module
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check granularity, patterns and example input before anything is trained."""
        if stage != "fit" or not any(True for _ in pl_module.parameters()):
            return
        if self.strength is None and self._budget(trainer) is None:
            raise ValueError(
                f"{type(self).__name__}: give a strength, or a Budget beside it that finds one: "
                'callbacks=[GroupLasso("coupled"), Budget(macs=0.5)]'
            )
        if isinstance(trainer.strategy, (pl.strategies.FSDPStrategy, pl.strategies.DeepSpeedStrategy)):
            raise ValueError(
                f"{type(self).__name__}: {type(trainer.strategy).__name__} flattens parameters, so that they have no rows or "
                "channels; use ModelParallelStrategy and torch.distributed.fsdp.fully_shard in configure_model"
            )
        network = network_of(pl_module, self.module)
        forget(network)
        self._nothing_left = False
        if not self._waits_for_batch(pl_module):
            self._partition(pl_module, network)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach the solver to the optimizers; by now the parameters are where they stay."""
        if self._restored is None and self.solver is not None and trainer.global_step:
            self._restored = self.solver.state_dict()  # a second fit that goes on where the first one ended
        self.solver = None
        reshard(pl_module)  # the sanity check may have left gathered parameters
        if not self._waits_for_batch(pl_module):
            self._attach(trainer, pl_module)
            return
        refuse_sharded(self, pl_module, "set example_input_array on the LightningModule")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Attach the solver now, if the first batch is the only example input there is."""
        if self.solver is None and not self._nothing_left:
            remember(pl_module, network_of(pl_module, self.module), batch)
            self._attach(trainer, pl_module)

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = run_length(trainer)
        options: dict[str, Any] = {
            "freeze_at": self._debias_step(trainer, run.steps_per_epoch),
            "target_groups": self.target_groups,
            "run": run,
        }
        if self.strength is None:
            refuse_sharded(self, pl_module, "a Budget works under ddp; or give a strength")
        network = network_of(pl_module, self.module)
        # Of a network that was cut, groups keep the numbers that they have in the dense one.
        lineage = lineage_of(network)
        dense = dense_form(network)
        groups = self._partition(pl_module, dense)
        budget = self._budget(trainer) if self.strength is None else None
        if budget is not None:
            example = example_of(pl_module, network)
            assert example is not None  # the partition needed it
            self.solver = budget.make_solver(trainer, dense, graph_of(dense, example), groups, example, network)
        elif self.solver_kind == "proximal":
            self.solver = ProximalSolver(
                groups, self.penalty, self.strength or 0.0, self.schedule, preconditioned=self.preconditioned, **options
            )
        else:
            self.solver = SubgradientSolver(
                groups, self.penalty, self.strength or 0.0, self.schedule, threshold=self.threshold, **options
            )
        if lineage is not None and not self._carry(lineage.sources(), network):
            return
        if self._restored is not None:
            self.solver.load_state_dict(self._restored)
            if self.strength is not None:
                self.solver.strength = self.strength  # as it is written now: a resumed run may be given another
            self._restored = None
        self.solver.attach(*trainer.optimizers)
        if isinstance(self.solver, SubgradientSolver) and getattr(trainer.precision_plugin, "scaler", None) is not None:
            self.solver.check_amp()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the subgradient: after unscaling, before clipping."""
        if isinstance(self.solver, SubgradientSolver):
            self.solver.add_gradient(optimizer)

    def on_shrink(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module, origin: Mapping[str, Source]
    ) -> None:
        """Go on with what is left of the groups."""
        if self.solver is not None and network_of(pl_module, self.module) is network:
            self._carry(origin, network)

    def _carry(self, origin: Mapping[str, Source], network: nn.Module) -> bool:
        """Put the solver on the network as it is after a cut; False if no group is left."""
        assert self.solver is not None
        groups = carry(self.solver.groups, origin, network)
        if groups is None:
            self.solver.detach()
            self.solver, self._nothing_left = None, True
            return False
        self.solver.rebind(groups, origin)
        return True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the optimizers."""
        if self.solver is not None:
            self.solver.detach()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers when a run breaks off."""
        if self.solver is not None:
            self.solver.detach()

    def state_dict(self) -> dict[str, Any]:
        """Step counts, strength and frozen zeros: numbers and tensors only."""
        state = self._restored if self.solver is None else self.solver.state_dict()
        return {} if state is None else {"solver": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the solver exists."""
        self._restored = state_dict.get("solver")

    def _budget(self, trainer: pl.Trainer) -> Budget | None:
        return next((c for c in trainer.callbacks if isinstance(c, Budget)), None)  # type: ignore[attr-defined]

    @property
    def _kind(self) -> Granularity:
        return GRANULARITIES[self.granularity] if isinstance(self.granularity, str) else self.granularity

    def _waits_for_batch(self, pl_module: pl.LightningModule) -> bool:
        return self._kind.needs_graph and pl_module.example_input_array is None

    def _partition(self, pl_module: pl.LightningModule, network: nn.Module) -> Partition:
        graph = None
        if self._kind.needs_graph and is_sharded(network.parameters()):
            graph = known_graph(network)
        elif self._kind.needs_graph:
            example = example_of(pl_module, network_of(pl_module, self.module))
            if example is None:
                raise ValueError(
                    f"{type(self).__name__}: no example input for {type(pl_module).__name__}; set example_input_array "
                    "on the LightningModule"
                )
            graph = graph_of(network, example)
        return partition(network, self._kind, include=self.include, exclude=self.exclude, graph=graph)

    def _debias_step(self, trainer: pl.Trainer, steps_per_epoch: int | None) -> int | None:
        if self.freeze_at is None:
            return None
        if self.freeze_at < 1:
            if self.freeze_at == 0:
                return 0
            total = trainer.estimated_stepping_batches
            if total == float("inf"):
                raise ValueError(
                    f"{type(self).__name__}: freeze_at={self.freeze_at} is a share of a run without an end; set "
                    "max_epochs or max_steps, or give freeze_at as an epoch (a whole number)"
                )
            return round(self.freeze_at * total)
        if steps_per_epoch is None:
            raise ValueError(
                f"{type(self).__name__}: freeze_at={self.freeze_at} is an epoch, but the training data has no "
                "length; give it as a share of max_steps (below 1)"
            )
        return int(self.freeze_at) * steps_per_epoch
