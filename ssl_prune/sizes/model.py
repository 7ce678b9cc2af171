"""What a network costs without some of its channels, in a few tensor operations instead of a cut."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.graph.export.macs import macs, program_macs
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

    def __call__(self, dead: Tensor, gone: Collection[str] = ()) -> dict[str, float]:
        """Both costs without the `dead` units ``(U,)``, those that have to stay with the others counted as alive.

        Args:
            dead: ``(U,)`` units.
            gone: names of modules that go as a whole.
        """
        alive = ~dead
        if self.graph.arrays or self.graph.equal or self.graph.alike:
            alive = alive | regular(self.graph, alive, level=False)
        return {"macs": self._macs.total(alive, gone), "params": self._params.total(alive, gone)}

    def savings(self, dead: Tensor) -> dict[str, Tensor]:
        """``(U,)`` what each unit alone saves, where the `dead` ones are gone already."""
        return {"macs": self._macs.each(~dead), "params": self._params.each(~dead)}

    def _add_macs(self) -> None:
        readers: dict[tuple[object, int], list[Reader]] = {}
        for reader in self.graph.readers:
            # Attention is noted where queries meet keys, by their values, and where that meets values, by its heads.
            second = reader.weight is None and reader.source is None and len(macs(reader.node)) > 1
            readers.setdefault((reader.node, int(second)), []).append(reader)
        counted = 0
        for (_, product), own in readers.items():
            # The matrices of a recurrent layer are multiplied equally often.
            count = macs(own[0].node)[product] if macs(own[0].node) else 0
            each = count / max(1, sum(_pairs(reader) for reader in own))
            counted += count
            for reader in own:
                if reader.weight is None:  # of the units whose channels a product of values has
                    units = [torch.where(reader.written >= 0, reader.written, reader.read)]
                    if reader.stacked is not None:  # by a stack of matrices
                        each, units = each / len(reader.stacked), [reader.read, reader.stacked]
                    self._macs.add(each, units)
                    continue
                units = [reader.written] if reader.depthwise else [reader.written, reader.read]
                self._macs.add(each, units, reader.groups if reader.grouped else 1, reader.module)
        self._macs.add(program_macs(self.graph.program) - counted, [])  # products of no channels that could go

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
    """Pairs of channels that a layer reads and writes, or channels of a product of values."""
    return len(reader.written) * (1 if reader.weight is None else len(reader.read) // reader.groups)
