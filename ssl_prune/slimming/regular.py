"""What survives must be arrays again: no fibre of a tensor may be longer than its neighbours."""

import torch
from torch import Tensor

from ssl_prune.graph import ChannelGraph

__all__ = ["box", "regular"]


def regular(graph: ChannelGraph, alive: Tensor, level: bool = True) -> Tensor:
    """(U,) units that are kept beside the ones alive, so that every value of the cut network is an array.

    Channels may run over several axes of a value: groups of a shuffle, heads and their dimensions. Whole slices may go;
    what is left of each fibre must be equally long. Groups of a convolution keep equally many channels and vanish only
    together with all that they read and write. Where this does not hold, the fewest dead channels are kept.

    Args:
        graph: the channel graph.
        alive: (U,) units that stay in any case.
        level: modules stay what they are, so that layers of one width keep equally many units.

    Returns:
        (U,) more units.

    Example:
        >>> box(torch.tensor([[True, True, False], [True, False, False]]))[1].tolist()
        [True, True, False]
    """
    stays = torch.cat([alive, torch.ones(1, dtype=torch.bool)])
    if level:
        for axis in graph.axes:
            if axis.name.startswith(tuple(f"{name}." for name in graph.whole)):
                stays[axis.units] = True
    boxes = [units for units in _distinct(graph, level) if bool((~stays[units]).any())]
    while True:
        before = int(stays.sum())
        for units in boxes:
            stays[units[box(stays[units])]] = True
        for units, vanish in graph.equal:
            stays[units[_even(stays[units], vanish)]] = True
        for units in graph.level if level else ():
            stays[units[_even(stays[units], vanish=False)]] = True
        for first, second in graph.alike:
            here, there = stays[first].any(1), stays[second].any(1)
            stays[second[here & ~there, 0]] = True
            stays[first[there & ~here, 0]] = True
        stays[-1] = True
        if int(stays.sum()) == before:
            return stays[:-1] & ~alive


def _distinct(graph: ChannelGraph, level: bool) -> list[Tensor]:
    found: dict[tuple[torch.Size, tuple[int, ...]], list[Tensor]] = {}
    for node, units in graph.boxes.items():
        units = units.squeeze()
        if units.dim() > 1 and (level or node not in graph.packed):
            found.setdefault((units.shape, tuple(units.flatten()[:64].tolist())), []).append(units)
    distinct = []
    for same in found.values():
        kept: list[Tensor] = []
        for units in same:
            if not any(torch.equal(units, other) for other in kept):
                kept.append(units)
        distinct += kept
    return distinct


def box(mask: Tensor) -> Tensor:
    """`mask` grown to the nearest array: along one axis every fibre keeps equally many, along the others whole slices go.

    Args:
        mask: (n, m, ...) bool, what stays.

    Returns:
        A mask of the same shape that contains it; the axis is the one that needs the fewest more.
    """
    best, fewest = mask, None
    for axis in range(mask.dim()):
        wide = mask.movedim(axis, -1)
        crossed = wide.any(-1)
        fibres = torch.ones((), dtype=torch.bool)
        for other in range(crossed.dim()):
            slices = crossed.movedim(other, 0).reshape(crossed.shape[other], -1).any(1)
            view = [1] * crossed.dim()
            view[other] = -1
            fibres = fibres & slices.view(view)
        fibres = fibres.expand(crossed.shape).reshape(-1)
        grown = _level(wide.reshape(-1, wide.shape[-1]), fibres).view(wide.shape).movedim(-1, axis)
        more = int(grown.sum()) - int(mask.sum())
        if fewest is None or more < fewest:
            best, fewest = grown, more
    return best


def _even(mask: Tensor, vanish: bool) -> Tensor:
    """Rows of (n, m) grown to equal counts; all-dead rows stay dead where they may vanish."""
    return _level(mask, mask.any(1) if vanish else torch.ones(len(mask), dtype=torch.bool))


def _level(rows: Tensor, chosen: Tensor) -> Tensor:
    """Rows of (n, m) that are `chosen`, filled up with their first dead entries to the longest of them."""
    counts = rows.sum(1)
    if not bool(chosen.any()):
        return rows
    missing = torch.where(chosen, counts[chosen].max().clamp(min=1) - counts, 0)
    rank = (~rows).cumsum(1)
    return rows | (~rows & (rank <= missing[:, None]))
