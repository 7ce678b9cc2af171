"""The channel graph: which axes of which parameters are one removable unit, and who reads it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph.export.module_kinds import attention_modules
from ssl_prune.graph.export.program import Program, export, module_of
from ssl_prune.graph.labels.channel_arrays import ChannelArray, channel_arrays
from ssl_prune.graph.labels.hidden_state import State
from ssl_prune.graph.labels.label_pass import Contraction, LabelPass, Role
from ssl_prune.graph.labels.pin_reasons import Causes
from ssl_prune.graph.labels.union_find import PINNED
from ssl_prune.utils.inputs import Inputs

__all__ = ["ChannelGraph", "ParameterAxis", "Reader", "trace"]

KEPT = -1


@dataclass(frozen=True)
class ParameterAxis:
    """One axis of a parameter or buffer, position by position.

    Args:
        name: name of the parameter or buffer, as in `state_dict()`.
        axis: which axis.
        role: "writer" (rows and biases that produce channels), "norm" (scale, shift and statistics of a channel, or
            any per-channel parameter), "reader" (weights that consume channels).
        units: (size of the axis,) unit of each position, -1 where nothing can ever be removed.
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
        equal: (n, m) units of which every row keeps equally many; or none, where the flag beside says so.
        level: (n, m) units of which every row keeps equally many, unless the module they belong to becomes another.
        whole: modules that are cut only by becoming others: until then they keep all their units.
        packed: nodes of these whose values need not stay arrays when they become others.
        alike: pairs of (n, m) and (n, k) units of which row i may vanish only together with the other's row i.
        unreached: modules with parameters that the forward did not use on the example.
        causes: why positions that belong to no unit can never be removed; None without a program.
        refusal: why `torch.export` refused the network, so that there is no program; None where it did not.

    Example:
        >>> from torch import nn
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

    @cached_property
    def unit_layer(self) -> tuple[str, ...]:
        """(U,) name of the first module that writes each unit."""
        layers = [""] * self.num_units
        for reader in reversed(self.readers):
            for unit in reader.written[reader.written >= 0].tolist():
                layers[unit] = reader.module
        return tuple(layers)

    @cached_property
    def bypassed(self) -> tuple[str, ...]:
        """Contraction modules without which an input still reaches every output: those that a shortcut bypasses."""
        nodes = {reader.node: reader.module for reader in self.readers if reader.weight is not None}
        count: dict[str, int] = {}
        for module in nodes.values():
            count[module] = count.get(module, 0) + 1
        return tuple(
            module for node, module in nodes.items() if count[module] == 1 and _connected(self.program, without=node)
        )

    @cached_property
    def arrays(self) -> tuple[ChannelArray, ...]:
        """Values whose channels run over several axes."""
        return channel_arrays(self.boxes, self.packed, self.program)

    @cached_property
    def followers(self) -> dict[str, tuple[str, ...]]:
        """Contraction module -> normalisation modules that read its output directly."""
        found: dict[str, tuple[str, ...]] = {}
        for reader in self.readers:
            if reader.weight is None:
                continue
            users = [module_of(u) for u in reader.node.users if "norm" in str(u.target) and u.args[0] is reader.node]
            found[reader.module] = tuple(dict.fromkeys(users))
        return found


def trace(model: nn.Module, example_inputs: Inputs) -> ChannelGraph:
    """The channel graph of `model`, which is left as it was.

    Args:
        model: any network that `torch.export` can follow.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        GraphError: the network cannot be traced on this example.
    """
    program = export(model, example_inputs)
    labels = LabelPass(program, model)
    labels.run()
    return _resolve(program, labels)


def _resolve(program: Program, labels: LabelPass) -> ChannelGraph:
    """Number the removable classes and translate labels into units."""
    used = {key: labels.sets.find(ids) for key, ids in labels.axes.items() if key in labels.roles}
    written = {key: roots for key, roots in used.items() if labels.roles[key] == "writer"}
    # An axis that no rule spoke for (a parameter used in an unknown way) keeps what it is tied to.
    unspoken = {key: ids for key, ids in labels.axes.items() if key not in labels.roles}
    silent = [labels.sets.find(ids) for ids in unspoken.values()]
    starts = [*written.values(), *(labels.sets.find(ids) for ids in labels.virtual)]
    removable = torch.cat(starts).unique() if starts else torch.zeros(0, dtype=torch.long)
    removable = removable[removable > PINNED]
    if silent:
        removable = removable[~torch.isin(removable, torch.cat(silent))]

    def units(ids: Tensor) -> Tensor:
        roots = labels.sets.find(ids).contiguous()
        if not len(removable):
            return torch.full_like(roots, KEPT)
        place = torch.searchsorted(removable, roots).clamp(max=len(removable) - 1)
        return torch.where(removable[place] == roots, place, KEPT)

    axes = tuple(
        ParameterAxis(name, axis, labels.roles[name, axis], units(ids))
        for (name, axis), ids in labels.axes.items()
        if (name, axis) in labels.roles
    )
    readers = tuple(_reader(contraction, units) for contraction in labels.contractions)
    pinned = tuple(
        (reason, len(torch.cat(ids).unique())) for reason, ids in labels.pins.items() if torch.cat(ids).numel()
    )
    kept = [axis for axis in axes if bool((axis.units >= 0).any())]
    parameters = tuple(axis for axis in kept if axis.name in program.parameters)
    buffers = tuple(axis for axis in kept if axis.name not in program.parameters)
    boxes = {node: found for node, ids in labels.boxes.items() if bool(((found := units(ids)) >= 0).any())}
    equal = tuple((found, vanish) for ids, vanish in labels.strict if bool(((found := units(ids)) >= 0).any()))
    level = tuple(found for ids in labels.levels if bool(((found := units(ids)) >= 0).any()))
    alike = tuple((units(a), units(b)) for a, b in labels.together)
    alike = tuple((a, b) for a, b in alike if bool((a >= 0).any() | (b >= 0).any()))
    return ChannelGraph(
        program,
        len(removable),
        parameters,
        buffers,
        readers,
        pinned,
        boxes,
        equal,
        alike,
        level,
        labels.unreached,
        *attention_modules(program),
        _causes(labels, unspoken),
    )


def _causes(labels: LabelPass, silent: dict[tuple[str, int], Tensor]) -> Causes:
    """Why what stays does; the second axis of a weight of several groups runs over other channels in each."""
    axes, met = dict(labels.axes), dict[tuple[str, int], str]()
    for c in labels.contractions:
        if c.weight is not None and 1 < c.groups < len(c.read):
            axes[c.weight, 1] = c.read if c.in_axis == 1 else c.written
            if c.source in labels.origin:
                met[c.weight, 1] = labels.origin[c.source]
    return Causes(labels.sets, axes, silent, met)


def _reader(c: Contraction, units: Callable[[Tensor], Tensor]) -> Reader:
    return Reader(
        c.node, c.module, c.weight, c.source, c.source_axes, units(c.read), units(c.written), c.in_axis, c.rows,
        c.columns, c.groups, c.padded, c.other, c.other_axes, c.state,
    )  # fmt: skip


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
