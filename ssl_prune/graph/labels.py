"""The label pass: which entries of each value belong to which removable channel.

Every value of the program carries one integer label per element. Operators that only move data are executed on the
labels by the same operator; contractions (convolution, linear) start new labels on their weight's output axis and tie
their weight's input axis to the labels they read. Two axes whose labels join are cut together or not at all.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph.program import Interpretation, Program, module_of
from ssl_prune.graph.unionfind import PINNED, WILDCARD, UnionFind

__all__ = ["Contraction", "LabelPass", "Parameter", "Role", "collapse"]

Role = str  # "writer" | "norm" | "reader"


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
    """A convolution or linear operator: where channels are read.

    Args:
        node: its node in the program.
        module: name of the module it belongs to.
        weight: name of its weight.
        source: the node whose value it reads.
        read: labels of the channels it reads, one per input channel.
        written: labels of the channels it writes, one per output channel.
        in_axis: axis of the weight that runs over input channels (within a group).
        groups: groups of the convolution, 1 for linear.
        padded: positions outside the input are read as zero, so that a constant cannot be folded into the bias.
    """

    node: fx.Node
    module: str
    weight: str
    source: fx.Node
    read: Tensor
    written: Tensor
    in_axis: int
    groups: int
    padded: bool


def collapse(labels: Tensor) -> Tensor:
    """`labels` with every axis along which they are constant turned into a stride-0 view."""
    shape = labels.shape
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1:
            first = labels.narrow(axis, 0, 1)
            if labels.stride(axis) == 0 or bool((labels == first).all()):
                labels = first
    return labels.expand(shape)


def base(labels: Tensor) -> Tensor:
    """`labels` with each constant (stride-0) axis narrowed to size 1."""
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels


class LabelPass(Interpretation):
    """Runs the operator rules of `ssl_prune.graph.rules` over a program and collects ties, roles and readers."""

    def __init__(self, program: Program, model: nn.Module) -> None:
        super().__init__(program)
        self.sets = UnionFind()
        self.axes: dict[tuple[str, int], Tensor] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self.contractions: list[Contraction] = []
        self.pins: dict[str, list[Tensor]] = {}
        self._tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self._first_name: dict[int, str] = {}

    # -- values ------------------------------------------------------------------------------------------------

    def placeholder(self, node: fx.Node) -> Any:
        """Labels of a parameter or an input."""
        name = self.program.tensors.get(node.name)
        if name is not None:
            tensor = self._tensors[name]
            # Tied weights are one parameter: the first name stands for all.
            return self.parameter(self._first_name.setdefault(id(tensor), name), tensor.shape)
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return value
        if node.name in self.program.constants:
            return torch.full((), WILDCARD).expand(value.shape)
        return torch.full((), PINNED).expand(value.shape)

    def parameter(self, name: str, shape: torch.Size) -> Parameter:
        """The label planes of a parameter, the same labels whenever it is asked for."""
        planes = []
        for axis, size in enumerate(shape):
            if (name, axis) not in self.axes:
                self.axes[name, axis] = self.sets.new(size)
            view = [1] * len(shape)
            view[axis] = size
            planes.append(self.axes[name, axis].view(view).expand(shape))
        return Parameter(name, tuple(planes))

    def operator(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply the operator's rule."""
        from ssl_prune.graph.rules import rule_for  # rules import this module's types

        result = rule_for(node)(self, node, *args, **kwargs)
        return collapse(result) if isinstance(result, Tensor) else result

    def output(self, node: fx.Node, args: tuple[Any, ...]) -> None:
        """Outputs are never cut."""
        self.pin(node, "it reaches an output of the network", *args)

    # -- what rules say ----------------------------------------------------------------------------------------

    def shape(self, node: fx.Node) -> torch.Size:
        """Shape of a node's (first) tensor result."""
        value = node.meta["val"]
        first = value if isinstance(value, Tensor) else value[0]
        return first.shape

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Tie labels: those removed together."""
        self.sets.unite(base(first), base(second))

    def pin(self, node: fx.Node, reason: str, *values: Any) -> None:
        """Never remove any channel that `values` carry; `reason` is what the report says."""
        labels = [base(plane).reshape(-1) for value in _flatten(values) for plane in _planes(value)]
        if labels:
            everything = torch.cat(labels)
            everything = everything[everything > PINNED].unique()
            self.sets.pin(everything)
            where = module_of(node)
            self.pins.setdefault(f"{reason} ({where})" if where else reason, []).append(everything)

    def channels(self, labels: Tensor, axis: int) -> Tensor:
        """One label per position along `axis`; labels that share a position are tied."""
        size = labels.shape[axis]
        flat = base(labels).movedim(axis, 0)
        flat = flat.reshape(flat.shape[0], -1)
        first = flat.max(1).values
        if flat.shape[1] > 1:
            self.sets.unite(flat, first[:, None])
        return first.expand(size) if len(first) != size else first

    def spread(self, node: fx.Node, channels: Tensor, axis: int) -> Tensor:
        """Labels of a result whose channel axis is `axis`."""
        shape = self.shape(node)
        view = [1] * len(shape)
        view[axis] = shape[axis]
        return channels.view(view).expand(shape)

    def role(self, parameter: Any, axis: int, role: Role) -> None:
        """Say what an axis of a parameter does; the first word counts, a writer is a writer."""
        if isinstance(parameter, Parameter):
            self.roles.setdefault((parameter.name, axis), role)


def _flatten(values: Any) -> list[Any]:
    if isinstance(values, (tuple, list)):
        return [leaf for value in values for leaf in _flatten(value)]
    if isinstance(values, dict):
        return [leaf for value in values.values() for leaf in _flatten(value)]
    return [values]


def _planes(value: Any) -> tuple[Tensor, ...]:
    if isinstance(value, Parameter):
        return value.planes
    return (value,) if isinstance(value, Tensor) else ()
