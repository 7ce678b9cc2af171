"""Hidden units of experts in one order: those that are zero come last in each, so that they go from all at once."""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_prune.graph import ParameterAxis
from ssl_prune.slimming.subject import Subject

__all__ = ["ExpertOrder", "expert_orders"]


class ExpertOrder(NamedTuple):
    """Another order of what lies on one axis of a tensor, for each of its experts.

    Args:
        name: of the parameter or buffer; experts lie on its first axis.
        axis: of the hidden units.
        rows: for each expert the old position of each new one.
    """

    name: str
    axis: int
    rows: list[list[int]]


def expert_orders(subject: Subject) -> list[ExpertOrder]:
    """Orders by which more hidden units are zero in all experts of a stack; none where nothing is gained.

    The hidden units of one expert may take any order without a change of what it computes: an expert keeps as many
    positions as the widest one has units.

    Args:
        subject: the network.
    """
    graph, tensors = subject.graph, subject.tensors
    found: dict[str, ExpertOrder] = {}
    for reader in graph.readers:
        if reader.stacked is None:
            continue
        units = reader.stacked[reader.stacked >= 0].unique()
        axes = [axis for axis in (*graph.axes, *graph.buffers) if bool(torch.isin(axis.units, units).any())]
        fit = all(axis.axis and bool(torch.isin(axis.units, units).all()) for axis in axes)
        if not fit or len({len(tensors[axis.name]) for axis in axes}) != 1 or len({a.name for a in axes}) < len(axes):
            continue
        dead = _dead(axes, units, tensors)
        if int(dead.sum(1).min()) <= int(dead.all(0).sum()):
            continue
        order = dead.long().argsort(dim=1, stable=True)
        for axis in axes:
            number = torch.searchsorted(units, axis.units)
            if len(number) % len(units) or bool(
                (number.bincount(minlength=len(units)) * len(units) != len(number)).any()
            ):
                return []  # some unit lies there more often than others
            place = number.argsort(stable=True).view(len(units), -1)  # of each occurrence of each unit
            new = torch.empty(len(order), len(number), dtype=torch.long)
            new[:, place] = place[order]
            found[axis.name] = ExpertOrder(axis.name, axis.axis, new.tolist())
    return list(found.values())


def _dead(axes: list[ParameterAxis], units: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """(experts, units) that nothing but zeros goes into: no more than a good guess, which the cut will show."""
    shape = len(tensors[axes[0].name]), len(units)
    silent, shifted = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    for axis in axes:
        tensor = tensors[axis.name].detach().cpu()
        filled = (tensor != 0).movedim(axis.axis, 1).flatten(2).any(2) if tensor.dim() > 2 else tensor != 0
        number = torch.searchsorted(units, axis.units)
        for position, unit in enumerate(number.tolist()):
            if axis.role == "writer":
                silent[:, unit] |= ~filled[:, position]
            elif axis.role != "reader":
                shifted[:, unit] |= filled[:, position]
    return silent & ~shifted
