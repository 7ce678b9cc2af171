"""A ResNet-50 at half its multiplications: how much of its latency is left, with odd widths and with practical ones.

    python benchmarks/half_macs.py [--rounds 30] [--batches 1 8] [--threads 1 2] [--json half_macs.json]

An equal share of the channels of every coupled group is set to zero at random, as many as leave half the MACs, and cut
out: as it is, with `round_to=8`, and with `round_to="measured"`. All are timed in turns against the dense network.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_prune import slim
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.latency import compare_latency
from ssl_prune.sizes.remaining import remaining
from ssl_prune.utils.table import table


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def resnet50() -> nn.Sequential:
    """ResNet-50 for images of 224 x 224."""
    parts: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(blocks):
            parts.append(Bottleneck(inputs, width, first if i == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def zero(model: nn.Module, graph: ChannelGraph, order: Tensor, share: float) -> None:
    """Everything that writes the first `share` of the units of each layer, in a random order, is zero."""
    layers: dict[str, list[int]] = {}
    for unit in order.tolist():
        layers.setdefault(graph.unit_layer[unit], []).append(unit)
    chosen = torch.zeros(graph.num_units, dtype=torch.bool)
    for units in layers.values():
        chosen[units[: round(share * len(units))]] = True
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for axis in graph.axes:
            if axis.role != "reader":
                rows = (axis.units >= 0) & chosen[axis.units.clamp(min=0)]
                parameters[axis.name].movedim(axis.axis, 0)[rows] = 0


def at_half(graph: ChannelGraph, x: Tensor) -> nn.Module:
    """A ResNet-50 whose zeros leave just under half of its MACs."""
    order = torch.randperm(graph.num_units, generator=torch.Generator().manual_seed(0))
    low, high = 0.0, 1.0
    for _ in range(7):
        share = (low + high) / 2
        torch.manual_seed(0)
        model = resnet50().eval()
        zero(model, graph, order, share)
        before, after = remaining(graph, model, x).macs
        low, high = (low, share) if after <= before / 2 else (share, high)
    torch.manual_seed(0)
    model = resnet50().eval()
    zero(model, graph, order, high)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--size", type=int, default=224, help="of the images")
    parser.add_argument("--json", type=Path, default=Path("half_macs.json"))
    options = parser.parse_args()
    x = torch.randn(1, 3, options.size, options.size)
    graph = trace(resnet50().eval(), x)
    dense = at_half(graph, x)
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for batch in options.batches:
            example = torch.randn(batch, *x.shape[1:])
            for name, round_to in (("as cut", 1), ("multiples of 8", 8), ("measured", "measured")):
                cut = slim(dense, example, round_to=round_to)  # type: ignore[arg-type]
                full, ours = compare_latency(dense, cut.model, example, rounds=options.rounds)
                macs = cut.report.macs[1] / cut.report.macs[0]
                rows.append(
                    {"threads": threads, "batch": batch, "widths": name, "dense_ms": 1e3 * full, "slim_ms": 1e3 * ours,
                     "latency_left": ours / full, "macs_left": macs, "max_error": cut.report.max_error}
                )  # fmt: skip
                print(
                    f"{threads} threads, batch {batch}, {name}: latency {ours / full:.1%}, MACs {macs:.1%}", flush=True
                )
    head = ["threads", "batch", "widths", "dense, ms", "slim, ms", "latency left", "MACs left", "error"]
    cells = [
        [r["threads"], r["batch"], r["widths"], f"{r['dense_ms']:.1f}", f"{r['slim_ms']:.1f}", f"{r['latency_left']:.1%}",
         f"{r['macs_left']:.1%}", f"{r['max_error']:.1e}"]
        for r in rows
    ]  # fmt: skip
    print(table(head, cells, title=f"\nResNet-50, medians of {options.rounds} in turns"))
    options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
