"""What the callbacks of one run share: a sample of the data, channel graphs, and who works with whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ssl_prune._lightning import pl
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.callbacks._network import check_fit, finish, handed_on, inputs_of
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.groups import Partition
from ssl_prune.groups.shards import has_shards
from ssl_prune.slimming.outcome.changes import BudgetChange
from ssl_prune.timing import RunLength
from ssl_prune.utils.inputs import Inputs, as_call, leaves, map_tensors

__all__ = ["RunContext", "StrengthFinder", "run_length"]

KEY = "ssl_prune_example"  # in a checkpoint: one sample of the training data


class StrengthFinder(Protocol):
    """A callback that gives a penalty without a strength its solver: a `Budget`."""

    solver: BudgetSolver | None

    def make_solver(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        network: nn.Module,
        groups: Partition,
        trained: nn.Module,
    ) -> BudgetSolver:
        """The solver for these groups of the network in its dense form, and the network that trains."""

    def judge(self, network: nn.Module, left: Mapping[str, float], why: str, whole: nn.Module) -> BudgetChange | None:
        """Compare the stated size with the one that is left."""


class RunContext:
    """The meeting place of the callbacks around one LightningModule, whatever their order.

    Graphs stay from run to run, as long as names and shapes do; the sample and the callbacks are those of one run.

    Attributes:
        budgets: the `Budget` callbacks.
        waiting: penalties without a strength, which a `Budget` finds.
        gathered: of networks with shards the whole ones, or None where another process has these.
    """

    _known: ClassVar[WeakKeyDictionary[pl.LightningModule, RunContext]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.budgets: WeakSet[StrengthFinder] = WeakSet()
        self.waiting: WeakSet[pl.Callback] = WeakSet()
        self.gathered: WeakKeyDictionary[nn.Module, nn.Module | None] = WeakKeyDictionary()
        self._first: Inputs | None = None
        self._fits = False
        self._trainer: ref[pl.Trainer] | None = None
        self._graphs: WeakKeyDictionary[nn.Module, tuple[str, dict[str, ChannelGraph]]] = WeakKeyDictionary()

    @classmethod
    def of(cls, pl_module: pl.LightningModule) -> RunContext:
        """The one of this module."""
        return cls._known.setdefault(pl_module, cls())

    @classmethod
    def begin(cls, trainer: pl.Trainer, pl_module: pl.LightningModule) -> RunContext:
        """The one of this module, without what an earlier run left; every callback calls it in `setup`."""
        context = cls.of(pl_module)
        context._first, context._fits = None, False
        context.gathered = WeakKeyDictionary()
        if context._trainer is None or context._trainer() is not trainer:
            context._trainer = ref(trainer)
            context.budgets, context.waiting = WeakSet(), WeakSet()
        present: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        # Of an earlier fit some may have been taken out.
        context.budgets = WeakSet(c for c in context.budgets if c in present)
        context.waiting = WeakSet(c for c in context.waiting if c in present)
        return context

    @property
    def budget(self) -> StrengthFinder | None:
        """The one budget of the run, if there is one."""
        return next(iter(self.budgets), None)

    def remember(self, pl_module: pl.LightningModule, batch: Any) -> None:
        """Keep one sample of a training batch, for LightningModules without `example_input_array`.

        The batch is one that training reads anyway: opening the loader to look would move generators and streams on.
        """
        if pl_module.example_input_array is None and self._first is None:
            self._first = map_tensors(lambda t: _sample(t).detach().clone(), inputs_of(batch))

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the sample of the run into a checkpoint, where it is plain data."""
        if self._first is not None and _plain(self._first):
            checkpoint[KEY] = map_tensors(lambda t: t.cpu(), self._first)

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Have the sample of a checkpoint, so that a run that goes on looks at the same one."""
        found = checkpoint.get(KEY)
        if _plain(found) and leaves(found):
            self._first = found

    def example(self, pl_module: pl.LightningModule, network: nn.Module) -> Inputs | None:
        """One sample as `network` gets it: from `example_input_array`, else of a training batch; None where there is none.

        Both are inputs of the LightningModule. Where its forward hands the network something else, it is that which counts.
        Of a network with shards it is on the CPU, where the whole one is.
        """
        example: Inputs | None = pl_module.example_input_array
        if example is None:
            example = self._first
        if example is None:
            return None
        known = [p for p in pl_module.parameters() if not is_lazy(p)]
        place = next((p for p in known if p.is_floating_point()), torch.zeros(()))

        def move(tensor: Tensor) -> Tensor:
            dtype = place.dtype if tensor.is_floating_point() else tensor.dtype
            return _sample(tensor).to(place.device, dtype)

        given = map_tensors(move, example)
        finish(pl_module, given)
        inputs = handed_on(pl_module, network, given)
        if has_shards(network, pl_module):
            return map_tensors(lambda t: t.cpu(), inputs)
        if self._first is not None and not self._fits:
            check_fit(pl_module, network, inputs)
            self._fits = True
        return inputs

    def needed_example(self, who: object, pl_module: pl.LightningModule, network: nn.Module) -> Inputs:
        """The `example`, for a callback that cannot do without.

        Raises:
            ValueError: there is none.
        """
        example = self.example(pl_module, network)
        if example is None:
            raise ValueError(
                f"{type(who).__name__}: no example input; set example_input_array on {type(pl_module).__name__}"
            )
        return example

    def graph(self, network: nn.Module, example: Inputs) -> ChannelGraph:
        """The channel graph of `network`; traced once however many callbacks ask, and again when a shape has changed.

        Raises:
            ValueError: it has shards, and was not traced before.
        """
        if has_shards(network):
            return self._known_graph(network)
        shapes = _shapes(network)
        inputs = repr([(t.shape, t.dtype, t.device) for t in leaves(as_call(example))])
        if network not in self._graphs or self._graphs[network][0] != shapes:
            self._graphs[network] = shapes, {}
        known = self._graphs[network][1]
        if inputs not in known:
            known[inputs] = trace(network, example)
        return known[inputs]

    def stands_for(self, whole: nn.Module, network: nn.Module) -> None:
        """Both have the same graphs: the one was gathered of the other."""
        shapes = _shapes(network)
        if network not in self._graphs or self._graphs[network][0] != shapes:
            self._graphs[network] = shapes, {}
        self._graphs[whole] = self._graphs[network]

    def _known_graph(self, network: nn.Module) -> ChannelGraph:
        """As it was traced in `setup`: names and shapes are still the same."""
        shapes, graphs = self._graphs.get(network, ("", {}))
        if not graphs or shapes != _shapes(network):
            raise ValueError(
                f"{type(network).__name__} is sharded, and only a whole network can be traced: build it in the __init__ of "
                "the LightningModule, set example_input_array there, and only shard it in configure_model"
            )
        return next(iter(graphs.values()))


def run_length(trainer: pl.Trainer) -> RunLength:
    """How long the run is, in optimizer steps."""
    total, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    return RunLength(
        # Of a stream that ends with its epochs Lightning says -1.
        steps=None if total == float("inf") or total < 0 else int(total),
        steps_per_epoch=None if batches == float("inf") else -(-int(batches) // trainer.accumulate_grad_batches),
    )


def _shapes(network: nn.Module) -> str:
    return repr([(name, tuple(p.shape)) for name, p in network.named_parameters()])


def _plain(value: Any) -> bool:
    """Tensors and plain numbers and texts in lists, tuples and dicts, which load without unpickling classes."""
    if type(value) is dict:
        return all(type(key) is str and _plain(inner) for key, inner in value.items())
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    return value is None or type(value) in (Tensor, bool, int, float, str)


def _sample(tensor: Tensor) -> Tensor:
    return tensor[:1] if tensor.dim() else tensor
