"""The channel graph: which axes of which parameters are one removable unit, and who reads it."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.program import Program, module_of
from ssl_prune.graph.labels.channel_arrays import ChannelArray, channel_arrays
from ssl_prune.graph.labels.hidden_state import State
from ssl_prune.graph.labels.label_types import Role
from ssl_prune.graph.labels.pin_reasons import Causes

__all__ = ["ChannelGraph", "ParameterAxis", "Reader"]

aten = torch.ops.aten
_NORMS = {
    aten.batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training, aten.instance_norm,
    aten.layer_norm, aten.native_layer_norm, aten.rms_norm, aten._fused_rms_norm, aten.group_norm,
    aten.native_group_norm,
}  # fmt: skip


@dataclass(frozen=True)
class ParameterAxis:
    """One axis of a parameter or buffer, position by position.

    Args:
        name: name of the parameter or buffer, as in `state_dict()`.
        axis: which axis.
        role: "writer" (rows and biases that produce channels), "reader" (weights that consume channels), "grouped"
            (what each group of a convolution has of its own); "scale", "shift" and "statistic" of a normalisation;
            "bias" (added to a channel by hand), "other" (any other number a channel, such as the slope of a PReLU).
        units: ``(size of the axis,)`` unit of each position, -1 where nothing can ever be removed.

    Example:
        >>> import torch
        >>> from ssl_prune.graph import trace
        >>> graph = trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)), torch.zeros(1, 4))
        >>> graph.axes[-1]
        ParameterAxis(name='1.weight', axis=1, role='reader', units=tensor([0, 1, 2]))
    """

    name: str
    axis: int
    role: Role
    units: Tensor


@dataclass(frozen=True)
class Reader:
    """A place where channels are read, with units in place of labels; the fields are those of `Contraction`."""

    node: fx.Node
    module: str
    weight: str | None
    source: fx.Node | None
    source_axes: tuple[int, ...]
    read: Tensor
    written: Tensor
    in_axis: int
    rows: Tensor | None
    columns: Tensor | None
    groups: int
    padded: bool
    other: fx.Node | None
    other_axes: tuple[int, ...]
    state: tuple[State, ...]
    stacked: Tensor | None = None

    @property
    def depthwise(self) -> bool:
        """Each channel is read alone into one: in and out are one unit, so it decides nothing about liveness."""
        return self.groups > 1 and self.groups == len(self.read) == len(self.written)

    @property
    def grouped(self) -> bool:
        """A convolution of several groups that each read or write several channels."""
        return self.groups > 1 and not self.depthwise


@dataclass(frozen=True)
class ChannelGraph:
    """Removable units of a network, from its structure alone: weights do not matter, only how data moves.

    Args:
        program: the exported network.
        num_units: how many units there are; every unit can be removed without touching an output's shape.
        axes: every parameter axis that holds a removable position.
        buffers: the same for buffers (running statistics).
        readers: every contraction, in program order.
        pinned: (reason, count) of channels that can never be removed.
        boxes: for each node whose channels run over several axes, or over one of several, their units; what stays of
            them must be an array again.
        equal: ``(n, m)`` units of which every row keeps equally many; or none, where the flag beside says so.
        level: ``(n, m)`` units of which every row keeps equally many, unless the module they belong to becomes another.
        whole: modules that are cut only by becoming others: until then they keep all their units.
        packed: nodes of these whose values need not stay arrays when they become others.
        alike: pairs of (n, m) and (n, k) units of which row i may vanish only together with the other's row i.
        unreached: modules with parameters that the forward did not use on the example.
        causes: why positions that belong to no unit can never be removed; None without a program.
        refusal: why `torch.export` refused the network, so that there is no program; None where it did not.
        shared: pairs of ``(n,)`` units of a vector that serves many slices and ``(n, k)`` units beside it: position i of
            the one goes if and only if all of row i does.
        straight: axes of a node's value along which only whole slices go.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> graph = trace(net, torch.randn(1, 4))
        >>> graph.num_units
        3
        >>> [(a.name, a.axis, a.role) for a in graph.axes]
        [('0.weight', 0, 'writer'), ('0.bias', 0, 'writer'), ('2.weight', 1, 'reader')]
    """

    program: Program
    num_units: int
    axes: tuple[ParameterAxis, ...]
    buffers: tuple[ParameterAxis, ...]
    readers: tuple[Reader, ...]
    pinned: tuple[tuple[str, int], ...]
    boxes: dict[fx.Node, Tensor] = field(default_factory=dict)
    equal: tuple[tuple[Tensor, bool], ...] = ()
    alike: tuple[tuple[Tensor, Tensor], ...] = ()
    level: tuple[Tensor, ...] = ()
    unreached: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    packed: frozenset[fx.Node] = frozenset()
    causes: Causes | None = field(default=None, repr=False, compare=False)
    refusal: str | None = field(default=None, repr=False)
    shared: tuple[tuple[Tensor, Tensor], ...] = ()
    straight: dict[fx.Node, set[int]] = field(default_factory=dict)

    @cached_property
    def unit_layer(self) -> tuple[str, ...]:
        """``(U,)`` name of the first module that writes each unit: of contractions, else of what a table holds."""
        layers = [""] * self.num_units
        for axis in reversed(self.axes):
            if axis.role == "writer":
                for unit in axis.units[axis.units >= 0].tolist():
                    layers[unit] = axis.name.rpartition(".")[0]
        for reader in reversed(self.readers):
            for unit in reader.written[reader.written >= 0].tolist():
                layers[unit] = reader.module
        return tuple(layers)

    @cached_property
    def layers_at(self) -> dict[fx.Node, Reader]:
        """Node -> the contraction with a weight of its own that it is."""
        return {reader.node: reader for reader in self.readers if reader.weight is not None}

    @cached_property
    def bypassed(self) -> tuple[str, ...]:
        """Contraction modules without which an input still reaches every output: those that a shortcut bypasses."""
        nodes = {node: reader.module for node, reader in self.layers_at.items()}
        count: dict[str, int] = {}
        for module in nodes.values():
            count[module] = count.get(module, 0) + 1
        return tuple(
            module for node, module in nodes.items() if count[module] == 1 and _connected(self.program, without=node)
        )

    @cached_property
    def arrays(self) -> tuple[ChannelArray, ...]:
        """Values whose channels run over several axes."""
        return channel_arrays(self.boxes, self.packed, self.program, self.straight)

    @cached_property
    def followers(self) -> dict[str, tuple[str, ...]]:
        """Contraction module -> normalisation modules that read its output directly."""
        found: dict[str, tuple[str, ...]] = {}
        for reader in self.readers:
            if reader.weight is None:
                continue
            users = [
                module_of(user)
                for user in reader.node.users
                if getattr(user.target, "overloadpacket", None) in _NORMS and user.args[0] is reader.node
            ]
            found[reader.module] = tuple(dict.fromkeys(users))
        return found


def _connected(program: Program, without: fx.Node) -> bool:
    """Some input still reaches an output when `without` yields nothing."""
    reached: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in program.inputs:
                reached.add(node)
        elif node is not without and any(used in reached for used in node.all_input_nodes):
            reached.add(node)
    output = next(iter(reversed(program.graph.nodes)))
    return all(used in reached for used in output.all_input_nodes)
