"""What survives must be arrays again: no fibre of a tensor may be longer than its neighbours."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph import ChannelGraph

__all__ = ["box", "regular"]

_VIEWS = {getattr(torch.ops.aten, name) for name in ("view", "_unsafe_view", "reshape", "flatten", "unflatten")}
_PRODUCTS = {getattr(torch.ops.aten, name) for name in ("matmul", "bmm", "scaled_dot_product_attention")}
_CHOICES = {torch.ops.aten.select, torch.ops.aten.unbind}


def regular(graph: ChannelGraph, alive: Tensor, level: bool = True) -> Tensor:
    """(U,) units that are kept beside the ones alive, so that every value of the cut network is an array.

    Channels may run over several axes of a value: groups of a shuffle, heads and their dimensions. Whole slices may go;
    what is left of each fibre must be equally long, and in the order of the axis that they are split from or merged into.
    Groups of a convolution keep equally many channels and vanish only
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
    boxes = [each for each in _distinct(graph, level) if bool((~stays[each[0]]).any())]
    while True:
        before = int(stays.sum())
        for units, outer, slices in boxes:
            stays[units[box(stays[units], outer, slices)]] = True
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


def _distinct(graph: ChannelGraph, level: bool) -> list[tuple[Tensor, frozenset[int], frozenset[int]]]:
    """Units of values with several axes of channels, and what `box` is told of these axes."""
    found: dict[tuple[Any, ...], list[Tensor]] = {}
    outer, slices = _outer_axes(graph), _apart(graph)
    for node, units in graph.boxes.items():
        moving = [axis for axis in range(units.dim()) if units.shape[axis] > 1]
        if len(moving) > 1 and (level or node not in graph.packed):
            first, second = (
                frozenset(moving.index(axis) for axis in axes.get(node, ()) if axis in moving)
                for axes in (outer, slices)
            )
            units = units.squeeze()
            found.setdefault((units.shape, first, second, tuple(units.flatten()[:64].tolist())), []).append(units)
    distinct: list[tuple[Tensor, frozenset[int], frozenset[int]]] = []
    for (_, first, second, _), same in found.items():
        kept: list[Tensor] = []
        for units in same:
            if not any(torch.equal(units, other) for other in kept):
                kept.append(units)
        distinct += [(units, first, second) for units in kept]
    return distinct


def _outer_axes(graph: ChannelGraph) -> dict[fx.Node, set[int]]:
    """Axes of channels that a view splits off in front of another one, or merges with one behind them.

    Channels that lie on one axis are cut in their order there, and that is the order of the innermost of the axes.
    """
    found: dict[fx.Node, set[int]] = {}
    for node in graph.program.graph.nodes:
        source = node.args[0] if node.args else None
        if getattr(node.target, "overloadpacket", None) not in _VIEWS or not isinstance(source, fx.Node):
            continue
        for ranges in _parts(source.meta["val"].shape, node.meta["val"].shape):
            for value, axes in zip((source, node), ranges, strict=True):
                units = graph.boxes.get(value)
                if units is not None and len(ranges[0]) + len(ranges[1]) > 2:
                    found.setdefault(value, set()).update([a for a in axes if units.shape[a] > 1][:-1])
    return found


def _apart(graph: ChannelGraph) -> dict[fx.Node, set[int]]:
    """Axes whose positions stand for themselves, such as heads in a product: none may take what another one leaves."""
    found: dict[fx.Node, set[int]] = {}
    for node in graph.program.graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        for value in node.all_input_nodes:
            if packet in _PRODUCTS and value in graph.boxes:
                found.setdefault(value, set()).update(range(graph.boxes[value].dim() - 2))
            if packet in _CHOICES and value in graph.boxes:
                found.setdefault(value, set()).add(_axis(node, graph.boxes[value].dim()))
        if packet is torch.ops.aten.stack and node in graph.boxes:
            found.setdefault(node, set()).add(_axis(node, graph.boxes[node].dim()))
    return found


def _axis(node: fx.Node, dims: int) -> int:
    axis: Any = node.args[1] if len(node.args) > 1 else 0
    return int(axis) % dims


def _parts(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[range, range]]:
    """The axes of two shapes of equally many elements, piece by piece of equally many."""
    i = j = 0
    while i < len(before) and j < len(after) and 0 not in before:
        k, m, left, right = i + 1, j + 1, before[i], after[j]
        while left != right:
            if left < right:
                left, k = left * before[k], k + 1
            else:
                right, m = right * after[m], m + 1
        yield range(i, k), range(j, m)
        i, j = k, m


def box(mask: Tensor, outer: Collection[int] = (), slices: Collection[int] = ()) -> Tensor:
    """`mask` grown to the nearest array: along one axis every fibre keeps equally many, along the others whole slices go.

    Args:
        mask: (n, m, ...) bool, what stays.
        outer: axes along which fibres may differ only where what stays keeps its order in the flattened mask.
        slices: axes of which only whole slices may go, where another one may have fibres that differ.

    Returns:
        A mask of the same shape that contains it; the axis is the one that needs the fewest more.
    """
    best = torch.ones((), dtype=torch.bool)  # whole slices along all axes
    for axis in range(mask.dim()):
        alive = mask.movedim(axis, 0).reshape(mask.shape[axis], -1).any(1)
        best = best & alive.view([-1 if a == axis else 1 for a in range(mask.dim())])
    for axis in (a for a in range(mask.dim()) if a not in slices):
        wide = mask.movedim(axis, -1)
        crossed = wide.any(-1)
        fibres = torch.ones((), dtype=torch.bool)
        for other in range(crossed.dim()):
            alive = crossed.movedim(other, 0).reshape(crossed.shape[other], -1).any(1)
            fibres = fibres & alive.view([-1 if a == other else 1 for a in range(crossed.dim())])
        fibres = fibres.expand(crossed.shape).reshape(-1)
        grown = _level(wide.reshape(-1, wide.shape[-1]), fibres).view(wide.shape).movedim(-1, axis)
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
    return _level(mask, mask.any(1) if vanish else torch.ones(len(mask), dtype=torch.bool))


def _level(rows: Tensor, chosen: Tensor) -> Tensor:
    """Rows of (n, m) that are `chosen`, filled up to the longest of them, first where most of the others have an entry."""
    counts = rows.sum(1)
    if not bool(chosen.any()):
        return rows
    missing = torch.where(chosen, counts[chosen].max().clamp(min=1) - counts, 0)
    order = rows[chosen].sum(0).argsort(descending=True, stable=True)
    free = ~rows[:, order]
    filled = torch.empty_like(rows)
    filled[:, order] = ~free | (free.cumsum(1) <= missing[:, None])
    return rows | filled
