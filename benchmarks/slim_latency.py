"""A slim network against the same layers built by hand at those widths: the same latency, or something is left over.

    python benchmarks/slim_latency.py [--rounds 150] [--json slim_latency.json]

A random third of the coupled units of each network is set to zero and cut out. The network by hand is a fresh instance
in which every convolution, linear layer and batch norm was replaced by a new one of the slim width.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn

from ssl_prune import models, slim
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.latency import compare_latency
from ssl_prune.utils.table import table

NETWORKS = (
    "LeNet300100",
    "MLP",
    "LeNet5",
    "ConvNet",
    "ResNet20",
    "ResNet32",
    "ResNet56",
    "VGG16BN",
    "MobileNetV1",
    "MobileNetV2",
)


def zero_a_third(model: nn.Module, graph: ChannelGraph) -> None:
    """Set everything that writes a random third of the units to zero."""
    chosen = torch.rand(graph.num_units, generator=torch.Generator().manual_seed(0)) < 1 / 3
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for axis in graph.axes:
            if axis.role != "reader":
                rows = (axis.units >= 0) & chosen[axis.units.clamp(min=0)]
                parameters[axis.name].movedim(axis.axis, 0)[rows] = 0


def by_hand(dense: nn.Module, cut: nn.Module) -> nn.Module:
    """A copy of the dense class whose layers were built anew, at the widths of `cut`."""
    network = copy.deepcopy(dense)
    for name, layer in cut.named_modules():
        if isinstance(layer, nn.Conv2d):
            new: nn.Module = nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                layer.dilation, layer.groups, layer.bias is not None,
            )  # fmt: skip
        elif isinstance(layer, nn.Linear):
            new = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        elif isinstance(layer, nn.BatchNorm2d):
            new = nn.BatchNorm2d(layer.num_features)
        else:
            continue
        new.load_state_dict(layer.state_dict())
        network.set_submodule(name, new)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", type=Path, default=Path("slim_latency.json"))
    options = parser.parse_args()
    rows = []
    for name in NETWORKS:
        torch.manual_seed(0)
        dense = getattr(models, name)()
        x = torch.randn(options.batch, *dense.input_shape)
        graph = trace(dense, x[:1])
        zero_a_third(dense, graph)
        cut = slim(dense, x[:1], graph=graph)
        hand = by_hand(dense, cut.model)
        ours, theirs = compare_latency(cut.model, hand, x, rounds=options.rounds)
        full, again = compare_latency(dense, cut.model, x, rounds=max(10, options.rounds // 3))
        rows.append(
            {"network": name, "dense_ms": 1e3 * full, "slim_ms": 1e3 * ours, "by_hand_ms": 1e3 * theirs,
             "slim_over_hand": ours / theirs, "slim_over_dense": again / full,
             "macs_left": cut.report.macs[1] / cut.report.macs[0], "max_error": cut.report.max_error}
        )  # fmt: skip
        print(f"{name}: slim over by hand {ours / theirs:.3f}", flush=True)
    cells = [
        [r["network"], f"{r['dense_ms']:.2f}", f"{r['slim_ms']:.2f}", f"{r['by_hand_ms']:.2f}", f"{r['slim_over_hand']:.3f}",
         f"{r['slim_over_dense']:.1%}", f"{r['macs_left']:.1%}", f"{r['max_error']:.1e}"]
        for r in rows
    ]  # fmt: skip
    head = ["network", "dense, ms", "slim, ms", "by hand, ms", "slim / by hand", "slim / dense", "MACs left", "error"]
    print(
        table(
            head,
            cells,
            title=f"\nbatch {options.batch}, {torch.get_num_threads()} threads, medians of {options.rounds}",
        )
    )
    options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
