"""What labels are kept in: parameters on their way through a program, and places where channels are read."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.hidden_state import State

__all__ = ["Contraction", "Parameter", "Role", "planes_of"]

Role = str  # "writer" | "reader" | "grouped" | "scale" | "shift" | "statistic" | "bias" | "other"


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer on its way through the program: one plane of labels per axis of the original tensor.

    Args:
        name: its name.
        planes: labels of each axis of the original tensor, shaped as the value stands now.
        computed: its numbers are no longer those of the parameter, so a zero there says nothing here.
    """

    name: str
    planes: tuple[Tensor, ...]
    computed: bool = False

    @property
    def shape(self) -> torch.Size:
        """Shape of the value as it stands now."""
        return self.planes[0].shape if self.planes else torch.Size()


@dataclass(frozen=True)
class Contraction:
    """Where channels are read: a convolution, a linear layer, a product of two values, a sum over channels.

    Args:
        node: its node in the program.
        module: name of the module it belongs to.
        weight: name of its weight; None where every channel that is read matters to all that is written.
        source: the node whose value it reads; None for the state of a recurrent layer.
        source_axes: axes of that value which the channels run over.
        read: labels of the channels it reads, one per input channel.
        written: labels of the channels it writes, one per output channel; all are connected where there is no weight.
        in_axis: axis of the weight that runs over input channels (within a group).
        rows: position on the weight's output axis of each channel written.
        columns: position on `in_axis` of each channel read (within a group).
        groups: groups of the convolution, 1 for all others.
        padded: positions outside the input are read as zero, so that a constant cannot be folded into the bias.
        other: a second node whose channels, at `other_axes`, multiply those of the source: zero there is zero here.
        state: where it reads hidden units of recurrent cells, those cells, one's units after another's.
        stacked: ``(O,)`` channels that a stack of matrices writes, each of all that is read; None of all others.
    """

    node: fx.Node
    module: str
    weight: str | None
    source: fx.Node | None
    source_axes: tuple[int, ...]
    read: Tensor
    written: Tensor
    in_axis: int = 1
    rows: Tensor | None = None
    columns: Tensor | None = None
    groups: int = 1
    padded: bool = False
    other: fx.Node | None = None
    other_axes: tuple[int, ...] = ()
    state: tuple[State, ...] = ()
    stacked: Tensor | None = None


def planes_of(values: Any) -> list[Tensor]:
    """All label tensors in nested values."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (tuple, list)):
        return [plane for value in values for plane in planes_of(value)]
    if isinstance(values, Parameter):
        return list(values.planes)
    return [values] if isinstance(values, Tensor) else []
