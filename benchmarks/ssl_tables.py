"""Tables 1 and 2 and the MLP of the SSL paper on MNIST, beside ours, from physical networks.

    python benchmarks/ssl_tables.py --data DATA [--rows filters mlp] [--seeds 0 1 2] [--jobs 2] [--json ssl_tables.json]

DATA holds MNIST's usual files (DATA/MNIST/raw). Every run trains with the callbacks in two fits: a sparse one (SGD and
the proximal group lasso), then the network is cut, and a second fit without penalty and with frozen zeros (Adam,
cosine, dropout) lets the rest recover. Where a recipe names numbers of groups, the strength rises until no more than
these are left; elsewhere it is fixed. The MLP's second fit also distils from the dense network. Counts are those of the
final network's own tensors after a last cut with `columns=True`. All choices were made on 5,000 or 10,000 validation
images; the test set is read once, at the end of a run.
"""

import argparse
import copy
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_prune import slim
from ssl_prune.callbacks import GroupLasso
from ssl_prune.data import MNIST
from ssl_prune.models import MLP, ImageClassifier, LeNet5
from ssl_prune.schedules import Linear
from ssl_prune.utils.table import table


@dataclass(frozen=True)
class Phase:
    """One fit.

    Args:
        epochs, optimizer, lr, batch: as they say; SGD has Nesterov momentum 0.9.
        decay, decayed: L2 penalty, and the layers whose weights have it.
        warmup: share of the steps in which the lr rises; then a cosine.
        floor: last lr as a share of the first.
        dropout: see the networks.
        smoothing: of the labels.
        distil: share of the loss that is the divergence from the teacher's probabilities (both at temperature 4).
    """

    epochs: int
    optimizer: str
    lr: float
    batch: int
    decay: float = 0.0
    decayed: tuple[str, ...] = ()
    warmup: float = 0.0
    floor: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.0)
    smoothing: float = 0.0
    distil: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """A row of a table.

    Args:
        title, build: what it is, and the network.
        paper: the paper's figures.
        goal: the same as numbers: counts, and the test error in per cent.
        dense, sparse, debias: the three fits.
        penalties: (granularity, layer, strength, number) in the order in which they act. A penalty ends, and its zeros
            stay, as soon as no more than this number of groups are left; None: it acts to the end of the fit.
        ramp: epochs in which the strength rises from 0.
        freeze: granularities held at zero while the rest recovers.
        teacher: a fit of a copy of the dense network, which the debias fit distils from.
        standardise: whether pixels are standardised; dead border pixels must be 0 to be removable with their weights.
    """

    title: str
    build: Callable[[], nn.Module]
    paper: str
    goal: tuple[tuple[int, ...], float]
    dense: Phase
    sparse: Phase
    debias: Phase
    penalties: tuple[tuple[str, str, float, int | None], ...]
    ramp: float
    freeze: tuple[str, ...]
    standardise: bool = True
    teacher: Phase | None = None


LENET_DENSE = Phase(2, "SGD", 0.02, 64, 5e-4, ("conv1", "conv2", "fc1", "fc2"), warmup=0.1, floor=1.0)
LENET_LAYERS = ("fc1", "fc2")


def lenet_drawn_as_torch_does() -> nn.Module:
    """LeNet-5 with PyTorch's own first weights: in conv1 about half as large, so that it does not die last."""
    network = LeNet5()
    for layer in (network.conv1, network.conv2, network.fc1, network.fc2):
        layer.reset_parameters()
    return network


def filters(
    conv1: float, conv2: float, goal: tuple[tuple[int, ...], float], paper: str, targets: tuple[int | None, int | None]
) -> Recipe:
    return Recipe(
        "LeNet-5, filters and channels",
        LeNet5,
        paper,
        goal,
        LENET_DENSE,
        Phase(5, "SGD", 0.02, 64, 3e-3, LENET_LAYERS, floor=0.2),
        Phase(15, "Adam", 0.002, 128, warmup=0.05, dropout=(0.0, 0.5)),
        (
            ("filter", "conv1", conv1, targets[0]),
            ("filter", "conv2", conv2, targets[1]),
            ("channel", "conv2", conv1, targets[0]),
        ),
        2.5,
        (),
    )


