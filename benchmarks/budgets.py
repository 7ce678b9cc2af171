"""Whether a stated size is met: every network of the models room, sizes, limits and optimizers.

    python benchmarks/budgets.py [--root DATA] [--only REGEX] [--share 0.5 0.25] [--limits macs params latency] [--steps 300]
        [--json budgets.json] [--resume]

Each network trains for a few hundred steps under `GroupLasso("coupled")` and `Budget`, on CIFAR-10 or MNIST from DATA
(`cifar-10-batches-bin`, `MNIST/raw`), or without it on random images with classes that a fixed random network gives. The
table has the share that was stated and the one that `cost` counts on the cut network, how many of the groups were set to
zero at the end of the window, and the validation accuracy before and after that. To be met: at most the stated share and
at most 1.5 points below it, at most 3 % of the groups at the end, and a fall of at most one point. A latency is measured
anew after the run, dense and cut network in turns (64 samples, one thread, five times, of which the median counts), and is
to be within 5 % of what was stated; nothing else should run meanwhile.
"""

import argparse
import json
import logging
import re
import time
import warnings
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ssl_prune import cost, models
from ssl_prune._lightning import pl
from ssl_prune.callbacks import Budget, GroupLasso, Slim
from ssl_prune.data import CIFAR10, MNIST
from ssl_prune.latency import compare_latency, latency
from ssl_prune.models import ImageClassifier
from ssl_prune.utils.table import table

NETWORKS: dict[str, type[nn.Module]] = {
    name: getattr(models, name) for name in models.__all__ if name not in ("ImageClassifier", "BasicBlock", "ResNet")
}
OPTIMIZERS = ("SGD", "AdamW")


