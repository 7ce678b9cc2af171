"""The label pass: which entries of each value belong to which removable channel.

Every value of the program carries one integer label per element. Operators that only move data are executed on the
labels by the same operator; contractions (convolution, linear) start new labels on their weight's output axis and tie
their weight's input axis to the labels they read. Two axes whose labels join are cut together or not at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph.export.program import Interpretation, Program, module_of, visible
from ssl_prune.graph.export.unused_parameters import unreached
from ssl_prune.graph.labels.broadcast import base, collapse
from ssl_prune.graph.labels.hidden_state import State
from ssl_prune.graph.labels.union_find import PINNED, WILDCARD, UnionFind

__all__ = ["Contraction", "LabelPass", "Parameter", "Role", "base", "collapse"]

_COPIES = {
    getattr(torch.ops.aten, n) for n in ("lift_fresh_copy", "clone", "alias", "detach", "_to_copy", "to", "contiguous")
}

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


class LabelPass(Interpretation):
    """Runs the operator rules of `ssl_prune.graph.rules` over a program and collects ties, roles and readers."""

    def __init__(self, program: Program, model: nn.Module) -> None:
        super().__init__(program)
        self.sets = UnionFind()
        self.axes: dict[tuple[str, int], Tensor] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self.contractions: list[Contraction] = []
        self.pins: dict[str, list[Tensor]] = {}
        self.virtual: list[Tensor] = []
        self.boxes: dict[fx.Node, Tensor] = {}
        self.strict: list[tuple[Tensor, bool]] = []
        self.together: list[tuple[Tensor, Tensor]] = []
        self.levels: list[Tensor] = []
        self._start: dict[tuple[str, int], int] = {}
        self._tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self._first_name: dict[int, str] = {}
        self.origin: dict[fx.Node, str] = {}
        self._reason: str | None = None
        self.unreached, self._beside = unreached(program, self._tensors)

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
        self.origin[node] = "they belong to an input of the network"
        return torch.full((), PINNED).expand(value.shape)

    def parameter(self, name: str, shape: torch.Size) -> Parameter:
        """The label planes of a parameter, the same labels whenever it is asked for."""
        planes = []
        for axis, size in enumerate(shape):
            if (name, axis) not in self.axes:
                fresh = self.sets.new(size)
                self.axes[name, axis], self._start[name, axis] = fresh, int(fresh[0]) if size else 0
            view = [1] * len(shape)
            view[axis] = size
            planes.append(self.axes[name, axis].view(view).expand(shape))
        return Parameter(name, tuple(planes))

    def operator(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply the operator's rule."""
        from ssl_prune.graph.rules import rule_for, unknown  # rules import this module's types

        # What meets a value that is pinned already is pinned for the reason for which that was.
        origin = next((self.origin[used] for used in node.all_input_nodes if used in self.origin), None)
        self.sets.now, self._reason = origin, None
        try:
            result = rule_for(node)(self, node, *args, **kwargs)
        except (TypeError, AttributeError, ValueError, IndexError, RuntimeError, AssertionError):
            # A use that the rule was not written for, such as a parameter where it expects a value: keep it all.
            result = unknown(self, node, *args, **kwargs)
        reason = self._reason or origin
        if reason is not None and any(bool((base(plane) == PINNED).any()) for plane in _all_planes(result)):
            self.origin[node] = reason
        if not isinstance(result, Tensor):
            return result
        result = collapse(result)
        self._spare(node, result)
        moving = base(result).squeeze()
        if moving.dim() > 1 or (moving.dim() == 1 and result.dim() > 1):
            self.boxes[node] = base(result)
        return result

    def _spare(self, node: fx.Node, result: Tensor) -> None:
        """Pin what code that the example did not run may read."""
        widths = {size for axis, size in enumerate(result.shape) if size > 1 and result.stride(axis) != 0}
        for owner, (scope, sizes) in self._beside.items():
            if any(size % width == 0 for size in sizes for width in widths) and visible(node, scope):
                beside = owner or "a parameter of the network itself"
                self.pin(node, f"{beside}, which the forward did not reach on the example, may read them", result)

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
        labels = [base(plane).reshape(-1) for plane in _all_planes(values)]
        where = module_of(node)
        reason = f"{reason} ({where})" if where else reason
        self._reason = self._reason or reason
        if labels:
            everything = torch.cat(labels)
            everything = everything[everything > PINNED].unique()
            before, self.sets.now = self.sets.now, reason
            self.sets.pin(everything)
            self.sets.now = before
            self.pins.setdefault(reason, []).append(everything)

    def channels(self, labels: Tensor, axis: int) -> Tensor:
        """One label per position along `axis`; labels that share a position are tied."""
        size = labels.shape[axis]
        if not labels.numel():
            return torch.full((), WILDCARD).expand(size)
        flat = base(labels).movedim(axis, 0)
        flat = flat.reshape(flat.shape[0], -1)
        first = flat.max(1).values
        if flat.shape[1] > 1:
            self.sets.unite(flat, first[:, None])
        return first.expand(size) if len(first) != size else first

    def joined(self, labels: Tensor, axes: Iterable[int]) -> Tensor | None:
        """Labels of a value of which an operator needs all positions along `axes`: those beside each other are tied.

        None where channels run along these axes alone, or where positions beside them carry some of the same: then what
        is tied would be all of them.
        """
        moving = [axis for axis in range(labels.dim()) if labels.shape[axis] > 1 and labels.stride(axis) != 0]
        inside = [axis for axis in moving if axis in set(axes)]
        if not inside:
            return labels
        fibres = self.sets.find(base(labels)).movedim(inside, list(range(-len(inside), 0))).flatten(-len(inside))
        ordered = fibres.reshape(-1, fibres.shape[-1]).sort(1).values
        fresh = torch.ones_like(ordered, dtype=torch.bool)
        fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        each, together = ordered[fresh & (ordered >= 0)], ordered[ordered >= 0].unique()
        if inside == moving or len(each) > len(together):
            return None
        first = base(labels).amax(inside, keepdim=True)  # a wildcard is the smallest
        self.unite(labels, first)
        return first.expand(labels.shape)

    def spread(self, node: fx.Node, channels: Tensor, axis: int) -> Tensor:
        """Labels of a result whose channel axis is `axis`."""
        shape = self.shape(node)
        view = [1] * len(shape)
        view[axis] = shape[axis]
        return channels.view(view).expand(shape)

    def known(self, node: fx.Node) -> Tensor | None:
        """The numbers of a buffer or a literal, as they stand in the network; None for anything computed."""
        while node.op == "call_function" and getattr(node.target, "overloadpacket", None) in _COPIES:
            assert isinstance(node.args[0], fx.Node)
            node = node.args[0]
        if node.op != "placeholder" or node.name in self.program.inputs:
            return None
        name = self.program.tensors.get(node.name)
        return self.program.constants.get(node.name) if name is None else self._tensors[name]

    def positions(self, name: str, axis: int, labels: Tensor) -> Tensor:
        """Where on an axis of a parameter its own labels stand."""
        return labels - self._start[name, axis]

    def equal(self, labels: Tensor, vanish: bool = False) -> None:
        """Rows of `labels`, (n, m), that must keep equally many each; or none, where they may `vanish`."""
        self.strict.append((labels, vanish))

    def level(self, labels: Tensor) -> None:
        """Rows of `labels`, (n, m), that keep equally many each where their module stays what it is."""
        self.levels.append(labels)

    def alike(self, first: Tensor, second: Tensor) -> None:
        """Row i of `first`, (n, m), may vanish as a whole if and only if row i of `second`, (n, k), does."""
        self.together.append((first, second))

    def new_virtual(self, count: int) -> Tensor:
        """Fresh labels of units that no parameter writes, such as attention heads."""
        labels = self.sets.new(count)
        self.virtual.append(labels)
        return labels

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


def _all_planes(values: Any) -> list[Tensor]:
    return [plane for value in _flatten(values) for plane in _planes(value)]


def _planes(value: Any) -> tuple[Tensor, ...]:
    if isinstance(value, Parameter):
        return value.planes
    return (value,) if isinstance(value, Tensor) else ()