RECIPES = {
    "filters-small": filters(0.17, 0.60, ((3, 12), 1.0), "3-12 at 1.0 %", (None, None)),
    "filters": filters(0.11, 0.36, ((5, 19), 0.8), "5-19 at 0.8 %", (5, 19)),
    "shapes-small": Recipe(
        "LeNet-5, kernel shapes", lenet_drawn_as_torch_does, "7-14 at 1.0 %", ((7, 14), 1.0), LENET_DENSE,
        Phase(7, "SGD", 0.015, 64, 5e-3, LENET_LAYERS, floor=0.3),
        Phase(15, "Adam", 0.002, 128, warmup=0.05, dropout=(0.0, 0.5), smoothing=0.1),
        (("shape", "conv1", 1.0, 7), ("shape", "conv2", 4.0, 14)), 7.0, ("shape",),
    ),
    "shapes": Recipe(
        "LeNet-5, kernel shapes", LeNet5, "21-41 at 0.8 %", ((21, 41), 0.8), LENET_DENSE,
        Phase(4, "SGD", 0.02, 64, 3e-3, LENET_LAYERS, floor=0.25),
        Phase(15, "Adam", 0.002, 128, warmup=0.05, dropout=(0.0, 0.5), smoothing=0.1),
        (("shape", "conv1", 0.2, 21), ("shape", "conv2", 1.0, 41)), 5.0, ("shape",),
    ),
    "mlp": Recipe(
        "MLP, neurons and pixels", MLP, "434-174-78 at 1.53 %", ((434, 174, 78), 1.53),
        Phase(3, "SGD", 0.1, 64, 1e-4, ("fc1", "fc2", "fc3"), floor=1.0),
        Phase(15, "SGD", 0.1, 64, floor=0.05),
        Phase(25, "Adam", 0.001, 128, warmup=0.05, dropout=(0.1, 0.1), distil=0.7),
        (("neuron", "fc1", 0.2, 434), ("neuron", "fc2", 0.06, 174), ("neuron", "fc3", 0.03, 78)), 15.0, ("neuron",), False,
        Phase(25, "Adam", 0.001, 128, warmup=0.05, dropout=(0.1, 0.4)),
    ),
}  # fmt: skip


TEMPERATURE = 4.0


