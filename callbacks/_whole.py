"""The whole network where each process has shards: one process gathers it, and what it finds there all get to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.errors import SlimError, first_line
from ssl_prune.groups.gathered import gathered
from ssl_prune.groups.shards import has_shards

__all__ = ["drop_whole", "gather_at_end", "on_one", "whole_of"]

T = TypeVar("T")


def on_one(trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module, look: Callable[[nn.Module], T]) -> T:
    """What the first process finds in a network, for all; every process must call it.

    Args:
        trainer: of the run.
        pl_module: around the network.
        network: whose shards the first process gathers, on its CPU.
        look: called there, with the whole network.

    Raises:
        SlimError: in the other processes, where the first one raises.
    """
    first, found, failure = trainer.is_global_zero, None, None
    try:
        whole: nn.Module | None = network
        if has_shards(network, pl_module):
            whole = gathered(network, first)
        if first and whole is not None:
            RunContext.of(pl_module).stands_for(whole, network)
            found = look(whole)
    except Exception as error:
        if not first:
            raise
        failure = error
    text = None if failure is None else f"{type(failure).__name__}: {first_line(failure)}"
    answer: tuple[T, str | None] = trainer.strategy.broadcast((found, text))  # type: ignore[assignment]
    if failure is not None:
        raise failure
    if answer[1] is not None:
        raise SlimError(f"process 0 looked at the whole network for all, and it failed there: {answer[1]}")
    return answer[0]


def gather_at_end(trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> None:
    """Have the whole network in the first process from the end of the training on; once however many callbacks ask."""
    known = RunContext.of(pl_module).gathered
    if network in known or trainer.fast_dev_run or not has_shards(network, pl_module):  # type: ignore[attr-defined]
        return
    kept: list[nn.Module] = []
    on_one(trainer, pl_module, network, kept.append)
    known[network] = kept[0] if kept else None


def whole_of(pl_module: pl.LightningModule, network: nn.Module) -> nn.Module:
    """What `gather_at_end` has made of a network with shards, in the first process; else the network."""
    whole = RunContext.of(pl_module).gathered.get(network)
    return network if whole is None else whole


def drop_whole(pl_module: pl.LightningModule, network: nn.Module) -> None:
    """Let go of what `gather_at_end` has made."""
    RunContext.of(pl_module).gathered.pop(network, None)
