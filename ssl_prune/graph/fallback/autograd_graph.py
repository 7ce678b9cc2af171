"""The units of a network that was traced by running it: a channel graph without a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from ssl_prune.errors import GraphError
from ssl_prune.graph.channel_graph import ChannelGraph
from ssl_prune.graph.export.program import Program

__all__ = ["AutogradGraph", "Layer"]


@dataclass(frozen=True)
class Layer:
    """A layer with a matrix of weights.

    Args:
        module: its name.
        weight: name of its weight.
        written: ``(O,)`` unit of each channel that it writes, -1 for those that stay.
        read: ``(I,)`` unit of each channel that it reads; depthwise, those that it writes.
        in_axis: axis of the weight that runs over what is read.
        groups: groups of the convolution, else 1.
        norms: batch norms that are all that reads it; none if anything else does.
    """

    module: str
    weight: str
    written: Tensor
    read: Tensor
    in_axis: int
    groups: int
    norms: tuple[str, ...]

    @property
    def depthwise(self) -> bool:
        """A convolution of several groups: each channel is read alone, or what the groups read stays."""
        return self.groups > 1


@dataclass(frozen=True)
class AutogradGraph(ChannelGraph):
    """Removable units of a network, as its runs tie them; there is no program, and `readers` is empty.

    Args:
        layers: convolutions, linear layers and embeddings that ran, in the order of the network.
        kept: layer -> why channels that it writes are never removed.
        boundaries: modules whose outputs must not change, because a module that never ran might read them.
        unreached: modules with parameters that no way through the code called.
        ways: how many ways through the Python code were traced.
        refusal: why `torch.export` refused the network.
    """

    program: Program = field(init=False, repr=False, compare=False)
    layers: tuple[Layer, ...] = ()
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boundaries: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    ways: int = 1
    refusal: str = field(default="", repr=False)

    def __getattr__(self, name: str) -> Any:
        """Say why there is no program."""
        if name == "program":
            raise GraphError(f"this needs the program of the network, but {self.refusal or 'it was not exported'}")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @cached_property
    def unit_layer(self) -> tuple[str, ...]:
        """``(U,)`` name of the first module that writes each unit."""
        names = [""] * self.num_units
        for layer in reversed(self.layers):
            for unit in layer.written[layer.written >= 0].tolist():
                names[unit] = layer.module
        return tuple(names)

    @cached_property
    def bypassed(self) -> tuple[str, ...]:
        """Only a program shows what a shortcut bypasses.

        Raises:
            GraphError: always, with the reason why there is none.
        """
        return (str(self.program),)
