"""What survives must be arrays again: no fibre of a tensor may be longer than its neighbours."""

from collections.abc import Collection

import torch
from torch import Tensor

from ssl_prune.graph import ChannelGraph

__all__ = ["box", "lengthened", "regular"]


def regular(graph: ChannelGraph, alive: Tensor, level: bool = True) -> Tensor:
    """``(U,)`` units that are kept beside the ones alive, so that every value of the cut network is an array.

    Channels may run over several axes of a value: groups of a shuffle, heads and their dimensions. Whole slices may go;
    what is left of each fibre must be equally long, and in the order of the axis that they are split from or merged into.
    Groups of a convolution keep equally many channels and vanish only
    together with all that they read and write. Where this does not hold, the fewest dead channels are kept.

    Args:
        graph: the channel graph.
        alive: ``(U,)`` units that stay in any case.
        level: modules stay what they are, so that layers of one width keep equally many units.

    Returns:
        ``(U,)`` more units.

    Example:
        >>> box(torch.tensor([[True, True, False], [True, False, False]]))[1].tolist()
        [True, True, False]
    """
    stays = torch.cat([alive, torch.ones(1, dtype=torch.bool)])
    if level:
        for axis in graph.axes:
            if axis.name.startswith(tuple(f"{name}." for name in graph.whole)):
                stays[axis.units] = True
    boxes = [each for each in graph.arrays if (level or not each.packed) and bool((~stays[each.units]).any())]
    filled = [-1] * len(boxes)
    while True:
        before = int(stays.sum())
        for place, each in enumerate(boxes):
            mask = stays[each.units]
            if int(mask.sum()) == filled[place]:
                continue  # as it was left
            grown = box(mask, each.outer, each.slices)
            filled[place] = int(grown.sum())
            if filled[place] > int(mask.sum()):
                stays[each.units[grown]] = True
        for units, vanish in graph.equal:
            stays[units[_even(stays[units], vanish)]] = True
        for units in graph.level if level else ():
            stays[units[_even(stays[units], vanish=False)]] = True
        for first, second in graph.alike:
            here, there = stays[first].any(1), stays[second].any(1)
            stays[second[here & ~there, 0]] = True
            stays[first[there & ~here, 0]] = True
        for plane, channels in graph.shared:
            here, there = stays[plane], stays[channels].any(1)
            stays[plane[there]] = True
            stays[channels[here & ~there, 0]] = True
        stays[-1] = True
        if int(stays.sum()) == before:
            return stays[:-1] & ~alive


def box(mask: Tensor, outer: Collection[int] = (), slices: Collection[int] = ()) -> Tensor:
    """`mask` grown to the nearest array: along one axis every fibre keeps equally many, along the others whole slices go.

    Args:
        mask: ``(n, m, ...)`` bool, what stays.
        outer: axes along which fibres may differ only where what stays keeps its order in the flattened mask.
        slices: axes of which only whole slices may go, where another one may have fibres that differ.

    Returns:
        A mask of the same shape that contains it; the axis is the one that needs the fewest more.
    """
    best = torch.ones((), dtype=torch.bool)  # whole slices along all axes
    for axis in range(mask.dim()):
        alive = mask.movedim(axis, 0).reshape(mask.shape[axis], -1).any(1)
        best = best & alive.view([-1 if a == axis else 1 for a in range(mask.dim())])
    if int(best.sum()) == int(mask.sum()):
        return best
    for axis in (a for a in range(mask.dim()) if a not in slices):
        wide = mask.movedim(axis, -1)
        crossed = wide.any(-1)
        fibres = torch.ones((), dtype=torch.bool)
        for other in range(crossed.dim()):
            alive = crossed.movedim(other, 0).reshape(crossed.shape[other], -1).any(1)
            fibres = fibres & alive.view([-1 if a == other else 1 for a in range(crossed.dim())])
        fibres = fibres.expand(crossed.shape).reshape(-1)
        grown = lengthened(wide.reshape(-1, wide.shape[-1]), fibres).view(wide.shape).movedim(-1, axis)
        if int(grown.sum()) < int(best.sum()) and not (axis in outer and not _in_order(grown, axis)):
            best = grown
    return best


def _in_order(mask: Tensor, axis: int) -> bool:
    """Whether what stays comes in the same order when every fibre along `axis` is closed up."""
    places = mask.nonzero()
    places[:, axis] = mask.cumsum(axis)[mask]
    flat = (places * torch.tensor([mask.shape[a + 1 :].numel() for a in range(mask.dim())])).sum(1)
    return bool((flat[1:] > flat[:-1]).all())


def _even(mask: Tensor, vanish: bool) -> Tensor:
    """Rows of (n, m) grown to equal counts; all-dead rows stay dead where they may vanish."""
    return lengthened(mask, mask.any(1) if vanish else torch.ones(len(mask), dtype=torch.bool))


def lengthened(rows: Tensor, chosen: Tensor, length: int = 1) -> Tensor:
    """Rows that are filled up to the longest of them, first where most of the others have an entry.

    Args:
        rows: (n, m) bool.
        chosen: ``(n,)`` which of them.
        length: how many entries each has at least.
    """
    counts = rows.sum(1)
    if not bool(chosen.any()):
        return rows
    missing = torch.where(chosen, counts[chosen].max().clamp(min=length) - counts, 0)
    order = rows[chosen].sum(0).argsort(descending=True, stable=True)
    free = ~rows[:, order]
    filled = torch.empty_like(rows)
    filled[:, order] = ~free | (free.cumsum(1) <= missing[:, None])
    return rows | filled
