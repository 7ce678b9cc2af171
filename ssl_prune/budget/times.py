"""How long a network takes without some of its channels, from a table of its own layers measured on this machine."""

import itertools
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.copies import copied
from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.inputs import Inputs, uncompiled
from ssl_prune.latency import latency

__all__ = ["TimeModel"]

GRID = (0.125, 0.25, 0.5, 0.75, 0.95, 1.0)  # widths that are measured, as shares of the dense ones
ROUNDS = 7
# The weight of the table against a measurement: as if so large a share of the time had been saved just as predicted. What
# little a first look saves is mostly noise, and kernels whose last channels go singly get slower before they get faster.
PRIOR = 0.1


class TimeModel:
    """Seconds of a forward pass without some units.

    Every convolution and linear layer is measured at a grid of (odd) widths, and its time in between is a bilinear
    interpolation. What the network takes beside them (normalisations, activations, additions) is taken to be
    proportional to the elements that are left. A measurement of the network as it is corrects the whole.

    Args:
        graph: channel graph of the network.
        model: the network.
        inputs: the batch that is timed.
        rounds: measurements of each layer at each width, of which the median counts.

    Attributes:
        dense: seconds of the whole network.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))
        >>> x = torch.randn(64, 256)
        >>> times = TimeModel(trace(net, x), net, x)
        >>> times(torch.arange(512) < 448) < times.dense
        True
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, inputs: Inputs, rounds: int = ROUNDS) -> None:
        with uncompiled():  # the table is of single layers, which are not compiled
            self.dense = latency(model, inputs, rounds=max(rounds, 15))
        modules = dict(model.named_modules())
        known: dict[Any, Tensor] = {}
        self._layers: list[tuple[Reader, Tensor, float]] = []
        for reader in graph.readers:
            layer = modules.get((reader.weight or "").rpartition(".")[0])
            shape = None if reader.source is None else reader.source.meta["val"].shape
            if shape is None or not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                continue
            key = (repr(layer), tuple(shape))
            if key not in known:
                known[key] = _grid(layer, shape, rounds)
            elements = reader.node.meta["val"].numel() / len(reader.written)
            self._layers.append((reader, known[key], elements))
        layers = sum(float(table[-1, -1]) for _, table, _ in self._layers)
        self._rest = max(0.0, self.dense - layers)
        self._scale = min(1.0, self.dense / layers) if layers else 1.0  # layers alone may take longer than together
        self._elements = sum(len(r.written) * n for r, _, n in self._layers) or 1.0
        self._correction = 1.0

    def __call__(self, dead: Tensor) -> float:
        """Seconds without the `dead` units (U,)."""
        share = self._predicted(dead) / self.dense
        return self.dense * (1 - (1 - share) * self._correction)

    def savings(self, dead: Tensor) -> Tensor:
        """``(U,)`` what each unit saves, from the slopes of the tables where the `dead` ones are gone."""
        alive = torch.cat([~dead, torch.ones(1, dtype=torch.bool)])
        found = torch.zeros(len(alive), dtype=torch.float64)
        for reader, table, elements in self._layers:
            read, written = self._widths(reader, alive)
            here = self._layer(table, read, written)
            for units, narrower in (
                (reader.written, self._layer(table, read, written * 0.9)),
                (reader.read, self._layer(table, read * 0.9, written)),
            ):
                count = int(alive[units].sum())
                each = max(0.0, here - narrower) / max(1.0, 0.1 * count)
                each += self._rest * elements / self._elements if units is reader.written else 0.0
                found.index_add_(0, units % len(alive), torch.full((len(units),), each, dtype=torch.float64))
        return found[:-1] * ~dead

    def correct(self, dead: Tensor, seconds: float) -> None:
        """Take over that the network without the `dead` units was measured to take so long."""
        saved, measured = 1 - self._predicted(dead) / self.dense, 1 - seconds / self.dense
        self._correction = min(2.0, max(0.4, (measured + PRIOR) / (saved + PRIOR)))

    def _predicted(self, dead: Tensor) -> float:
        alive = torch.cat([~dead, torch.ones(1, dtype=torch.bool)])
        total, elements = 0.0, 0.0
        for reader, table, each in self._layers:
            read, written = self._widths(reader, alive)
            total += self._layer(table, read, written)
            elements += each * written * len(reader.written)
        return total + self._rest * elements / self._elements

    def _layer(self, table: Tensor, read: float, written: float) -> float:
        return self._scale * _interpolated(table, read, written)

    def _widths(self, reader: Reader, alive: Tensor) -> tuple[float, float]:
        return float(alive[reader.read].float().mean()), float(alive[reader.written].float().mean())


def _grid(layer: Any, shape: torch.Size, rounds: int) -> Tensor:
    """Seconds at the grid of shares of channels read (rows) and written (columns)."""
    table = torch.zeros(len(GRID), len(GRID), dtype=torch.float64)
    groups = getattr(layer, "groups", 1)
    for (i, read), (j, written) in itertools.product(enumerate(GRID), enumerate(GRID)):
        if groups > 1 and i != j:  # both sides of a grouped convolution shrink together
            continue
        table[i, j] = _seconds(*_narrow(layer, shape, read, written), rounds)
    if groups > 1:
        for i, j in itertools.product(range(len(GRID)), repeat=2):
            table[i, j] = table[min(i, j), min(i, j)]
    # More channels never take less time; where they seem to, the measurement was disturbed.
    return table.flip(0).cummin(0).values.flip(0).flip(1).cummin(1).values.flip(1)


def _narrow(layer: Any, shape: torch.Size, read: float, written: float) -> tuple[nn.Module, Tensor]:
    """The layer with shares of its channels, and an input for it."""
    like = layer.weight
    if isinstance(layer, nn.Linear):
        width = _width(shape[-1], read)
        new: nn.Module = nn.Linear(width, _width(layer.out_features, written), layer.bias is not None)
        size = (*shape[:-1], width)
    else:
        new = copied(layer)
        assert isinstance(new, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        per_group, groups = layer.in_channels // layer.groups, layer.groups
        if groups > 1 and per_group == 1:
            groups = new.groups = _width(groups, read)
        per_group = _width(per_group, read) if per_group > 1 else 1
        outputs = _width(layer.out_channels // layer.groups, written if groups == layer.groups else 1.0)
        weight = torch.randn(outputs * groups, per_group, *layer.kernel_size) * 0.01
        new.weight = nn.Parameter(weight)
        new.bias = None if layer.bias is None else nn.Parameter(torch.zeros(len(weight)))
        new.in_channels, new.out_channels = per_group * groups, len(weight)
        axis = len(shape) - 1 - len(layer.kernel_size)
        size = (*shape[:axis], new.in_channels, *shape[axis + 1 :])
    return new.to(device=like.device, dtype=like.dtype).eval(), torch.randn(size).to(like)


def _width(dense: int, share: float) -> int:
    """An odd number of channels, as a cut leaves it: multiples of eight would be faster than what will be there."""
    found = max(1, round(dense * share))
    return found - 1 if share < 1 and found > 2 and found % 2 == 0 else found


def _seconds(layer: nn.Module, x: Tensor, rounds: int) -> float:
    times = []
    with torch.no_grad():
        for turn in range(rounds + 2):
            start = time.perf_counter()
            layer(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            if turn > 1:
                times.append(time.perf_counter() - start)
    return median(times)


def _interpolated(table: Tensor, read: float, written: float) -> float:
    """Bilinear between the points of the grid; below it, towards the first one."""
    (i, a), (j, b) = _place(read), _place(written)
    rows = table[i] * (1 - a) + table[i + 1] * a
    return float(rows[j] * (1 - b) + rows[j + 1] * b)


def _place(share: float) -> tuple[int, float]:
    share = min(1.0, max(GRID[0], share))
    i = max(k for k in range(len(GRID) - 1) if GRID[k] <= share)
    return i, (share - GRID[i]) / (GRID[i + 1] - GRID[i])
