"""What processes tell each other for the sake of penalties and cuts, and how long that takes on many machines: calculated.

    python benchmarks/communication.py [--workers 8 64 512] [--bandwidth 25] [--latency 10] [--json communication.json]

Under DDP each process applies the same proximal map to the same weights: nothing is sent. Under FSDP2 each step
all-reduces one number a group (4 bytes). Shrink sends, at each look, 8 bytes a parameter tensor from every process to
every other, and at each cut the plan and, as the new wrapper of DDP does, the parameters once. Times are those of the
usual model of a message of B bytes among n processes,

    all-reduce of few bytes, by a tree   2 log2(n) · latency + 2 B / bandwidth
    all-reduce of many bytes, by a ring  2 (n − 1) / n · B / bandwidth + 2 (n − 1) · latency
    all-gather                           (n − 1) / n · n B / bandwidth + log2(n) · latency
    broadcast                            B / bandwidth + log2(n) · latency

with `--bandwidth` in GB/s a process and `--latency` in µs; of the two ways to all-reduce the faster one counts. Beside it
stands the all-reduce of the gradients, which training needs in any case. Sizes are counted on the networks themselves,
the plan is that of half of the groups.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from torch import nn

from ssl_prune.graph import trace
from ssl_prune.groups import partition
from ssl_prune.models import VGG16BN, ResNet18, ResNet56
from ssl_prune.shrinking import training_cut
from ssl_prune.utils.files import replacing
from ssl_prune.utils.table import table

NETWORKS = {"ResNet-56": ResNet56, "ResNet-18": ResNet18, "VGG-16-BN": VGG16BN}


def sizes(net: nn.Module) -> dict[str, int]:
    """Bytes of each message."""
    x = torch.zeros(1, 3, 32, 32)
    graph = trace(net, x)
    groups = partition(net, "coupled", graph=graph)
    found = {
        "gradients": 4 * sum(p.numel() for p in net.parameters()),
        "groups": 4 * groups.num_groups,
        "look": 8 * (len(list(net.parameters())) + 1),
    }
    keep = torch.rand(groups.num_groups, generator=torch.Generator().manual_seed(0)) > 0.5
    groups.scale_(keep.float())
    cut = training_cut(net, x, graph=graph)
    found["plan"] = len(cut.plan.to_json())
    found["cut"] = found["plan"] + 4 * sum(p.numel() for p in cut.model.parameters())
    return found


def all_reduce(size: float, n: int, bandwidth: float, latency: float) -> float:
    tree = 2 * math.log2(n) * latency + 2 * size / bandwidth
    return min(tree, 2 * (n - 1) / n * size / bandwidth + 2 * (n - 1) * latency)


def all_gather(size: float, n: int, bandwidth: float, latency: float) -> float:
    return (n - 1) * size / bandwidth + math.log2(n) * latency


def broadcast(size: float, n: int, bandwidth: float, latency: float) -> float:
    return size / bandwidth + math.log2(n) * latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[8, 64, 512])
    parser.add_argument("--bandwidth", type=float, default=25.0, help="GB/s of each process")
    parser.add_argument("--latency", type=float, default=10.0, help="µs of a message")
    parser.add_argument("--json", type=Path, default=Path("communication.json"))
    options = parser.parse_args()
    speed, wait = options.bandwidth * 1e9, options.latency * 1e-6
    rows, lines = [], []
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        found = sizes(build())
        for n in options.workers:
            times = {
                "gradients": all_reduce(found["gradients"], n, speed, wait),
                "groups": all_reduce(found["groups"], n, speed, wait),
                "look": all_gather(found["look"], n, speed, wait),
                "cut": broadcast(found["cut"], n, speed, wait),
            }
            rows.append({"network": name, "workers": n, "bytes": found, "seconds": times})
            lines.append(
                [name, n, 0, found["groups"], *(round(1e6 * times[k]) for k in ("groups", "look", "cut", "gradients"))]
            )
    head = [
        "network", "workers", "penalty under DDP, bytes a step", "under FSDP2", "µs a step", "µs a look", "µs a cut",
        "µs of the gradients a step",
    ]  # fmt: skip
    title = f"{options.bandwidth:g} GB/s and {options.latency:g} µs, calculated"
    print(table(head, lines, title=title))
    with replacing(options.json) as part:
        part.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
