"""What the rules of operators say about labels, and what they may ask."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph.export.program import Program, module_of
from ssl_prune.graph.export.response_norms import response_norms
from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.labels.label_types import Contraction, Parameter, Role, planes_of
from ssl_prune.graph.labels.union_find import PINNED, WILDCARD, UnionFind

__all__ = ["Labels"]

_COPIES = {
    getattr(torch.ops.aten, n) for n in ("lift_fresh_copy", "clone", "alias", "detach", "_to_copy", "to", "contiguous")
}


class Labels:
    """Ties, roles, readers and pins of the labels of one network.

    Args:
        program: the exported network.
        model: the network itself; only names, shapes, identities and fixed indices are looked at.
    """

    def __init__(self, program: Program, model: nn.Module) -> None:
        self.sets = UnionFind()
        self.axes: dict[tuple[str, int], Tensor] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self.contractions: list[Contraction] = []
        self.pins: dict[str, list[Tensor]] = {}
        self.virtual: list[Tensor] = []
        self.equals: list[tuple[Tensor, bool]] = []
        self.alikes: list[tuple[Tensor, Tensor]] = []
        self.levels: list[Tensor] = []
        self.shared: list[tuple[Tensor, Tensor]] = []
        self.whole_slices: dict[fx.Node, set[int]] = {}
        self.reason: str | None = None  # the first one since it was last set to None
        self.tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        # Their modules become others, which still divide by the dense width.
        self.dense_means = frozenset(found.node for found in response_norms(program))
        self._program = program
        self._start: dict[tuple[str, int], int] = {}

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
        labels = [base(plane).reshape(-1) for plane in planes_of(values)]
        where = module_of(node)
        reason = f"{reason} ({where})" if where else reason
        self.reason = self.reason or reason
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
        if node.op != "placeholder" or node.name in self._program.inputs:
            return None
        name = self._program.tensors.get(node.name)
        return self._program.constants.get(node.name) if name is None else self.tensors[name]

    def positions(self, name: str, axis: int, labels: Tensor) -> Tensor:
        """Where on an axis of a parameter its own labels stand."""
        return labels - self._start[name, axis]

    def equal(self, labels: Tensor, vanish: bool = False) -> None:
        """Rows of `labels`, (n, m), that must keep equally many each; or none, where they may `vanish`."""
        self.equals.append((labels, vanish))

    def level(self, labels: Tensor) -> None:
        """Rows of `labels`, (n, m), that keep equally many each where their module stays what it is."""
        self.levels.append(labels)

    def alike(self, first: Tensor, second: Tensor) -> None:
        """Row i of `first`, (n, m), may vanish as a whole if and only if row i of `second`, (n, k), does."""
        self.alikes.append((first, second))

    def share(self, plane: Tensor, channels: Tensor) -> None:
        """Position i of a parameter's `plane`, ``(n,)``, goes if and only if all of row i of `channels`, (n, k), does."""
        self.virtual.append(plane)
        self.shared.append((plane, channels))

    def straight(self, node: fx.Node, axes: Iterable[int]) -> None:
        """Along these axes of its value only whole slices go: something as long lies beside all of it."""
        self.whole_slices.setdefault(node, set()).update(axes)

    def read_whole(self, node: fx.Node, read: Tensor, written: Tensor) -> None:
        """Each channel written needs the one read beside it, whatever its value."""
        self.contractions.append(Contraction(node, module_of(node), None, None, (), read, written))

    def new_virtual(self, count: int) -> Tensor:
        """Fresh labels of units that no parameter writes, such as attention heads."""
        labels = self.sets.new(count)
        self.virtual.append(labels)
        return labels

    def role(self, parameter: Any, axis: int, role: Role) -> None:
        """Say what an axis of a parameter does; the first word counts, a writer is a writer."""
        if isinstance(parameter, Parameter):
            self.roles.setdefault((parameter.name, axis), role)
