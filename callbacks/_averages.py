"""Averages of weights that Lightning's callbacks keep beside a run: what is zero in the network is zero in them."""

from collections.abc import Iterator

import torch
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.groups import Partition

__all__ = ["averaging_callbacks", "zero_in_averages"]

_AVERAGING = {"WeightAveraging", "StochasticWeightAveraging"}  # and what is derived of them
_KEPT = "_average_model"  # where they keep it


def averaging_callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """The callbacks of a run that keep an average of its weights."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [c for c in callbacks if {kind.__name__ for kind in type(c).__mro__} & _AVERAGING]


@torch.no_grad()
def zero_in_averages(trainer: pl.Trainer, pl_module: pl.LightningModule, groups: Partition) -> None:
    """Set what is zero in the network to zero in each average of its weights, so that it can be cut with these too.

    Of a group that comes back the average begins at zero. Where no group is zero, averages are left as they are.

    Args:
        trainer: of the run.
        pl_module: that trains.
        groups: of its parameters.

    Raises:
        ValueError: an average of sharded parameters.
    """
    averages = list(_averages(trainer))
    if not averages:
        return
    if groups.is_sharded:
        raise ValueError(
            f"{type(averaging_callbacks(trainer)[0]).__name__} averages whole weights, but {groups.members[0].name} is sharded "
            "(a DTensor); leave one of the two out"
        )
    alive = groups.alive()
    if bool(alive.all()):
        return
    factors = groups.expand(alive.to(groups.dtype))
    for average in averages:
        twins = {id(own): twin for own, twin in zip(pl_module.parameters(), average.parameters(), strict=True)}
        for member, factor in zip(groups.members, factors, strict=True):
            twins[id(member.param)].mul_(factor.to(twins[id(member.param)]))


def _averages(trainer: pl.Trainer) -> Iterator[nn.Module]:
    """The averaged networks that there are by now, each of the form of the LightningModule."""
    for callback in averaging_callbacks(trainer):
        average = getattr(callback, _KEPT, None)
        if average is not None:
            yield average
