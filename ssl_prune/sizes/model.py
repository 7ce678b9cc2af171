"""What a network costs without some of its channels, in a few tensor operations instead of a cut."""

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.sizes.multiplications import each_pair, product, product_units
from ssl_prune.slimming.analysis.rectangular import regular
from ssl_prune.utils.tensors import named_tensors

__all__ = ["SizeModel"]


class SizeModel:
    """Multiply-accumulates and parameters of a network without some of its units.

    Both are sums over layers of a constant times the number of channels written times the number read; what stays with
    nothing but a count of them is a vector product.

    Args:
        graph: channel graph of the network.
        model: the network.
        round_to: count every width as the next multiple of it, as `slim(round_to=...)` leaves it.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> sizes = SizeModel(trace(net, torch.randn(1, 4)), net)
        >>> sizes(torch.arange(8) < 5)  # five of eight hidden units
        {'macs': 18.0, 'params': 23.0}
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, round_to: int = 1) -> None:
        self.graph, self.round_to = graph, round_to
        shapes = {name: tensor.shape for name, tensor in named_tensors(model).items()}
        self._macs, self._params = _Products(graph.num_units, round_to), _Products(graph.num_units, round_to)
        for reader in graph.readers:
            self._add_macs(reader, shapes)
        self._add_params(model)
        self.dense = self(torch.zeros(graph.num_units, dtype=torch.bool))

    def __call__(self, dead: Tensor) -> dict[str, float]:
        """Both costs without the `dead` units ``(U,)``, those that have to stay with the others counted as alive."""
        alive = ~dead
        if self.graph.arrays or self.graph.equal or self.graph.alike:
            alive = alive | regular(self.graph, alive, level=False)
        return {"macs": self._macs.total(alive), "params": self._params.total(alive)}

    def savings(self, dead: Tensor) -> dict[str, Tensor]:
        """``(U,)`` what each unit alone saves, where the `dead` ones are gone already."""
        return {"macs": self._macs.each(~dead), "params": self._params.each(~dead)}

    def _add_macs(self, reader: Reader, shapes: dict[str, torch.Size]) -> None:
        if reader.weight is None:
            self._macs.add(product(reader), product_units(reader), None)
            return
        read = None if reader.depthwise else reader.read
        scale = len(reader.read) // reader.groups if reader.depthwise else 1 / reader.groups
        self._macs.add(each_pair(reader, shapes[reader.weight]) * scale, reader.written, read)

    def _add_params(self, model: nn.Module) -> None:
        axes: dict[str, dict[int, Tensor]] = {}
        for axis in self.graph.axes:
            axes.setdefault(axis.name, {})[axis.axis] = axis.units
        groups = {r.weight: r for r in self.graph.readers if r.weight is not None and r.grouped}
        for name, parameter in model.named_parameters():
            own = axes.get(name, {})
            units, divisor = [own[a] for a in sorted(own)][:2], 1
            fixed = [size for a, size in enumerate(parameter.shape) if a not in sorted(own)[:2]]
            if name in groups and groups[name].in_axis == 1:
                units, divisor = [own.get(0, groups[name].written), groups[name].read], groups[name].groups
                fixed = list(parameter.shape[2:])
            rest = torch.Size(fixed).numel()
            if not units:
                self._params.constant += parameter.numel()
            else:
                self._params.add(rest / divisor, units[0], units[1] if len(units) > 1 else None)


class _Products:
    """``constant + Σ_l scale_l · alive(first_l) · alive(second_l)`` over sets of units; -1 is always alive."""

    def __init__(self, num_units: int, round_to: int) -> None:
        self.constant = 0.0
        self._num, self._round = num_units, round_to
        self._scale: list[float] = []
        self._sets: list[Tensor] = []
        self._ready: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def add(self, scale: float, first: Tensor, second: Tensor | None) -> None:
        """One more product; without a second set it is the first alone."""
        self._scale.append(float(scale))
        self._sets += [first.cpu(), torch.tensor([-1]) if second is None else second.cpu()]
        self._ready = None

    def total(self, alive: Tensor) -> float:
        """The sum."""
        scale, _, _, most = self._tables()
        counts = self._counts(alive)
        if self._round > 1:
            counts = torch.minimum((counts / self._round).ceil() * self._round, most)
        return self.constant + float((scale * counts.view(-1, 2).prod(1)).sum())

    def each(self, alive: Tensor) -> Tensor:
        """``(U,)`` by how much the sum falls with each unit that is alive."""
        scale, units, owner, _ = self._tables()
        counts = self._counts(alive).view(-1, 2)
        other = (scale[:, None] * counts.flip(1)).flatten()
        found = torch.zeros(self._num + 1, dtype=torch.float64).index_add_(0, units, other[owner])
        return found[:-1] * alive

    def _counts(self, alive: Tensor) -> Tensor:
        _, units, owner, most = self._tables()
        flags = torch.cat([alive.cpu(), torch.ones(1, dtype=torch.bool)]).double()[units]
        return torch.zeros_like(most).index_add_(0, owner, flags)

    def _tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self._ready is None:
            lengths = torch.tensor([len(s) for s in self._sets])
            units = torch.cat([torch.where(s >= 0, s, self._num) for s in self._sets])
            owner = torch.arange(len(self._sets)).repeat_interleave(lengths)
            self._ready = torch.tensor(self._scale, dtype=torch.float64), units, owner, lengths.double()
        return self._ready
