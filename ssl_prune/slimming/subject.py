"""What slimming is about: a network, its channel graph, and an example of its inputs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.costs import Cost, cost
from ssl_prune.graph import ChannelGraph
from ssl_prune.utils.inputs import Inputs, map_tensors
from ssl_prune.utils.tensors import named_tensors, run_aside

__all__ = ["Subject"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its channel graph and an example; it is looked at and left as it was.

    Tensors and modules are listed once: a network that changes its structure afterwards is another subject.

    Args:
        graph: channel graph of `model`, or of a network of the same architecture.
        model: the network with the weights to look at.
        inputs: the example the graph was traced on, or another of the same shapes.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net, x = nn.Linear(4, 2), torch.randn(3, 4)
        >>> subject = Subject(trace(net, x), net, x)
        >>> list(subject.tensors), subject.run().shape, subject.cost().macs
        (['weight', 'bias'], torch.Size([3, 2]), 24)
    """

    graph: ChannelGraph
    model: nn.Module
    inputs: Inputs

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer, a shared one under each of its names; a layer may keep its weight in a buffer."""
        return named_tensors(self.model)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module under its first name."""
        return dict(self.model.named_modules())

    def run(self) -> Any:
        """What the network returns for the example; neither of them, nor a buffer, is written into."""
        return run_aside(self.model, self.inputs)

    def cost(self, *, run: bool = True) -> Cost:
        """What the network costs on the example; see `ssl_prune.cost`."""
        return cost(self.model, map_tensors(torch.clone, self.inputs), run=run)
