"""What a penalty costs: the median training step with and without each, in turns in one process.

    python benchmarks/overhead.py [--steps 40] [--device cpu] [--json overhead.json]

Every variant trains a copy of its own with the same data. In each round all of them take one step, in an order that
rotates, so that a change of the machine's speed meets all. "share" is the median over rounds of the variant's step
over the plain step, minus one; "hook" is the median time spent inside the penalty itself over the plain step's median,
which noise hardly touches; on a GPU, where a hook only launches its kernels, look at "share". torch-pruning's `GroupNormPruner.regularize` runs beside ours at its default settings.
"""

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune.graph import trace
from ssl_prune.groups import partition
from ssl_prune.models import LeNet5, MobileNetV2, ResNet, ResNet18, ResNet20
from ssl_prune.penalties import L1, GroupLasso
from ssl_prune.sizes.remaining import remaining
from ssl_prune.solvers import ProximalSolver, SubgradientSolver
from ssl_prune.utils.table import table

# Network, batch, rounds as a multiple of --steps: a small step needs many rounds and affords them.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "LeNet-5, batch 64": (LeNet5, 64, 10),
    "ResNet-20, batch 128": (ResNet20, 128, 1),
    "ResNet-18, batch 128": (ResNet18, 128, 0.15),
}

ON_GPU: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "ResNet-20, batch 128": (ResNet20, 128, 1),
    "ResNet-56, batch 128": (lambda: ResNet((9, 9, 9), (16, 32, 64)), 128, 1),
    "MobileNetV2, batch 128": (MobileNetV2, 128, 1),
    "ResNet-18, batch 128": (ResNet18, 128, 1),
    "ResNet-18, batch 1024": (ResNet18, 1024, 1),
}


class Variant:
    """One copy of the network with its optimizer and penalty; `step()` trains once and times itself."""

    def __init__(self, name: str, dense: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        self.name, self.x, self.y = name, x, y
        self.model = copy.deepcopy(dense).train()
        optimizer = torch.optim.Adam if "Adam" in name else torch.optim.SGD
        options = {"lr": 1e-3} if "Adam" in name else {"lr": 0.01, "momentum": 0.9}
        self.optimizer = optimizer(self.model.parameters(), **options)  # type: ignore[arg-type]
        self.before_step: Callable[[], object] = lambda: None
        self.steps: list[float] = []
        self.hooks: list[float] = []
        self._spent = 0.0
        if name.startswith("torch-pruning"):
            self._torch_pruning()
        elif name.startswith(("group lasso", "L1")):
            self._ours()

    def _ours(self) -> None:
        kind = "weight" if self.name.startswith("L1") else self.name.split(", ")[1]
        groups = partition(self.model, kind, graph=None if kind == "weight" else trace(self.model, self.x[:1]))
        penalty = L1() if kind == "weight" else GroupLasso()
        if "subgradient" in self.name:
            solver = SubgradientSolver(groups, penalty, 1e-4)
            solver.attach(self.optimizer)
            self.before_step = self._timed(solver.add_gradient)
        else:
            preconditioned = "Adam" in self.name and "metric" in self.name
            solver = ProximalSolver(groups, penalty, 1e-4, preconditioned=preconditioned)
            solver.attach(self.optimizer)
        solver._after_step = self._timed(solver._after_step)  # type: ignore[method-assign]
        solver.detach()
        solver.attach(self.optimizer)

    def _torch_pruning(self) -> None:
        import torch_pruning as tp

        ignored = [m for m in self.model.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.GroupNormPruner(
                self.model,
                (self.x[:1],),
                tp.importance.GroupMagnitudeImportance(),
                pruning_ratio=0.5,
                ignored_layers=ignored,
            )
            pruner.update_regularizer()
        self.model.train()
        self.before_step = self._timed(lambda: pruner.regularize(self.model))

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object) -> object:
            start = time.perf_counter()
            result = function(*args)
            self._spent += time.perf_counter() - start
            return result

        return timed

    def step(self, record: bool) -> float:
        self._spent = 0.0
        wait(self.x)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x), self.y).backward()
        self.before_step()
        self.optimizer.step()
        wait(self.x)
        seconds = time.perf_counter() - start
        if record:
            self.steps.append(seconds)
            self.hooks.append(self._spent)
        return seconds


def wait(x: torch.Tensor) -> None:
    """Until the device has done what it was told to."""
    if x.is_cuda:
        torch.cuda.synchronize()


VARIANTS = (
    "plain",
    "group lasso, coupled",
    "group lasso, filter",
    "group lasso, channel",
    "group lasso, filter, subgradient",
    "L1",
    "torch-pruning regularize",
    "plain, Adam",
    "group lasso, coupled, Adam",
    "group lasso, coupled, Adam, its metric",
)


def measure(build: Callable[[], nn.Module], batch: int, steps: int, device: str = "cpu") -> list[dict[str, object]]:
    torch.manual_seed(0)
    dense = build()
    x, y = torch.randn(batch, *dense.input_shape), torch.randint(10, (batch,))  # type: ignore[misc]
    dense, x, y = dense.to(device), x.to(device), y.to(device)
    variants = [Variant(name, dense, x, y) for name in VARIANTS]
    warmup = max(2, steps // 10)
    for i in range(warmup + steps):
        k = i % len(variants)
        for variant in variants[k:] + variants[:k]:
            variant.step(record=i >= warmup)
    rows = []
    plain = {False: variants[0], True: next(v for v in variants if v.name == "plain, Adam")}
    for v in variants:
        reference = plain["Adam" in v.name]
        share = median(a / b - 1 for a, b in zip(v.steps, reference.steps, strict=True))
        hook = median(v.hooks)
        step = median(reference.steps)
        rows.append(
            {
                "variant": v.name,
                "step_ms": 1e3 * median(v.steps),
                "share": share,
                "hook_ms": 1e3 * hook,
                "hook_share": hook / step,
            }
        )
    return rows


def monitor(build: Callable[[], nn.Module]) -> float:
    """Milliseconds of one look of `SparsityMonitor`, which looks once an epoch."""
    torch.manual_seed(0)
    network = build()
    x = torch.randn(1, *network.input_shape)  # type: ignore[misc]
    graph, times = trace(network, x), []
    for _ in range(7):
        start = time.perf_counter()
        remaining(graph, network, x)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="measured rounds of ResNet-20")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, default=Path("overhead.json"))
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    results: dict[str, list[dict[str, object]]] = {}
    for name, (build, batch, rounds) in (NETWORKS if options.device == "cpu" else ON_GPU).items():
        if options.only not in name:
            continue
        rows = measure(build, batch, round(options.steps * rounds), options.device)
        results[name] = rows
        look = monitor(build)
        cells = [
            [r["variant"], f"{r['step_ms']:.2f}", f"{r['share']:+.1%}", f"{r['hook_ms']:.3f}", f"{r['hook_share']:.1%}"]
            for r in rows
        ]
        print(
            table(
                ["variant", "step, ms", "share", "hook, ms", "hook share"],
                cells,
                title=f"\n{name}, {options.device}, {torch.get_num_threads()} threads",
            ),
            flush=True,
        )
        print(f"SparsityMonitor: {look:.0f} ms, once an epoch", flush=True)
        rows.append({"variant": "SparsityMonitor, once an epoch", "hook_ms": look})
    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
