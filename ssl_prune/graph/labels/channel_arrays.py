"""Values whose channels run over several axes: what is left of them must be an array again."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.program import Program

__all__ = ["ChannelArray", "channel_arrays"]

_VIEWS = {getattr(torch.ops.aten, name) for name in ("view", "_unsafe_view", "reshape", "flatten", "unflatten")}
_PRODUCTS = {getattr(torch.ops.aten, name) for name in ("matmul", "bmm", "scaled_dot_product_attention")}
_CHOICES = {torch.ops.aten.select, torch.ops.aten.unbind}


class ChannelArray(NamedTuple):
    """The units of a value, or of several alike, along its axes of channels.

    Args:
        units: ``(n, m, ...)`` the unit at each position, -1 for what is never removed.
        outer: axes along which fibres may differ only where what stays keeps its order.
        slices: axes of which only whole slices may go.
        packed: it lies inside a module that may keep pieces of unequal length when it becomes another one.
    """

    units: Tensor
    outer: frozenset[int]
    slices: frozenset[int]
    packed: bool


def channel_arrays(
    boxes: Mapping[fx.Node, Tensor],
    packed: Collection[fx.Node],
    program: Program,
    straight: Mapping[fx.Node, Collection[int]],
) -> tuple[ChannelArray, ...]:
    """All of them, each once.

    Args:
        boxes: node -> units of its value, of size 1 along axes that are none of channels.
        packed: nodes whose values need not stay arrays when their module becomes another.
        program: that they are nodes of.
        straight: node -> axes of its value along which only whole slices go, beside those that products ask for.
    """
    found: dict[tuple[Any, ...], list[tuple[Tensor, bool]]] = {}
    outer, slices = _outer_axes(boxes, program.graph), _apart(boxes, program.graph)
    for node, axes in straight.items():
        slices.setdefault(node, set()).update(axes)
    for node, units in boxes.items():
        moving = [axis for axis in range(units.dim()) if units.shape[axis] > 1]
        if len(moving) > 1:
            first, second = (
                frozenset(moving.index(axis) for axis in axes.get(node, ()) if axis in moving)
                for axes in (outer, slices)
            )
            units = units.squeeze()
            same = found.setdefault((units.shape, first, second, tuple(units.flatten()[:64].tolist())), [])
            place = next((i for i, (other, _) in enumerate(same) if torch.equal(units, other)), None)
            if place is None:
                same.append((units, node in packed))
            else:
                same[place] = (units, same[place][1] and node in packed)
    return tuple(ChannelArray(u, key[1], key[2], alone) for key, same in found.items() for u, alone in same)


def _outer_axes(boxes: Mapping[fx.Node, Tensor], graph: fx.Graph) -> dict[fx.Node, set[int]]:
    """Axes of channels that a view splits off in front of another one, or merges with one behind them.

    Channels that lie on one axis are cut in their order there, and that is the order of the innermost of the axes.
    """
    found: dict[fx.Node, set[int]] = {}
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if getattr(node.target, "overloadpacket", None) not in _VIEWS or not isinstance(source, fx.Node):
            continue
        for ranges in _parts(source.meta["val"].shape, node.meta["val"].shape):
            for value, axes in zip((source, node), ranges, strict=True):
                units = boxes.get(value)
                if units is not None and len(ranges[0]) + len(ranges[1]) > 2:
                    found.setdefault(value, set()).update([a for a in axes if units.shape[a] > 1][:-1])
    return found


def _apart(boxes: Mapping[fx.Node, Tensor], graph: fx.Graph) -> dict[fx.Node, set[int]]:
    """Axes whose positions stand for themselves, such as heads in a product: none may take what another one leaves."""
    found: dict[fx.Node, set[int]] = {}
    for node in graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        for value in node.all_input_nodes:
            if packet in _PRODUCTS and value in boxes:
                found.setdefault(value, set()).update(range(boxes[value].dim() - 2))
            if packet in _CHOICES and value in boxes:
                found.setdefault(value, set()).add(_axis(node, boxes[value].dim()))
        if packet is torch.ops.aten.stack and node in boxes:
            found.setdefault(node, set()).add(_axis(node, boxes[node].dim()))
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