class Run(ImageClassifier):
    """The classifier with the optimizer of a phase."""

    def __init__(self, network: nn.Module, phase: Phase, teacher: nn.Module | None = None) -> None:
        network.dropout = phase.dropout  # type: ignore[assignment]
        super().__init__(network, label_smoothing=phase.smoothing)
        self.phase = phase
        self._teacher = [teacher] if teacher is not None and phase.distil else []  # a list: not a part of this network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        for teacher in self._teacher:
            with torch.no_grad():
                wanted = (teacher(x) / TEMPERATURE).log_softmax(1)
            soft = F.kl_div((logits / TEMPERATURE).log_softmax(1), wanted, reduction="batchmean", log_target=True)
            loss = (1 - self.phase.distil) * loss + self.phase.distil * TEMPERATURE**2 * soft
        return loss

    def configure_optimizers(self) -> Any:
        phase, weights, rest = self.phase, [], []
        for name, parameter in self.network.named_parameters():
            owner, _, leaf = name.rpartition(".")
            (weights if owner in phase.decayed and leaf == "weight" else rest).append(parameter)
        groups = [{"params": weights, "weight_decay": phase.decay}, {"params": rest, "weight_decay": 0.0}]
        groups = [g for g in groups if g["params"]]
        optimizer: torch.optim.Optimizer
        if phase.optimizer == "SGD":
            optimizer = torch.optim.SGD(groups, phase.lr, momentum=0.9, nesterov=True, fused=True)
        else:
            optimizer = torch.optim.Adam(groups, phase.lr, fused=True)
        steps = self.trainer.estimated_stepping_batches

        def rate(step: int) -> float:
            share = min(step / steps, 1.0)
            rise = min(1.0, share / phase.warmup) if phase.warmup else 1.0
            return rise * (phase.floor + (1 - phase.floor) * 0.5 * (1 + math.cos(math.pi * share)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def fit(
    network: nn.Module, phase: Phase, data: MNIST, callbacks: list[pl.Callback], teacher: nn.Module | None = None
) -> nn.Module:
    trainer = pl.Trainer(
        max_epochs=phase.epochs, accelerator="cpu", callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    )  # fmt: skip
    data.batch_size = phase.batch
    trainer.fit(Run(network, phase, teacher), datamodule=data)
    return network


@torch.no_grad()
def error(network: nn.Module, loader: Any) -> float:
    """Error in per cent."""
    network.eval()
    wrong = total = 0
    for x, y in loader:
        wrong += int((network(x).argmax(1) != y).sum())
        total += len(y)
    return 100 * wrong / total


def counts(name: str, network: nn.Module) -> tuple[int, ...]:
    """Counts of the physical network: filters, columns of the two convolutions, or pixels and neurons."""
    shapes = {n: p.shape for n, p in network.named_parameters() if n.endswith("weight")}
    if name == "mlp":
        return tuple(shapes[f"fc{i}.weight"][1] for i in (1, 2, 3))
    if name.startswith("filters"):
        return shapes["conv1.weight"][0], shapes["conv2.weight"][0]
    return tuple(shapes[f"{c}.weight"][1:].numel() for c in ("conv1", "conv2"))


def run(name: str, seed: int, root: str, validation: int, threads: int) -> dict[str, Any]:
    """Train one row with one random state."""
    torch.set_num_threads(threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    recipe, start = RECIPES[name], time.perf_counter()
    pl.seed_everything(seed)
    data = MNIST(root, validation=validation, standardise=recipe.standardise)
    data.setup()
    example = torch.zeros(1, 1, 28, 28)
    network = recipe.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dense_cost = slim(network, example).report
    fit(network, recipe.dense, data, [])
    teacher = fit(copy.deepcopy(network), recipe.teacher, data, []).eval() if recipe.teacher else None
    schedule = Linear(end=f"{recipe.ramp}ep")
    penalties = [
        GroupLasso(kind, strength, schedule=schedule, include=layer, target_groups=targets)
        for kind, layer, strength, targets in recipe.penalties
    ]
    fit(network, recipe.sparse, data, list(penalties))
    network = slim(network, example).model
    middle = counts(name, slim(network, example, columns=True).model)
    fit(network, recipe.debias, data, [GroupLasso(kind, 0.0, freeze_at=0) for kind in recipe.freeze], teacher)
    final = slim(network, example, columns=True)
    macs = {layer.name: layer.macs for layer in final.report.layers}
    dense_macs = {layer.name: layer.macs[0] for layer in dense_cost.layers}
    return {
        "row": name,
        "seed": seed,
        "after_sparse": middle,
        "counts": counts(name, final.model),
        "channels": final.model.get_submodule("conv1").weight.shape[0] if name != "mlp" else None,  # type: ignore[union-attr, index]
        "macs_left": {layer: macs[layer][1] / dense_macs[layer] for layer in macs},
        "params": final.report.params[1],
        "max_error": final.report.max_error,
        "validation_error": error(final.model, data.val_dataloader()) if validation else None,
        "test_error": None if validation else error(final.model, data.test_dataloader()),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with MNIST/raw")
    parser.add_argument("--rows", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument(
        "--validation", type=int, default=0,
        help="hold back so many training images and report their error instead of the test set's, for choosing",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, default=Path("ssl_tables.json"))
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    results: list[dict[str, Any]] = []
    which = "validation_error" if options.validation else "test_error"
    with ProcessPoolExecutor(options.jobs, mp_context=torch.multiprocessing.get_context("spawn")) as pool:
        todo = [
            pool.submit(run, row, seed, options.data, options.validation, threads)
            for row in options.rows
            for seed in options.seeds
        ]
        for done in as_completed(todo):
            r = done.result()
            results.append(r)
            options.json.write_text(json.dumps(sorted(results, key=lambda r: (r["row"], r["seed"])), indent=2) + "\n")
            shown = "-".join(map(str, r["counts"]))
            print(
                f"{len(results)}/{len(todo)} {r['row']} seed {r['seed']}: {shown} at {r[which]:.2f} %, {r['seconds']:.0f} s",
                flush=True,
            )
    print("\n" + summary(results, which))


def summary(results: list[dict[str, Any]], which: str) -> str:
    """The table: one line a run, then mean and spread beside the paper's row."""
    rows: list[list[object]] = []
    for name in dict.fromkeys(r["row"] for r in results):
        recipe = RECIPES[name]
        runs = sorted((r for r in results if r["row"] == name), key=lambda r: r["seed"])
        for r in runs:
            left = "-".join(f"{share:.1%}" for share in r["macs_left"].values())
            rows.append(
                [recipe.title, f"seed {r['seed']}", "-".join(map(str, r["counts"])), r["channels"], f"{r[which]:.2f}",
                 left, f"{r['max_error']:.0e}", None, None]
            )  # fmt: skip
        columns = list(zip(*(r["counts"] for r in runs), strict=True))
        errors = [r[which] for r in runs]
        spread = stdev(errors) if len(errors) > 1 else 0.0
        goal, limit = recipe.goal
        within = all(mean(c) <= g for c, g in zip(columns, goal, strict=True))
        met = mean(errors) <= limit + 1e-9 and within
        rows.append(
            [recipe.title, "mean", "-".join(f"{mean(c):.1f}" for c in columns), None, f"{mean(errors):.2f} ± {spread:.2f}",
             None, None, recipe.paper, "yes" if met else "no"]
        )  # fmt: skip
    head = ["network", "run", "counts", "channels", "error, %", "MACs left by layer", "slim error", "paper", "reached"]
    return table(head, rows)


if __name__ == "__main__":
    main()
