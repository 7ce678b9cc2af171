"""Pointwise operators: elements that meet are removed together."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.broadcast import base, collapse
from ssl_prune.graph.labels.label_types import Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED, WILDCARD

__all__ = ["UNTAGGED", "meet", "pointwise"]


aten = torch.ops.aten

# Pointwise operators that do not carry the tag.
UNTAGGED = tuple(
    getattr(aten, name)
    for name in (
        "hardswish", "hardsigmoid", "hardtanh", "log_sigmoid", "log_sigmoid_forward", "masked_fill", "celu", "selu",
        "mish", "relu6", "softshrink", "hardshrink", "threshold", "leaky_relu", "elu", "silu", "nan_to_num", "lerp",
        "rsub", "where",
    )
    if hasattr(aten, name)
)  # fmt: skip


_SUMS = (aten.add.Tensor, aten.sub.Tensor)


@rule("pointwise", *UNTAGGED)
def pointwise(labels: Labels, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Unite the operands' labels; an operand that is one channel broadcast over many is pinned, not merged."""
    shape = labels.shape(node)
    operands = [a for a in (*args, *kwargs.values()) if isinstance(a, (Tensor, Parameter))]
    if len(operands) == 1 and isinstance(operands[0], Parameter):
        return replace(operands[0], computed=True)  # a function of one parameter keeps its planes
    values = [operand for operand in operands if isinstance(operand, Tensor)]
    if not values:
        labels.pin(node, "parameters are combined with each other", *operands)
        return torch.full((), PINNED).expand(shape)
    varying = {axis for value in values for axis in _moving(value, shape)}
    shared = list[tuple[Tensor, int]]()
    for operand in operands:
        if isinstance(operand, Parameter):
            for plane, axis in _planes(labels, node, operand, varying):
                if varying == {axis}:
                    values.append(labels.spread(node, plane, axis))
                else:
                    shared.append((plane, axis))
    result = meet(labels, node, shape, values)
    for plane, axis in shared:
        labels.straight(node, [axis])
        labels.share(plane, _matrix(result, [axis]))
    return result


def meet(labels: Labels, node: fx.Node, shape: Any, values: list[Tensor]) -> Tensor:
    """Labels of a result of this shape to each of whose elements one of every value's belongs."""
    # By axis, not by width: a network that was cut once is looked at in the same way.
    placed = [value for value in values if _moving(value, shape)]
    main = min(placed, key=lambda value: _moving(value, shape)[0], default=None)
    outer = [value for value in placed if main is not None and _across(value, main, shape)]
    if outer:
        labels.pin(node, "an outer product with the channels of an earlier axis", *outer)
    values = [value for value in values if not any(value is other for other in outer)]
    varying = {axis for value in values for axis in _moving(value, shape)}
    merged = torch.full((), WILDCARD).expand(shape)
    broadcast, coarse = bool(outer), []
    for value in values:
        sizes = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
        if any(sizes[axis] == 1 and shape[axis] > 1 for axis in varying):
            coarse.append((value, sorted(axis for axis in varying if sizes[axis] > 1)))
            broadcast |= bool((value != WILDCARD).any())
            continue
        spread = collapse(value.expand(shape))
        labels.unite(merged, spread)
        small = base(merged)
        merged = torch.where(small >= 0, small, base(spread)).expand(shape)
    for value, along in coarse:
        _serve(labels, node, merged, value, along)
    small = base(merged)
    return torch.where(small >= 0, small, PINNED).expand(shape) if broadcast else merged


def _serve(labels: Labels, node: fx.Node, merged: Tensor, value: Tensor, along: list[int]) -> None:
    """One slice for many, as a table of positions for all heads: along its own axes these lose whole slices."""
    own = _moving(value, merged.shape)
    if not along or (own and own != along):
        labels.pin(node, "one channel is broadcast over many", value)
        return
    labels.straight(node, along)
    if own:
        first = _matrix(value.expand(merged.shape), own)[:, 0]
        many = _matrix(merged, own)
        labels.alike(first[:, None], many)
        labels.read_whole(node, first.repeat_interleave(many.shape[1]), many.reshape(-1))
    elif bool((value != WILDCARD).any()) and labels.joined(merged, along) is None:
        labels.pin(node, "a value of a fixed width meets them", merged)


def _matrix(value: Tensor, axes: list[int]) -> Tensor:
    """Labels as a matrix: positions along some axes by the others, each of which counts once where none changes."""
    first = value[tuple(slice(None) if axis in axes or value.stride(axis) else slice(1) for axis in range(value.dim()))]
    return first.movedim(axes, list(range(len(axes)))).flatten(0, len(axes) - 1).flatten(1)


def _across(value: Tensor, main: Tensor, shape: torch.Size) -> bool:
    """The channels of a value lie along other axes than the main ones, and along theirs it has one position."""
    sizes = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
    along, own = _moving(main, shape), _moving(value, shape)
    return bool(along) and bool(own) and not set(along) & set(own) and all(sizes[axis] == 1 for axis in along)


def _moving(value: Tensor, shape: torch.Size) -> list[int]:
    """Axes of the result along which the labels of `value` change."""
    spread = collapse(value.expand(shape))
    return [axis for axis in range(len(shape)) if shape[axis] > 1 and spread.stride(axis) != 0]


def _planes(labels: Labels, node: fx.Node, parameter: Parameter, varying: set[int]) -> Iterator[tuple[Tensor, int]]:
    """The planes of a per-channel parameter along the result's labelled axes; its other axes are never cut."""
    shape = labels.shape(node)
    for axis, plane in enumerate(parameter.planes):
        moving = _moving(plane, shape)
        if len(moving) == 1 and moving[0] in varying:
            labels.role(parameter, axis, "bias" if node.target in _SUMS and not parameter.computed else "other")
            # Only this plane's own axis counts: along the others the parameter is as wide as the result.
            index: list[Any] = [0] * plane.dim()
            index[moving[0] - len(shape) + plane.dim()] = slice(None)
            yield plane[tuple(index)], moving[0]
        elif moving:
            labels.pin(node, "a parameter varies along an axis without channels", plane)
