"""Logs how far the network has shrunk: groups alive, multiply-accumulates and parameters left."""

from typing import Any

from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks._network import network_of
from ssl_prune.callbacks._resumes import Remembers
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.callbacks._step import StepCallback
from ssl_prune.callbacks._whole import on_one
from ssl_prune.groups.shards import has_shards
from ssl_prune.shrinking import lineage_of
from ssl_prune.sizes.remaining import Remaining, remaining

__all__ = ["SparsityMonitor"]


class SparsityMonitor(Remembers):
    """Log `groups_alive`, `macs_left` and `params_left` (shares of the dense network) after each epoch.

    What is left is what a cut at this moment would leave, folding and dead branches included. Looking costs about one
    forward pass of one sample. Of a network with shards the first process gathers a copy on its CPU to look at.

    Args:
        prog_bar: show them in the progress bar too.
        module: name of the submodule to look at; default the one that holds all parameters.

    Raises:
        ValueError: no example input: the LightningModule has no `example_input_array` and there is no training batch.

    Example:
        >>> SparsityMonitor().prog_bar
        True
    """

    def __init__(self, prog_bar: bool = True, module: str | None = None) -> None:
        super().__init__()
        self.prog_bar, self.module = prog_bar, module

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the network before anything is trained."""
        if stage == "fit":
            RunContext.begin(trainer, pl_module)
            network_of(pl_module, self.module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep an example input."""
        RunContext.of(pl_module).remember(pl_module, batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the weights as they are."""
        network, context = network_of(pl_module, self.module), RunContext.of(pl_module)
        example = context.needed_example(self, pl_module, network)

        def look(whole: nn.Module) -> Remaining:
            return remaining(context.graph(whole, example), whole, example)

        left = on_one(trainer, pl_module, network, look) if has_shards(network, pl_module) else look(network)
        lineage = lineage_of(network)
        macs, params = left.macs[0], left.params[0]
        if lineage is not None:
            dense = lineage.cost(example)
            macs, params = dense.macs, dense.params
        values = {"macs_left": left.macs[1] / max(macs, 1), "params_left": left.params[1] / params}
        penalties = [c for c in trainer.callbacks if isinstance(c, StepCallback) and c.solver is not None]  # type: ignore[attr-defined]
        if penalties:
            values["groups_alive"] = float(
                sum(int(c.groups.total(c.groups.alive())) for c in penalties if c.groups is not None)
            )
            values["strength"] = max(c.solver.current_strength for c in penalties if c.solver is not None)
        for name, value in values.items():
            # The same on every process, and known on every process to callbacks that watch it.
            pl_module.log(name, value, prog_bar=self.prog_bar and name != "strength", sync_dist=True)