class Jump(pl.Callback):
    """Validation accuracy around the projection at the end of the window."""

    def __init__(self, budget: Budget, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.budget, self.images, self.labels = budget, images, labels
        self.accuracy: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        solver = self.budget.solver
        if solver is not None and "_project" not in vars(solver):
            project = solver._project

            def watched(binding: Any) -> None:
                self.accuracy.append(self.measure(module))
                project(binding)
                self.accuracy.append(self.measure(module))

            solver._project = watched  # type: ignore[method-assign]

    def measure(self, module: pl.LightningModule) -> float:
        training = module.training
        module.eval()
        with torch.no_grad():
            right = sum(int((module(x).argmax(1) == y).sum()) for x, y in self.batches())
        module.train(training)
        return right / len(self.labels)

    def batches(self) -> Any:
        return zip(self.images.split(250), self.labels.split(250), strict=True)


def builder(name: str, network: nn.Module) -> Any:
    """The optimizer; without a normalisation SGD takes smaller steps."""
    rate = 0.05 if any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) else 0.01
    if name == "SGD":
        return lambda params: torch.optim.SGD(params, lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return lambda params: torch.optim.AdamW(params, lr=2e-3, weight_decay=0.05)


def samples(network: nn.Module, root: Path | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the network's shape and their classes."""
    shape = tuple(network.input_shape)  # type: ignore[arg-type]
    sets = {(3, 32, 32): CIFAR10, (1, 28, 28): MNIST}
    if root is not None and shape in sets:
        data = sets[shape](root=root, validation=0, subset=count)
        data.setup("fit")
        assert data.train_set is not None
        pairs = [data.train_set[i] for i in range(count)]
        return torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *shape, generator=generator)
    scores = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ torch.randn(16 * shape[0], 10, generator=generator)
    return x, scores.argmax(1)


def time_left(network: nn.Module, slim: nn.Module, x: torch.Tensor) -> float:
    """The share of the time that the slim network takes: the median of five comparisons, of half a second or more.

    Each is of copies of its own, as it counts where small networks lie in memory.
    """
    rounds = max(20, round(0.5 / latency(network, x)))
    pairs = [(deepcopy(network), deepcopy(slim)) for _ in range(5)]
    times = [compare_latency(*pair, x, rounds=rounds) for pair in pairs]
    return median(after / before for before, after in times)


def measure(name: str, kind: str, share: float, optimizer: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    pl.seed_everything(0, verbose=False)
    network = NETWORKS[name]()
    dense = cost(network, torch.zeros(1, *network.input_shape))  # type: ignore[misc]
    x, y = samples(network, options.root, options.images + 1000)
    module = ImageClassifier(network, optimizer=builder(optimizer, network))
    budget, slim = Budget(**{kind: share}), Slim(None, latency_batch=0)
    jump = Jump(budget, x[options.images :], y[options.images :])
    loader = DataLoader(TensorDataset(x[: options.images], y[: options.images]), batch_size=32, shuffle=True)
    trainer = pl.Trainer(
        max_steps=options.steps, accelerator="cpu", callbacks=[GroupLasso("coupled"), budget, jump, slim], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.print = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    start = time.perf_counter()
    trainer.fit(module, loader)
    assert slim.result is not None
    assert budget.solver is not None
    if kind == "latency":
        left = time_left(NETWORKS[name](), slim.result.model, x[:64])
        met = abs(left - share) <= 0.05 * share
    else:
        got = cost(slim.result.model, torch.zeros(1, *network.input_shape))  # type: ignore[misc]
        left = getattr(got, kind) / getattr(dense, kind)
        met = share - 0.015 <= left <= share
    groups = len(budget.solver.dead)
    return {
        "network": name, "limit": kind, "stated": share, "optimizer": optimizer, "left": left, "groups": groups,
        "projected": budget.solver.projected, "accuracy": jump.accuracy[:2], "error": slim.result.report.max_error,
        "seconds": time.perf_counter() - start,
        "met": met and budget.solver.projected <= 0.03 * groups,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--only", default="", help="regular expression that the network's name matches")
    parser.add_argument("--share", type=float, nargs="*", default=[0.5, 0.25])
    parser.add_argument("--limits", nargs="*", default=["macs", "params"], choices=["macs", "params", "latency"])
    parser.add_argument("--optimizers", nargs="*", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--json", type=Path, default=Path("budgets.json"))
    parser.add_argument("--resume", action="store_true", help="skip what the JSON file holds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    rows = json.loads(options.json.read_text()) if options.resume and options.json.exists() else []
    known = {(row["network"], row["limit"], row["stated"], row["optimizer"]) for row in rows}
    for name in (name for name in NETWORKS if re.search(options.only, name)):
        for kind in options.limits:
            for share in options.share:
                for optimizer in options.optimizers:
                    if (name, kind, share, optimizer) in known:
                        continue
                    try:
                        rows.append(measure(name, kind, share, optimizer, options))
                    except ValueError as error:  # out of reach
                        rows.append(
                            {
                                "network": name,
                                "limit": kind,
                                "stated": share,
                                "optimizer": optimizer,
                                "refused": str(error),
                            }
                        )
                    print(rows[-1], flush=True)
                    options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(HEAD, [_cells(row) for row in rows]))
    ran = [row for row in rows if "refused" not in row]
    print(f"{sum(row['met'] for row in ran)} of {len(ran)} met; {len(rows) - len(ran)} refused before training")


HEAD = ["network", "limit", "stated", "optimizer", "left", "groups", "projected", "accuracy before", "after", "met"]


def _cells(row: dict[str, Any]) -> list[object]:
    first = [row["network"], row["limit"], f"{row['stated']:.0%}", row["optimizer"]]
    if "refused" in row:
        return [*first, "refused", None, None, None, None, None]
    before, after = [f"{value:.1%}" for value in row["accuracy"]] or [None, None]
    return [*first, f"{row['left']:.2%}", row["groups"], row["projected"], before, after, "yes" if row["met"] else "NO"]


if __name__ == "__main__":
    main()
