"""What the callbacks that act after each optimizer step share: groups, optimizers, a cut, a resumed run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks._averages import zero_in_averages
from ssl_prune.callbacks._network import network_of, refuse_sharded
from ssl_prune.callbacks._resumes import Resumes, unreadable
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.groups import Granularity, Partition, Patterns, partition
from ssl_prune.groups.registry import granularity_of
from ssl_prune.groups.shards import reshard
from ssl_prune.shrinking import Source, carry, dense_form, lineage_of
from ssl_prune.solvers import Solver

__all__ = ["StepCallback"]

# Of granularities in checkpoints: the key of a state is the one that it was first written with.
FIRST_NAMES = {"weight": "entry", "Weight()": "Entry()"}


class StepCallback(Resumes, ABC):
    """Attaches a solver to the optimizers of a run: a subclass says which, in `make_solver`.

    It acts as a hook after each optimizer step, so accumulation, clipping and steps that a gradient scaler skips need no
    care. What needs the channel graph waits for the first batch where there is no `example_input_array`.

    Note:
        Under `ModelParallelStrategy`, parameters that `configure_model` shards with `fully_shard` stay sharded: each step
        all-reduces one number a group. What needs the channel graph is traced in `setup`, so the network must be built in
        `__init__` and have an `example_input_array`.

    Args:
        granularity: which entries belong together.
        include: layers that it acts on; None: all.
        exclude: layers to leave out.
        module: name of the submodule to look at; None: the one that holds all parameters.

    Raises:
        TypeError: a granularity that is none.
        ValueError: an unknown granularity.
    """

    def __init__(
        self,
        granularity: str | Granularity,
        include: Patterns | None,
        exclude: Patterns | None,
        module: str | None,
    ) -> None:
        super().__init__()
        try:
            granularity_of(granularity)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{type(self).__name__}: {error}") from None
        self.granularity, self.include, self.exclude, self.module = granularity, include, exclude, module
        self.solver: Solver | None = None
        self._restored: dict[str, Any] | None = None
        self._nothing_left = False  # of the groups, after a cut

    @abstractmethod
    def make_solver(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module, groups: Partition
    ) -> Solver:
        """What acts after each step on these groups of the network in its dense form; not attached yet."""

    def when_restored(self, solver: Solver) -> None:
        """Set what counts as it is written now, not as the checkpoint has it."""

    @property
    def kind(self) -> Granularity:
        """The granularity as an object."""
        return granularity_of(self.granularity)

    @property
    def groups(self) -> Partition | None:
        """The groups, once training has started."""
        return self.solver.groups if self.solver is not None else None

    @property
    def state_key(self) -> str:
        """Distinct for every callback of one run, so that each finds its own state in a checkpoint."""
        return self._generate_state_key(**self._identity())

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check granularity, patterns and example input before anything is trained."""
        if stage != "fit" or not any(True for _ in pl_module.parameters()):
            return
        if isinstance(trainer.strategy, (pl.strategies.FSDPStrategy, pl.strategies.DeepSpeedStrategy)):
            raise ValueError(
                f"{type(self).__name__}: {type(trainer.strategy).__name__} flattens parameters, so that they have no rows or "
                "channels; use ModelParallelStrategy and torch.distributed.fsdp.fully_shard in configure_model"
            )
        RunContext.begin(trainer, pl_module)
        self._nothing_left, self._restored = False, None  # a checkpoint is loaded after this
        if not self._waits_for_batch(pl_module):
            self._partition(pl_module, network_of(pl_module, self.module))

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
            RunContext.of(pl_module).remember(pl_module, batch)
            self._attach(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Averages of the weights know the zeros of this step."""
        if self.solver is not None:
            zero_in_averages(trainer, pl_module, self.solver.groups)

    def on_shrink(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module, origin: Mapping[str, Source]
    ) -> None:
        """Go on with what is left of the groups."""
        if self.solver is not None and network_of(pl_module, self.module) is network:
            self._carry(self.solver, origin, network)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the optimizers."""
        if self.solver is not None:
            self.solver.detach()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers when a run breaks off."""
        if self.solver is not None:
            self.solver.detach()

    def state_dict(self) -> dict[str, Any]:
        """What the solver keeps: numbers, lists and tensors only."""
        state = self._restored if self.solver is None else self.solver.state_dict()
        if state is None:
            return {"nothing_left": True} if self._nothing_left else {}
        return {"solver": state}

    def _take_over(self, state: dict[str, Any]) -> None:
        """Keep the state until the solver exists."""
        self._restored = state.get("solver")
        if self._restored is not None and not isinstance(self._restored, Mapping):
            raise TypeError(f"got a {type(self._restored).__name__} for the solver, expected a dict")

    def _identity(self) -> dict[str, Any]:
        """What tells callbacks of one class apart."""
        name = str(self.granularity)
        return {
            "granularity": FIRST_NAMES.get(name, name),
            "include": str(self.include),
            "exclude": str(self.exclude),
            "module": self.module,
        }

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network = network_of(pl_module, self.module)
        # Of a network that was cut, groups keep the numbers that they have in the dense one.
        lineage, dense = lineage_of(network), dense_form(network)
        self.solver = self.make_solver(trainer, pl_module, dense, self._partition(pl_module, dense))
        if lineage is not None and not self._carry(self.solver, lineage.sources(), network):
            return
        if self._restored is not None:
            try:
                self.solver.load_state_dict(self._restored)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise unreadable(self, error) from error
            self.when_restored(self.solver)
            self._restored = None
        self.solver.attach(*trainer.optimizers)

    def _carry(self, solver: Solver, origin: Mapping[str, Source], network: nn.Module) -> bool:
        """Put the solver on the network as it is after a cut; False if no group is left."""
        groups = carry(solver.groups, origin, network)
        if groups is None:
            solver.detach()
            self.solver, self._nothing_left = None, True
            return False
        solver.rebind(groups, origin)
        return True

    def _waits_for_batch(self, pl_module: pl.LightningModule) -> bool:
        return self.kind.needs_graph and pl_module.example_input_array is None

    def _partition(self, pl_module: pl.LightningModule, network: nn.Module) -> Partition:
        graph, context = None, RunContext.of(pl_module)
        if self.kind.needs_graph:
            example = context.needed_example(self, pl_module, network_of(pl_module, self.module))
            graph = context.graph(network, example)
        return partition(network, self.kind, include=self.include, exclude=self.exclude, graph=graph)
