"""A network that is trained already, made smaller: at once, and with a short fine-tune.

    python benchmarks/one_shot.py --root DATA [--network resnet8] [--images 20000] [--epochs 8] [--fine-tune 2]
        [--share 0.5 0.25] [--ways ...] [--states 0 1] [--json one_shot.json]

DATA holds the files of CIFAR-10 or Fashion-MNIST. The dense network trains with SGD as in `peers.py`; then each of these
starts from it, all fine-tunes with the same batches, lr 0.02 and a cosine to zero:

    slim               slim(model, x, budget={"macs": share}, data=8 batches), with nothing trained
    slim, tuned        the same, then the fine-tune
    Budget             the fine-tune with GroupLasso("coupled") and Budget(macs=share, window=("0", "0.3"))
    Budget, taught     the same with Distill(): the dense network teaches what is left of it
    magnitude          torch-pruning's MagnitudePruner, with nothing trained
    magnitude, tuned   the same, then the fine-tune
"""

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from _peers_networks import NETWORKS, example, macs, open_data
from _peers_options import count, quiet, spread, within
from _peers_options import parser as base
from _peers_torch_pruning import cut, pruner
from _peers_training import Batches, Training, accuracy
from torch import nn

from ssl_prune import slim
from ssl_prune._lightning import pl
from ssl_prune.callbacks import Budget, Distill, GroupLasso
from ssl_prune.utils.files import replacing
from ssl_prune.utils.table import table

WAYS = ("slim", "slim, tuned", "Budget", "Budget, taught", "magnitude", "magnitude, tuned")


class OneShot:
    """The ways from one trained network."""

    def __init__(self, dense: nn.Module, data: Any, state: int, share: float, options: argparse.Namespace) -> None:
        self.dense, self.data, self.state, self.share, self.options = dense, data, state, share, options
        self.inputs = example(data.input_shape)

    def tuned(self, network: nn.Module, *callbacks: Any) -> nn.Module:
        training = Training(
            self.data, self.state, self.options.fine_tune, self.options.weight_decay, self.options.precision, lr=0.02
        )
        training.fit(network, callbacks=callbacks)
        return network

    def slim(self) -> nn.Module:
        batches = list(islice(iter(Batches(self.data.train_set, 128, self.state, lambda: 0)), 8))
        return slim(self.dense, self.inputs, budget={"macs": self.share}, data=batches).model

    def budget(self, *others: pl.Callback) -> nn.Module:
        callbacks = GroupLasso("coupled"), Budget(macs=self.share, window=("0", "0.3")), *others
        return slim(self.tuned(copy.deepcopy(self.dense), *callbacks), self.inputs).model

    def magnitude(self) -> nn.Module:
        network = copy.deepcopy(self.dense).train()
        cut(pruner(network, self.inputs, None), self.inputs, self.share)
        return network

    @property
    def ways(self) -> dict[str, Callable[[], nn.Module]]:
        return {
            "slim": self.slim,
            "slim, tuned": lambda: self.tuned(self.slim()),
            "Budget": self.budget,
            "Budget, taught": lambda: self.budget(Distill()),
            "magnitude": self.magnitude,
            "magnitude, tuned": lambda: self.tuned(self.magnitude()),
        }


def run(data: Any, state: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one random state."""
    training = Training(data, state, options.epochs, options.weight_decay, options.precision)
    dense = training.build(lambda: NETWORKS[options.network](1.0, training.shape))
    training.fit(dense)
    full, loader = macs(dense, training.shape), data.test_dataloader()
    rows = [{"way": "dense", "share": 1.0, "state": state, "macs_left": 1.0, "accuracy": accuracy(dense, loader)}]
    for share in options.share:
        ways = OneShot(dense, data, state, share, options).ways
        for way in options.ways:
            network = ways[way]()
            left = macs(network, training.shape) / full
            rows.append(
                {"way": way, "share": share, "state": state, "macs_left": left, "accuracy": accuracy(network, loader)}
            )
            print(rows[-1], flush=True)
    return rows


def summary(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table: a line for each share and way."""
    lines = []
    for share, way in dict.fromkeys((row["share"], row["way"]) for row in rows):
        own = [row for row in rows if (row["share"], row["way"]) == (share, way)]
        right = [row["accuracy"] for row in own]
        left = mean(row["macs_left"] for row in own)
        lines.append([f"{share:.0%}", way, f"{100 * left:.1f} %", spread(right), len(own)])
    title = f"{options.network}, {options.data}, {options.epochs} epochs, then {options.fine_tune}; test images"
    return table(["stated", "way", "MACs left", "accuracy, %", "states"], lines, title=title)


def main() -> None:
    parser = base(__doc__, "resnet8", 8)
    parser.add_argument("--fine-tune", type=count, default=2, help="epochs")
    parser.add_argument(
        "--share", nargs="+", type=within(0, 1), default=[0.5, 0.25], help="of the multiply-accumulates"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--weight-decay", type=within(0), default=1.5e-3)
    parser.add_argument("--precision", default="bf16-mixed", help="of training; tests are in float32")
    parser.add_argument("--states", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path, default=Path("one_shot.json"))
    options = parser.parse_args()
    quiet(threads=1)
    data = open_data(options.data, options.root, options.images)
    data.setup("fit")
    data.setup("test")
    rows: list[dict[str, Any]] = []
    for state in options.states:
        rows += run(data, state, options)
        with replacing(options.json) as part:
            part.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n" + summary(rows, options))


if __name__ == "__main__":
    main()
