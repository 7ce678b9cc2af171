"""Positions chosen by an index: fixed ones move labels, others choose along axes on which no channels lie."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.labels.label_types import Parameter, planes_of
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED
from ssl_prune.graph.rules.pointwise import meet

__all__ = ["choose", "gather", "lay", "lay_along", "scatter"]

aten = torch.ops.aten

_COPIES = (aten.clone, aten._to_copy, aten.to, aten.contiguous, aten.alias, aten.detach)
_REPEATS = (aten.expand, aten.expand_as, aten.repeat)


def _pinned(labels: Labels, node: fx.Node, *values: Any) -> Tensor:
    labels.pin(node, "channels are chosen by an index", *values)
    return torch.full((), PINNED).expand(labels.shape(node))


@rule(aten.index, aten.index_select)
def choose(labels: Labels, node: fx.Node, value: Any, *given: Any) -> Any:
    """Fixed positions move labels; positions that depend on the input choose among positions, never among channels."""
    indices = _selected(node, node.args[1:])
    known = [labels.known(i) if isinstance(i, fx.Node) else None for i in indices]
    if (mask := _only_mask(indices, known)) is not None:
        numbers: list[Tensor | None] = [None] * len(known)
        numbers[mask], open_axes = _chooses(indices[mask], labels.shape(node)[mask]), _masked(indices[mask], mask)
    elif _undecidable(indices, known):
        return _pinned(labels, node, value, given)
    else:
        numbers = [n if n is not None else _any(i) for n, i in zip(known, indices, strict=True)]
        open_axes = [axis for axis, n in zip(_axes(numbers), known, strict=True) if axis is not None and n is None]
    if open_axes:
        _keep(labels, node, given)
    if isinstance(value, Parameter):
        planes = tuple(_chosen(labels, node, plane, numbers, open_axes) for plane in value.planes)
        return replace(value, planes=planes, computed=value.computed or bool(open_axes))
    return _chosen(labels, node, value, numbers, open_axes)


def _chosen(
    labels: Labels, node: fx.Node, plane: Tensor, numbers: list[Tensor | None], open_axes: Sequence[int]
) -> Tensor:
    if any(_moves(plane, axis) for axis in open_axes):
        return _pinned(labels, node, plane)
    chosen: Tensor = aten.index(plane, numbers)
    return chosen


@rule(aten.gather)
def gather(labels: Labels, node: fx.Node, value: Tensor, dim: int, index: Any, *args: Any, **kwargs: Any) -> Any:
    """Element by element beside the axis; an index that was repeated along the channels says the same of each."""
    number = labels.known(node.args[2]) if isinstance(node.args[2], fx.Node) else None
    if number is not None:
        return value.gather(dim, number)
    beside = _beside(labels, node, dim % max(1, value.dim()), index, node.args[2], value)
    return _pinned(labels, node, value, index) if beside is None else beside.expand(labels.shape(node))


@rule(aten.scatter, aten.scatter_add, aten.scatter_reduce)
def scatter(
    labels: Labels, node: fx.Node, value: Tensor, dim: int, index: Any, source: Any, *args: Any, **kwargs: Any
) -> Any:
    """Likewise, onto what a value holds."""
    values = [value, source] if isinstance(source, (Tensor, Parameter)) else [value]
    if isinstance(source, Parameter):
        return _pinned(labels, node, value, index, source)
    beside = _beside(labels, node, dim % max(1, value.dim()), index, node.args[2], *values)
    return _pinned(labels, node, values, index) if beside is None else beside.expand(value.shape)


def _beside(labels: Labels, node: fx.Node, dim: int, index: Any, given: Any, *values: Tensor) -> Tensor | None:
    """What the labels beside the axis come to; None where the index may tell channels apart."""
    if isinstance(index, Parameter) or not isinstance(given, fx.Node) or any(_moves(v, dim) for v in values):
        return None
    moving = {axis for v in (*values, index) for axis in range(v.dim()) if _moves(v, axis) and axis != dim}
    if any(len({v.shape[axis] for v in (*values, index)}) > 1 for axis in moving):
        return None  # the first so many channels, by a number
    shape = [1 if axis == dim else size for axis, size in enumerate(index.shape)]
    cut = [v[tuple(slice(size) for size in shape)] for v in values]
    merged = meet(labels, node, torch.Size(shape), cut)
    if all(_repeated(given, axis) for axis in moving):
        _keep(labels, node, index)
    else:
        labels.unite(merged, torch.where(index >= 0, index, PINNED))
    return merged[tuple(slice(None) if axis in moving else slice(1) for axis in range(merged.dim()))]


@rule(aten.index_add, aten.index_copy, aten.index_reduce)
def lay_along(
    labels: Labels, node: fx.Node, value: Tensor, dim: int, index: Any, source: Any, *args: Any, **kwargs: Any
) -> Any:
    """Rows onto rows: channel by channel where these lie along other axes."""
    if isinstance(source, Parameter) or _moves(value, dim) or _moves(source, dim):
        return _pinned(labels, node, value, index, source)
    _keep(labels, node, index)
    rows = [v.narrow(dim, 0, 1) for v in (value, source)]
    return meet(labels, node, rows[0].shape, rows).expand(value.shape)


@rule(aten.index_put)
def lay(labels: Labels, node: fx.Node, value: Tensor, given: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    """Likewise by several indices, each for one axis."""
    indices = _selected(node, (node.args[1],))
    numbers = [_any(i) for i in indices]
    axes = [axis for axis in _axes(numbers) if axis is not None]
    if isinstance(source, Parameter) or _undecidable(indices, numbers) or any(_moves(value, axis) for axis in axes):
        return _pinned(labels, node, value, given, source)
    _keep(labels, node, given)
    start = value[tuple(slice(1) if axis in axes else slice(None) for axis in range(value.dim()))]
    place = aten.index(start, numbers)
    merged = meet(labels, node, place.shape, [place, source])
    laid: Tensor = aten.index_put(start.clone(), numbers, merged)
    if not torch.equal(aten.index(laid, numbers), merged):  # channels of what is laid run along an axis that is indexed
        return _pinned(labels, node, value, source)
    return laid.expand(value.shape)


def _keep(labels: Labels, node: fx.Node, *index: Any) -> None:
    """Channels that an index is computed from."""
    if any(bool((base(plane) > PINNED).any()) for plane in planes_of(index)):
        labels.pin(node, "an index is computed from them", *index)


def _selected(node: fx.Node, given: Sequence[Any]) -> list[Any]:
    """The nodes of the indices of all axes up to the last one that has one."""
    if len(given) == 1:
        return list(given[0])
    dims = len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]
    return [None] * (given[0] % max(1, dims)) + [given[1]]


def _any(index: Any) -> Tensor | None:
    """An index of the same shape, of which only that counts."""
    return torch.zeros(index.meta["val"].shape, dtype=torch.long) if isinstance(index, fx.Node) else None


def _only_mask(indices: Sequence[Any], known: Sequence[Tensor | None]) -> int | None:
    """Which index is a mask that the input decides, where there is no other index."""
    given = [place for place, i in enumerate(indices) if i is not None]
    alone = len(given) == 1 and isinstance(indices[given[0]], fx.Node) and known[given[0]] is None
    return given[0] if alone and indices[given[0]].meta["val"].dtype in (torch.bool, torch.uint8) else None


def _masked(mask: fx.Node, first: int) -> list[int]:
    return list(range(first, first + mask.meta["val"].dim()))


def _chooses(mask: fx.Node, count: int) -> Tensor:
    """A mask of the same shape that chooses `count` positions."""
    shape: torch.Size = mask.meta["val"].shape
    return (torch.arange(shape.numel()) < count).view(shape)


def _undecidable(indices: Sequence[Any], known: Sequence[Tensor | None]) -> bool:
    """Some index is a mask that the input decides."""
    return any(
        isinstance(i, fx.Node)
        and i.meta["val"].dtype in (torch.bool, torch.uint8)
        and (n is None or n.dtype != i.meta["val"].dtype)
        for i, n in zip(indices, known, strict=True)
    )


def _axes(numbers: Sequence[Tensor | None]) -> list[int | None]:
    """The axis that each index is for; a mask is for as many as it has."""
    found, axis = list[int | None](), 0
    for number in numbers:
        found.append(None if number is None else axis)
        axis += number.dim() if number is not None and number.dtype == torch.bool else 1
    return found


def _moves(value: Tensor, axis: int) -> bool:
    return value.dim() > 0 and value.shape[axis] > 1 and value.stride(axis) != 0


def _repeated(node: fx.Node, axis: int) -> bool:
    """The value is one number along the axis, written once for all of it."""
    while getattr(node.target, "overloadpacket", None) in _COPIES and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    source = node.args[0] if node.args else None
    if getattr(node.target, "overloadpacket", None) not in _REPEATS or not isinstance(source, fx.Node):
        return False
    before: torch.Size = source.meta["val"].shape
    place = axis - len(node.meta["val"].shape) + len(before)
    return place < 0 or before[place] == 1
