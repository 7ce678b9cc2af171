"""How long one layer takes with fewer channels, measured on this machine."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.latency import without_page_faults
from ssl_prune.utils.copies import copied

__all__ = ["Curve", "LayerTimes", "layer_times"]

VECTOR = 8  # kernels work on so many channels at a time, or on a multiple of it
POINTS = 8  # multiples of it that are measured at most
STEPPED = 0.6  # of a layer's time, from which on it counts as rising in steps


@dataclass(frozen=True)
class Curve:
    """Seconds at some widths, with straight lines between them."""

    widths: list[int]
    seconds: list[float]

    def __call__(self, width: float) -> float:
        """Seconds at a width, which need not be whole."""
        width = min(float(self.widths[-1]), max(float(self.widths[0]), width))
        i = min(len(self.widths) - 2, bisect_right(self.widths, width) - 1)
        if i < 0:
            return self.seconds[0]
        part = (width - self.widths[i]) / (self.widths[i + 1] - self.widths[i])
        return self.seconds[i] * (1 - part) + self.seconds[i + 1] * part

    @property
    def step(self) -> int:
        """How many channels a kernel takes at a time: most of the time is added one above multiples of it; 1: none."""
        at = dict(zip(self.widths, self.seconds, strict=True))
        rises = {n: at[n + 1] - at[n] for n in self.widths if n + 1 in at and n % VECTOR == 0}
        whole = self.seconds[-1] - self.seconds[0]
        found = 1
        for step in (VECTOR, 2 * VECTOR, 4 * VECTOR):
            if whole > 0 and sum(rise for n, rise in rises.items() if n % step == 0) > STEPPED * whole:
                found = step
        return found


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of a layer by the shares of its channels that it reads and writes.

    ``T(r, w) = T₀ + (T(r) − T₀) (T(w) − T₀) / (T − T₀)``

    Args:
        read: by the channels that it reads, with all that it writes; None where both shrink together.
        written: by the channels that it writes, with all that it reads.
        least: T₀, what a call takes whatever its width.
    """

    read: Curve | None
    written: Curve
    least: float

    @property
    def dense(self) -> float:
        """Seconds of the whole layer."""
        return self.written.seconds[-1]

    def __call__(self, read: float, written: float) -> float:
        """Seconds at shares of what is read and of what is written."""
        if self.read is None:
            return self.written(min(read, written) * self.written.widths[-1])
        one = self.read(read * self.read.widths[-1]) - self.least
        other = self.written(written * self.written.widths[-1]) - self.least
        whole = self.dense - self.least
        return self.least + (one * other / whole if whole > 0 else 0.0)


def layer_times(layer: Any, shape: torch.Size, rounds: int) -> LayerTimes:
    """Measure a layer.

    Args:
        layer: a convolution or linear layer; it is left as it is.
        shape: of its input.
        rounds: measurements at each width, of which the median counts.

    Example:
        >>> times = layer_times(nn.Linear(64, 256), torch.Size([256, 64]), 5)
        >>> times(1.0, 0.25) < times.dense
        True
    """
    read, written = _channels(layer, shape)

    def curve(dense: int, width: Callable[[int], tuple[int, int]]) -> Curve:
        widths = _points(dense)
        seconds = [_seconds(*_narrow(layer, shape, *width(n)), rounds) for n in widths]
        for i in range(len(seconds) - 1, 0, -1):
            # More channels never take less time; where they seem to, the measurement was disturbed.
            seconds[i - 1] = min(seconds[i - 1], seconds[i])
        return Curve(widths, seconds)

    if getattr(layer, "groups", 1) > 1:  # both sides of a grouped convolution shrink together
        return LayerTimes(None, curve(written, lambda n: (max(1, read * n // written), n)), 0.0)
    into, out = curve(read, lambda n: (n, written)), curve(written, lambda n: (read, n))
    scale = out.seconds[-1] / into.seconds[-1]  # the same layer, measured twice
    into = Curve(into.widths, [seconds * scale for seconds in into.seconds])
    whole, one = out.seconds[-1], _seconds(*_narrow(layer, shape, 1, 1), rounds)
    # The formula holds of one channel on both sides, too.
    bend = whole + one - into.seconds[0] - out.seconds[0]
    least = (whole * one - into.seconds[0] * out.seconds[0]) / bend if bend > 0 else 0.0
    return LayerTimes(into, out, min(max(0.0, least), one, into.seconds[0], out.seconds[0]))


def _channels(layer: Any, shape: torch.Size) -> tuple[int, int]:
    """How many channels a layer reads and writes."""
    if isinstance(layer, nn.Linear):
        return shape[-1], layer.out_features
    return layer.in_channels, layer.out_channels


def _points(dense: int) -> list[int]:
    """The widths to measure: one, the dense one, and both sides of where a step may be."""
    step = VECTOR * max(1, round(dense / POINTS / VECTOR))
    steps = range(step, dense, step)
    return sorted({1, dense, max(1, dense // 4), max(1, dense // 2)} | {*steps} | {n + 1 for n in steps})


def _narrow(layer: Any, shape: torch.Size, read: int, written: int) -> tuple[nn.Module, Tensor]:
    """The layer with so many of its channels, and an input for it."""
    like = layer.weight
    if isinstance(layer, nn.Linear):
        new: nn.Module = nn.Linear(read, written, layer.bias is not None)
        size = (*shape[:-1], read)
    else:
        new = copied(layer)
        assert isinstance(new, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        per_group, groups = layer.in_channels // layer.groups, layer.groups
        if groups > 1 and per_group == 1:  # depthwise: fewer groups
            groups = new.groups = read
        per_group = max(1, read // groups)
        outputs = max(1, written // groups)
        weight = torch.randn(outputs * groups, per_group, *layer.kernel_size) * 0.01
        new.weight = nn.Parameter(weight)
        new.bias = None if layer.bias is None else nn.Parameter(torch.zeros(len(weight)))
        new.in_channels, new.out_channels = per_group * groups, len(weight)
        axis = len(shape) - 1 - len(layer.kernel_size)
        size = (*shape[:axis], new.in_channels, *shape[axis + 1 :])
    return new.to(device=like.device, dtype=like.dtype).eval(), torch.randn(size).to(like)


def _seconds(layer: nn.Module, x: Tensor, rounds: int) -> float:
    without_page_faults()
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
