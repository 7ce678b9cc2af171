"""The batch that is timed: samples of the training data, as the time that a pass takes depends on what is in them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssl_prune._lightning import pl
from ssl_prune.budget import BudgetProblem, Limits
from ssl_prune.callbacks._network import handed_on, inputs_of
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.utils.inputs import Inputs, batch_of, leaves, map_tensors

__all__ = ["LatencyMeasurement", "TimedBatch"]


class TimedBatch:
    """As many samples as are timed together, of the first batches that training reads.

    A pooling of images waits for fewer wrong guesses of the processor than one of random numbers: a LeNet-5 with six of ten
    channels took 42 % of the dense network's time on digits, and 44 % on noise. What cannot be had of the data (batches
    that are not lists of samples, a forward that takes something else) is made of the example as `batch_of` makes it.

    Args:
        size: samples.

    Attributes:
        full: nothing more is taken.

    Example:
        >>> timed = TimedBatch(4)
        >>> timed.take([torch.randn(3, 2), torch.zeros(3)])
        >>> timed.full
        False
    """

    def __init__(self, size: int) -> None:
        self.size, self.full = size, size < 1
        self._samples: Inputs | None = None
        self._made: Inputs | None = None

    def take(self, batch: Any) -> None:
        """Keep samples of a training batch, until there are enough."""
        if self.full:
            return
        try:
            samples = map_tensors(lambda t: t.detach()[: self.size].clone() if t.dim() else t, inputs_of(batch))
        except ValueError:
            self.full = True
            return
        together = samples if self._samples is None else _joined(self._samples, samples)
        if together is None or _length(together) is None:
            self.full = True
            return
        self._samples = map_tensors(lambda t: t[: self.size], together)
        self.full = _length(self._samples) == self.size

    def inputs(self, pl_module: pl.LightningModule, network: nn.Module, example: Inputs) -> Inputs:
        """The batch, as the network gets it; the same one from when it is full.

        Args:
            pl_module: that the data are for.
            network: inside it.
            example: one sample as the network gets it.
        """
        if self._made is not None:
            return self._made
        made = self._real(pl_module, network, batch_of(example, max(1, self.size)))
        self._made = made if self.full else None
        return made

    def _real(self, pl_module: pl.LightningModule, network: nn.Module, made: Inputs) -> Inputs:
        """What was taken, if the network can have it; else what was made of the example."""
        if self._samples is None:
            return made
        device = next((t.device for t in leaves(made)), None)
        dtype = next((t.dtype for t in leaves(made) if t.is_floating_point()), None)

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

        real = batch_of(handed_on(pl_module, network, map_tensors(move, self._samples)), self.size)
        return real if _form(real) == _form(made) else made


class LatencyMeasurement:
    """The share of the time that a network takes as it would be cut now; the estimate is corrected by it.

    Args:
        problem: of the network.
        limits: as they were stated.
        timed: the batch.
        pl_module: around the network.
        network: that trains.
        reference: the dense network, of which no channel is at zero.
        example: one sample as the network gets it.
    """

    def __init__(
        self,
        problem: BudgetProblem,
        limits: Limits,
        timed: TimedBatch,
        pl_module: pl.LightningModule,
        network: nn.Module,
        reference: nn.Module,
        example: Inputs,
    ) -> None:
        self.problem, self.limits, self.timed, self.pl_module = problem, limits, timed, pl_module
        self.network, self.reference, self.example = network, reference, example
        self._batch: Inputs | None = None

    def __call__(self, dead: Tensor) -> dict[str, float]:
        """Measure without the dead groups ``(G,)``, which are at zero now."""
        batch = self.timed.inputs(self.pl_module, self.network, self.example)
        if batch is not self._batch:
            self._batch = batch
            self.problem.update_latency_limit(self.limits, self.reference, batch)
        graph = RunContext.of(self.pl_module).graph(self.network, batch)
        return self.problem.measure(graph, self.network, self.reference, batch, dead)


def _length(samples: Inputs) -> int | None:
    """How many samples there are; None where the tensors do not agree on it."""
    lengths = {len(t) if t.dim() else 0 for t in leaves(samples)}
    return lengths.pop() or None if len(lengths) == 1 else None


def _joined(first: Inputs, second: Inputs) -> Inputs | None:
    """Both, one after the other; None where their samples are not alike."""
    alike = pytree.tree_structure(first) == pytree.tree_structure(second) and all(
        a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(leaves(first), leaves(second), strict=True)
    )
    if not alike:
        return None
    joined: Inputs = pytree.tree_map(lambda a, b: torch.cat([a, b]) if isinstance(a, Tensor) else a, first, second)
    return joined


def _form(inputs: Inputs) -> str:
    shapes = [(t.shape, t.dtype, t.device) for t in leaves(inputs)]
    return repr((pytree.tree_structure(inputs), shapes))
