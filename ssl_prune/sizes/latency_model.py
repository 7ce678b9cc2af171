"""How long a network takes without some of its channels, from a table of its own layers measured on this machine."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.latency import latency
from ssl_prune.sizes.layer_latency import LayerTimes, layer_times
from ssl_prune.utils.inputs import Inputs, uncompiled

__all__ = ["LatencyModel"]

ROUNDS = 7
# The weight of the table against a measurement: as if so large a share of the time had been saved just as predicted. What
# little a first look saves is mostly noise, and kernels whose last channels go singly get slower before they get faster.
# It fades until so large a share is saved; from there on what is measured counts alone.
PRIOR, FADES = 0.1, 0.3


class LatencyModel:
    """Seconds of a forward pass without some units.

    Times fall in steps, where one vector of channels less is left to a kernel, so every convolution and linear layer is
    measured at multiples of eight channels and one above them. What the network takes beside them (normalisations,
    activations, additions) is taken to be proportional to the elements that are left, in the same steps. A measurement
    of the network as it is corrects the whole.

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
        >>> times = LatencyModel(trace(net, x), net, x)
        >>> times(torch.arange(512) < 448) < times.dense
        True
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, inputs: Inputs, rounds: int = ROUNDS) -> None:
        with uncompiled():  # the table is of single layers, which are not compiled
            self.dense = latency(model, inputs, rounds=max(rounds, 15))
        modules = dict(model.named_modules())
        known: dict[Any, LayerTimes] = {}
        self._layers: list[tuple[Reader, LayerTimes, float]] = []
        for reader in graph.readers:
            layer = modules.get((reader.weight or "").rpartition(".")[0])
            shape = None if reader.source is None else reader.source.meta["val"].shape
            if shape is None or not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                continue
            key = (repr(layer), tuple(shape))
            if key not in known:
                known[key] = layer_times(layer, shape, rounds)
            elements = reader.node.meta["val"].numel() / len(reader.written)
            self._layers.append((reader, known[key], elements))
        layers = sum(table.dense for _, table, _ in self._layers)
        self._rest = max(0.0, self.dense - layers)
        self._scale = min(1.0, self.dense / layers) if layers else 1.0  # layers alone may take longer than together
        self._elements = sum(len(r.written) * n for r, _, n in self._layers) or 1.0
        self._correction = 1.0

    def __call__(self, dead: Tensor) -> float:
        """Seconds without the `dead` units ``(U,)``."""
        share = self._predicted(dead) / self.dense
        return self.dense * (1 - (1 - share) * self._correction)

    def savings(self, dead: Tensor) -> Tensor:
        """``(U,)`` what each unit saves where the `dead` ones are gone, over half of what its layer has left.

        One by one, channels save nothing until a step of the times is reached.
        """
        alive = torch.cat([~dead, torch.ones(1, dtype=torch.bool)])
        found = torch.zeros(len(alive), dtype=torch.float64)
        for reader, table, elements in self._layers:
            read, written = self._widths(reader, alive)
            here = self._layer(table, read, written)
            for units, narrower in (
                (reader.written, self._layer(table, read, written / 2)),
                (reader.read, self._layer(table, read / 2, written)),
            ):
                each = (here - narrower) / max(1.0, 0.5 * int(alive[units].sum()))
                each += self._rest * elements / self._elements if units is reader.written else 0.0
                found.index_add_(0, units % len(alive), torch.full((len(units),), each, dtype=torch.float64))
        return found[:-1] * ~dead

    def correct(self, dead: Tensor, seconds: float) -> None:
        """Take over a measurement of the network without the `dead` units.

        Args:
            dead: ``(U,)`` bool.
            seconds: that the network without them takes.
        """
        saved, measured = 1 - self._predicted(dead) / self.dense, 1 - seconds / self.dense
        prior = max(1e-6, PRIOR * (1 - saved / FADES))
        self._correction = min(2.0, max(0.4, (measured + prior) / (saved + prior)))

    def _predicted(self, dead: Tensor) -> float:
        alive = torch.cat([~dead, torch.ones(1, dtype=torch.bool)])
        total, elements = 0.0, 0.0
        for reader, table, each in self._layers:
            read, written = self._widths(reader, alive)
            total += self._layer(table, read, written)
            step, width = table.written.step, written * len(reader.written)
            if width > step:  # below one step single channels save again
                width = min(ceil(width / step) * step, len(reader.written))
            elements += each * width
        return total + self._rest * elements / self._elements

    def _layer(self, table: LayerTimes, read: float, written: float) -> float:
        return self._scale * table(read, written)

    def _widths(self, reader: Reader, alive: Tensor) -> tuple[float, float]:
        return float(alive[reader.read].float().mean()), float(alive[reader.written].float().mean())
