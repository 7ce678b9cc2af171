"""The two pruners of torch-pruning: magnitudes, and sparse learning with group norms."""

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
import torch_pruning as tp
from torch import Tensor, nn

from ssl_prune.costs import cost


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


def cut(made: Any, example: Tensor, share: float, band: float = 0.015) -> None:
    """Prune step by step until no more than this share of the multiply-accumulates is left.

    A group of channels that would end further below the share than `band` is passed over, as ours and halfspace do, so
    that no method is compared at a much smaller size than another.

    Raises:
        RuntimeError: the steps end before.
    """
    names = {module: name for name, module in made.model.named_modules()}
    dense = cost(made.model, example)
    layers = {name: float(layer.macs) for name, layer in dense.layers.items()}
    limit, least = share * dense.macs, (share - band) * dense.macs
    for _ in range(made.iterative_steps):
        for group in made.step(interactive=True):
            # The step alone would empty a layer.
            if not made.DG.check_pruning_group(group):
                continue
            after = left_after(made, group, layers, names)
            if sum(after.values()) < least:
                continue
            group.prune()
            layers = after
            if sum(layers.values()) <= limit:
                now = cost(made.model, example).macs
                if abs(now - sum(layers.values())) > 1e-4 * dense.macs:
                    raise RuntimeError(
                        f"counted {sum(layers.values()):.0f} multiply-accumulates on the way, {now} are left"
                    )
                return
    raise RuntimeError(f"torch-pruning ends above {share:.1%} of the multiply-accumulates")


def left_after(made: Any, group: Any, layers: dict[str, float], names: dict[nn.Module, str]) -> dict[str, float]:
    """Each layer's multiply-accumulates without a group of channels: they go with its outputs and with its inputs."""
    layers = dict(layers)
    halves = set()  # a depthwise layer has each channel as output and as input, and loses it once
    for dep, channels in group:
        module, out = dep.target.module, made.DG.is_out_channel_pruning_fn(dep.handler)
        depthwise = getattr(module, "groups", 1) > 1
        if isinstance(module, nn.Conv2d | nn.Linear) and (half := (module, out or depthwise)) not in halves:
            halves.add(half)
            size = made.DG.get_out_channels(module) if out else made.DG.get_in_channels(module)
            layers[names[module]] *= 1 - len(channels) / size
    return layers


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
