"""What shrinking saves: the same training dense, with a budget, and with a budget and Shrink.

    python benchmarks/shrink.py --root DATA [--network resnet20] [--images 5000] [--epochs 10] [--macs 0.5] \\
        [--window 0.05 0.5] [--states 0 1 2] [--round-to 8] [--exponent 1] [--batch 128] [--precision 32-true] [--threads 1] \\
        [--accelerator cpu] [--json shrink.json]

DATA holds the files of CIFAR-10 or Fashion-MNIST. All three see the same batches for as many epochs, with SGD (Nesterov
momentum 0.9, a cosine from --lr to zero). "training MACs" are 3 · forward MACs · images of the network as it physically is
in each step, in units of the dense training; PruneTrain's are the paper's. "seconds" are those of the fit with
everything in it: tracing, proofs, cuts. On a CPU "CPU seconds" are the process's own, which other work on the machine
disturbs less; ratios are over the dense run of the same state, which runs in the same process just before.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import pytorch_lightning as pl
from _peers_networks import NETWORKS, example, macs, open_data
from _peers_options import count, quiet, spread, within
from _peers_options import parser as base
from _peers_training import Training, accuracy
from torch import nn

from ssl_prune import slim
from ssl_prune.callbacks import Budget, GroupLasso, Shrink
from ssl_prune.utils.files import replacing
from ssl_prune.utils.table import table

# Lym et al., PruneTrain (2019), table 1: CIFAR-10, training FLOPs against dense training, and top-1 accuracy.
PAPER = [("PruneTrain, ResNet-32 (paper)", 0.47, 0.34, 91.8), ("PruneTrain, ResNet-50 (paper)", 0.50, 0.30, 93.1)]
VARIANTS = ("dense", "budget", "budget and Shrink")


def callbacks_of(variant: str, options: argparse.Namespace) -> list[pl.Callback]:
    """What a variant trains with."""
    if variant == "dense":
        return []
    found: list[pl.Callback] = [
        GroupLasso("coupled"),
        Budget(
            macs=options.macs,
            window=tuple(map(str, options.window)),
            cost_exponent=options.exponent,
            round_to=options.round_to,
        ),
    ]
    if variant == "budget and Shrink":
        found.append(Shrink(options.every, min_gain=options.min_gain, round_to=options.round_to))
    return found


def run(variant: str, state: int, options: argparse.Namespace, data: Any) -> dict[str, Any]:
    """One training."""
    training = Training(
        data, state, options.epochs, options.weight_decay, options.precision, options.accelerator, options.lr
    )
    network = training.build(lambda: NETWORKS[options.network](1.0, training.shape))
    dense = macs(network, training.shape)
    callbacks = callbacks_of(variant, options)
    wall, own = time.perf_counter(), time.process_time()
    training.fit(network, callbacks=callbacks)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    network = network.cpu()
    small: nn.Module = (
        network if variant == "dense" else slim(network, example(training.shape), round_to=options.round_to).model
    )
    cuts = callbacks[-1].history if variant == "budget and Shrink" else []  # type: ignore[attr-defined]
    return {
        "variant": variant,
        "state": state,
        "macs_left": macs(small, training.shape) / dense,
        "training_macs": training.meter.total / (3 * dense * options.epochs * len(data.train_set)),
        "accuracy": accuracy(small, data.test_dataloader(), "cuda" if options.accelerator == "gpu" else "cpu"),
        "seconds": wall,
        "cpu_seconds": own,
        "cuts": len(cuts),
        "cut_seconds": sum(cut[3] for cut in cuts),
    }


def summary(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table."""
    dense = {row["state"]: row for row in rows if row["variant"] == "dense"}
    lines: list[list[object]] = []
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        ratios = {
            key: [row[key] / dense[row["state"]][key] for row in own if row["state"] in dense]
            for key in ("seconds", "cpu_seconds")
        }
        lines.append(
            [
                variant,
                f"{100 * mean(row['macs_left'] for row in own):.1f} %",
                spread([row["accuracy"] for row in own]),
                f"{mean(row['training_macs'] for row in own):.3f}",
                round(mean(row["seconds"] for row in own)),
                spread(ratios["seconds"]),
                spread(ratios["cpu_seconds"]),
                f"{mean(row['cuts'] for row in own):.0f}",
                f"{mean(row['cut_seconds'] for row in own):.1f}",
            ]
        )
    for name, training, left, top in PAPER:
        lines.append([name, f"{100 * left:.1f} %", f"{top:.2f}", f"{training:.3f}", None, None, None, None, None])
    head = [
        "training", "MACs left", "accuracy, %", "training MACs", "seconds", "over dense", "CPU seconds over dense", "cuts",
        "their seconds",
    ]  # fmt: skip
    title = (
        f"{options.network}, {options.data}, {options.images or 'all'} images, {options.epochs} epochs, "
        f"batches of {options.batch}, {options.precision}, {options.accelerator}, states {options.states}"
    )
    return table(head, lines, title=title)


def arguments() -> argparse.Namespace:
    parser = base(__doc__, "resnet20", 10)
    parser.add_argument("--macs", type=within(0, 1), default=0.5, help="the budget")
    parser.add_argument(
        "--window", nargs=2, type=within(0, 1), default=[0.05, 0.5], help="of the budget, shares of the run"
    )
    parser.add_argument("--every", type=count, default=1, help="epochs between two looks of Shrink")
    parser.add_argument("--min-gain", type=within(0, 1), default=0.05)
    parser.add_argument("--round-to", type=count, default=1, help="widths are multiples of it")
    parser.add_argument(
        "--exponent", type=within(0), default=1.0, help="of the budget: 0.5 takes less of what costs much"
    )
    parser.add_argument("--batch", type=count, default=128, help="images a step")
    parser.add_argument("--lr", type=within(0), default=0.1)
    parser.add_argument("--weight-decay", type=within(0), default=5e-4)
    parser.add_argument("--states", nargs="+", type=int, default=[0])
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--json", type=Path, default=Path("shrink.json"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    quiet(options.threads)
    data = open_data(options.data, options.root, options.images, batch=options.batch)
    data.setup("fit")
    data.setup("test")
    rows: list[dict[str, Any]] = []
    for state in options.states:
        for variant in VARIANTS:
            rows.append(run(variant, state, options, data))
            row = rows[-1]
            print(
                f"state {state}, {variant}: {row['accuracy']:.2f} % at {row['macs_left']:.1%}, {row['seconds']:.0f} s "
                f"({row['cpu_seconds']:.0f} of CPU)",
                flush=True,
            )
            with replacing(options.json) as part:
                part.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n" + summary(rows, options))


if __name__ == "__main__":
    main()
