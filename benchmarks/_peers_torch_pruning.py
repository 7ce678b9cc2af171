"""The two pruners of torch-pruning: magnitudes, and sparse learning with group norms."""

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
import torch_pruning as tp
from torch import Tensor, nn

from ssl_prune import cost


def pruner(network: nn.Module, example: Tensor, reg: float | None, steps: int = 400) -> Any:
    """`GroupNormPruner` with this strength, `MagnitudePruner` for None; global, the last layer left alone.

    It is made to remove everything in so many steps, as the library's own benchmark does: `cut` ends when the network is
    small enough.
    """
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    options: dict[str, Any] = {
        "importance": tp.importance.GroupMagnitudeImportance(p=2),
        "global_pruning": True,
        "pruning_ratio": 1.0,
        "iterative_steps": steps,
        "ignored_layers": [last],
        # Its defaults are shared between all pruners of a process.
        "in_channel_groups": {},
        "out_channel_groups": {},
        "num_heads": {},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if reg is None:
            made = tp.pruner.MagnitudePruner(network, (example,), **options)
        else:
            made = tp.pruner.GroupNormPruner(network, (example,), reg=reg, **options)
    network.train()  # it leaves the network in evaluation mode
    return made


def cut(made: Any, example: Tensor, share: float) -> None:
    """Prune step by step until no more than this share of the multiply-accumulates is left.

    Raises:
        RuntimeError: the steps end before.
    """
    limit = share * cost(made.model, example).macs
    for _ in range(made.iterative_steps):
        changed = False
        for group in made.step(interactive=True):
            if made.DG.check_pruning_group(group):  # the step alone would empty a layer
                group.prune()
                changed = True
        if changed and cost(made.model, example).macs <= limit:
            return
    raise RuntimeError(f"torch-pruning ends above {share:.1%} of the multiply-accumulates")


class SparseLearning(pl.Callback):
    """`regularize` after every backward pass, `update_regularizer` before every epoch, as its README has it."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.made.update_regularizer()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.made.regularize(self.made.model)
