"""What a network costs without some of its channels, in a few tensor operations instead of a cut."""

from collections.abc import Collection

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.graph.export.macs import macs
from ssl_prune.graph.export.program import module_of
from ssl_prune.sizes.products import Products
from ssl_prune.slimming.analysis.rectangular import regular

__all__ = ["SizeModel"]


class SizeModel:
    """Multiply-accumulates and parameters of a network without some of its units.

    Both are sums over layers of a constant times the number of channels written times the number read; what stays with
    nothing but a count of them is a vector product.

    Args:
        graph: channel graph of the network.
        model: the network.
        round_to: count every width as the next multiple of it, as `slim(round_to=...)` leaves it.

    Attributes:
        dense: both costs of the whole network, as `ssl_prune.cost` counts them.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> sizes = SizeModel(trace(net, torch.randn(1, 4)), net)
        >>> sizes(torch.arange(8) < 5)  # five of eight hidden units
        {'macs': 18.0, 'params': 23.0}
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, round_to: int = 1) -> None:
        self.graph, self.round_to = graph, round_to
        self._macs, self._params = Products(graph.num_units, round_to), Products(graph.num_units, round_to)
        self._add_macs()
        self._add_params(model)
        self.dense = self(torch.zeros(graph.num_units, dtype=torch.bool))

    def __call__(
        self, dead: Tensor, gone: Collection[str] = (), kinds: Collection[str] = ("macs", "params")
    ) -> dict[str, float]:
        """The costs without the `dead` units ``(U,)``, those that have to stay with the others counted as alive.

        Args:
            dead: ``(U,)`` units.
            gone: names of modules that go as a whole.
            kinds: which costs; others among them are left to others.
        """
        alive = ~dead
        if self.graph.arrays or self.graph.equal or self.graph.alike:
            alive = alive | regular(self.graph, alive, level=False)
        costs = {"macs": self._macs, "params": self._params}
        return {kind: products.total(alive, gone) for kind, products in costs.items() if kind in kinds}

    def savings(self, dead: Tensor) -> dict[str, Tensor]:
        """``(U,)`` what each unit alone saves, where the `dead` ones are gone already."""
        return {"macs": self._macs.each(~dead), "params": self._params.each(~dead)}

    def _add_macs(self) -> None:
        layers: dict[fx.Node, list[Reader]] = {}
        stacks: dict[fx.Node, list[tuple[Tensor, Tensor]]] = {}
        for reader in self.graph.readers:
            if reader.weight is not None:
                layers.setdefault(reader.node, []).append(reader)
            elif reader.stacked is not None:
                stacks.setdefault(reader.node, []).append((reader.read, reader.stacked))
        for node in self.graph.program.graph.nodes:
            if node in layers:
                # The matrices of a recurrent layer are multiplied equally often.
                each = sum(macs(node)) / sum(_pairs(reader) for reader in layers[node])
                for reader in layers[node]:
                    units = [reader.written] if reader.depthwise else [reader.written, reader.read]
                    self._macs.add(each, units, reader.groups if reader.grouped else 1, reader.module)
                continue
            if node in stacks:  # channels of a value by a stack of matrices
                each = sum(macs(node)) / sum(len(read) * len(stacked) for read, stacked in stacks[node])
                for pair in stacks[node]:
                    self._macs.add(each, pair)
                continue
            for count, values in zip(macs(node), _factors(node), strict=False):
                boxes = [self.graph.boxes[value].flatten() for value in values if value in self.graph.boxes]
                # What has channels along more axes says which products there are; of no channels they are a constant.
                found = max(boxes, key=len, default=torch.tensor([-1]))
                self._macs.add(count / len(found), [found], owner=module_of(node))

    def _add_params(self, model: nn.Module) -> None:
        axes: dict[str, dict[int, Tensor]] = {}
        for axis in self.graph.axes:
            axes.setdefault(axis.name, {})[axis.axis] = axis.units
        groups = {r.weight: r for r in self.graph.readers if r.weight is not None and r.grouped}
        for name, parameter in model.named_parameters():
            own, owner = axes.get(name, {}), name.rpartition(".")[0]
            if name in groups:  # the second axis runs over the channels of one group
                reader = groups[name]
                units = [reader.written, reader.read] if reader.in_axis == 1 else [reader.read, reader.written]
                self._params.add(parameter.shape[2:].numel(), units, reader.groups, owner)
                continue
            fixed = [size for axis, size in enumerate(parameter.shape) if axis not in own]
            self._params.add(torch.Size(fixed).numel(), [own[axis] for axis in sorted(own)], owner=owner)


def _pairs(reader: Reader) -> int:
    """Pairs of channels that a layer reads and writes."""
    return len(reader.written) * (1 if reader.depthwise else len(reader.read) // reader.groups)


def _factors(node: fx.Node) -> list[list[fx.Node]]:
    """Of each product that an operator makes, the values whose channels it runs over."""
    if getattr(node.target, "overloadpacket", None) is torch.ops.aten.scaled_dot_product_attention:
        return [[value for value in node.args[:2] if isinstance(value, fx.Node)], [node]]
    return [[*node.all_input_nodes, node]]
