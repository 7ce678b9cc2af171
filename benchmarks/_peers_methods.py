"""The ways to a stated share of the multiply-accumulates: each trains and returns a physical network."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from _peers_halfspace import HalfSpace
from _peers_networks import NETWORKS, example, macs, open_data, thin_factor
from _peers_options import quiet
from _peers_training import Training, accuracy
from torch import nn

from ssl_prune import SlimPlan, slim
from ssl_prune.callbacks import Budget, GroupLasso, Shrink
from ssl_prune.models._init import he_init
from ssl_prune.scores import LayerwiseRank

EARLY = 0.1  # of the run: where ours ends its window before, scores tell layers apart badly, and epochs are too long
CUT_EVERY = 10  # steps, in such a run


@dataclass(frozen=True)
class Job:
    """One run; what tells it from another.

    Args:
        method, network, data: their names.
        images: training images, or None for all that are not held back.
        share: of the multiply-accumulates; 1 for the dense network.
        state: random state of first weights and batches.
        epochs: of the whole run.
        weight_decay: of SGD.
        reg: strength of GroupNormPruner's sparse learning; 0 for the other methods.
        precision: of Lightning's trainer.
        split: "test" or "validation": which images the accuracy is of.
        accelerator: of Lightning's trainer.
        batch: images a step.
        lr: of SGD at the start.
        warmup: share of the run in which it rises to that.
        widths_from: epochs and weight decay of the run of `ours` whose widths these are; None for the other methods.
        window: of the budget of `ours`, of the run that `widths_from` tells of, and for the pruners the moment of the cut
            (its end, but half of the run at the latest); None for the other methods.
        exponent: of the budget of `ours`, where its window does not end early.
    """

    method: str
    network: str
    data: str
    images: int | None
    share: float
    state: int
    epochs: int
    weight_decay: float
    reg: float
    precision: str
    split: str
    accelerator: str = "cpu"
    batch: int = 128
    lr: float = 0.1
    warmup: float = 0.0
    widths_from: tuple[int, float] | None = None
    window: tuple[float, float] | None = None
    exponent: float = 1.0


@dataclass
class Run:
    """A job on its way: what the methods need, and what they have to say beside the network."""

    job: Job
    training: Training
    plan: str | None  # of the run of `ours` whose widths these are
    says: dict[str, Any]

    def network(self, factor: float = 1.0) -> nn.Module:
        make = partial(NETWORKS[self.job.network], factor, self.training.shape)
        return self.training.build(make)


def dense(run: Run) -> nn.Module:
    network = run.network()
    run.training.fit(network)
    return network


def thin(run: Run) -> nn.Module:
    factor = thin_factor(NETWORKS[run.job.network], run.training.shape, run.job.share)
    network = run.network(factor)
    run.training.fit(network)
    run.says["factor"] = factor
    return network


def ours(run: Run) -> nn.Module:
    network = run.network()
    assert run.job.window is not None
    early = run.job.window[1] <= EARLY
    options: dict[str, Any] = (
        {"score": LayerwiseRank(), "cost_exponent": 0.0} if early else {"cost_exponent": run.job.exponent}
    )
    budget = Budget(macs=run.job.share, window=tuple(map(str, run.job.window)), **options)
    shrink = Shrink(every_n_steps=CUT_EVERY, min_gain=0.02) if early else Shrink(min_gain=0.02)
    run.training.fit(network, callbacks=[GroupLasso("coupled"), budget, shrink])
    result = slim(network, example(run.training.shape))
    assert budget.solver is not None
    run.says |= {"plan": result.plan.to_json(), "projected": budget.solver.projected}
    return result.model


def ours_shape(run: Run) -> nn.Module:
    assert run.plan is not None

    def make() -> nn.Module:
        return reset(SlimPlan.from_json(run.plan or "").apply(NETWORKS[run.job.network](1.0, run.training.shape)))

    network = run.training.build(make)
    run.training.fit(network)
    return network


def torch_pruning(run: Run, reg: float | None) -> nn.Module:
    from _peers_torch_pruning import SparseLearning, cut, pruner

    network, inputs = run.network(), example(run.training.shape)
    assert run.job.window is not None
    first, made = cut_after(run.training.epochs, run.job.window), pruner(network, inputs, reg)
    run.training.fit(network, first, [] if reg is None else [SparseLearning(made)])
    cut(made, inputs, run.job.share)
    run.training.fit(network)  # a fit of its own: the parameters are new ones, which the old optimizer does not know
    return network


def halfspace(run: Run) -> nn.Module:
    network, inputs = run.network(), example(run.training.shape)
    run.training.fit(network, callbacks=[HalfSpace(network, inputs, run.job.share)])
    return slim(network, inputs).model


PRUNERS = ("magnitude", "groupnorm")


def cut_after(epochs: int, window: tuple[float, float]) -> int:
    """Epochs before torch-pruning's cut: half of the run, or as long as the window where that is shorter."""
    return max(1, round(min(0.5, window[1]) * epochs))


METHODS: dict[str, Callable[[Run], nn.Module]] = {
    "dense": dense,
    "thin": thin,
    "ours": ours,
    "ours-shape": ours_shape,
    "magnitude": lambda run: torch_pruning(run, None),
    "groupnorm": lambda run: torch_pruning(run, run.job.reg),
    "halfspace": halfspace,
}


def reset(network: nn.Module) -> nn.Module:
    """The network with first weights, drawn as the models room draws them."""
    he_init(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network


def run_job(job: Job, root: str, plan: str | None, threads: int) -> dict[str, Any]:
    """The row of one job."""
    quiet(threads)
    start = time.perf_counter()
    data = open_data(job.data, root, job.images, batch=job.batch)
    data.setup("fit")
    training = Training(
        data, job.state, job.epochs, job.weight_decay, job.precision, job.accelerator, job.lr, job.warmup
    )
    run = Run(job, training, plan, {})
    network = METHODS[job.method](run)
    seconds = time.perf_counter() - start
    shape = run.training.shape
    full = macs(NETWORKS[job.network](1.0, shape), shape)
    if job.split == "test":
        data.setup("test")
    loader = data.test_dataloader() if job.split == "test" else data.val_dataloader()
    return {
        **asdict(job),
        "macs": macs(network, shape),
        "macs_left": macs(network, shape) / full,
        "params": sum(p.numel() for p in network.parameters()),
        "accuracy": accuracy(network, loader, "cuda" if job.accelerator == "gpu" else "cpu"),
        "train_macs": run.training.meter.total,
        "train_dense_macs": 3 * full * len(data.train_set or ()),  # of an epoch of the dense network
        "seconds": seconds,
        **run.says,
    }
