"""Operators that only move data: executed on the labels by the same operator."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.labels.label_types import Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import WILDCARD

__all__ = ["MOVEMENT", "move"]

aten = torch.ops.aten

MOVEMENT = (
    aten.reshape, aten.permute, aten.transpose, aten.t, aten.expand, aten.squeeze, aten.unsqueeze, aten.slice,
    aten.select, aten.cat, aten.stack, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten.flip, aten.roll,
    aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.repeat, aten.narrow,
    aten.flatten, aten.movedim, aten.swapaxes, aten.repeat_interleave, aten.tile, aten.expand_as, aten.view_as,
    aten.unflatten, aten.tril, aten.triu, aten.rot90, aten.diagonal, aten.slice_scatter,
    aten.select_scatter, aten.unfold,
)  # fmt: skip

_LIKE = (aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like)


def move(labels: Labels, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Run the node's own operator on labels; on a parameter, on each of its planes."""
    _even(labels, node, args)
    if any(isinstance(value, Parameter) for value in pytree.tree_leaves((args[1:], kwargs))):
        # Only what is moved may be a parameter, not what it is laid over or what is laid over it.
        labels.pin(node, "a parameter is laid over a value, or a value over it", args, kwargs)
        return torch.zeros((), dtype=torch.long).expand(labels.shape(node))
    if args and isinstance(args[0], Parameter):
        parameter = args[0]
        planes = [node.target(plane, *args[1:], **kwargs) for plane in parameter.planes]  # type: ignore[operator]
        if planes and isinstance(planes[0], (tuple, list)):
            return [replace(parameter, planes=tuple(piece)) for piece in zip(*planes, strict=True)]
        return replace(parameter, planes=tuple(planes))
    if any(isinstance(value, Parameter) for value in (args[0] if isinstance(args[0], (list, tuple)) else ())):
        # A parameter joined to activations (a class token): its own labels along the axes have no single plane.
        labels.pin(node, "a parameter is concatenated with a value", args)
        return torch.zeros((), dtype=torch.long).expand(labels.shape(node))
    return node.target(*args, **kwargs)  # type: ignore[operator]


rule(*MOVEMENT)(move)


def _even(labels: Labels, node: fx.Node, args: tuple[Any, ...]) -> None:
    """Pieces that were equally long stay so (`chunk` looks like a split by a size), and groups that are shuffled."""
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    if packet is aten.channel_shuffle and isinstance(args[0], Tensor) and args[0].stride(1) != 0:
        labels.equal(labels.channels(args[0], 1).view(args[1], -1))
    if packet is aten.pixel_shuffle and isinstance(args[0], Tensor) and args[0].stride(-3) != 0:
        pixels = labels.channels(args[0], args[0].dim() - 3).view(-1, args[1] ** 2)
        labels.unite(pixels, pixels[:, :1])  # they lie beside each other: all or none
    if packet is aten.stack and all(isinstance(x, Tensor) for x in args[0]):
        each = [base(x).reshape(-1) for x in args[0]]
        if len({len(x) for x in each}) == 1 and len(each[0]) > 1:
            labels.equal(torch.stack(each))  # they have one shape
    if packet not in (aten.split, aten.split_with_sizes, aten.chunk) or not isinstance(args[0], Tensor):
        return
    x, dim = args[0], args[2] if len(args) > 2 else 0
    pieces = node.meta["val"]
    if x.stride(dim) != 0 and x.shape[dim] > 1 and len({p.shape[dim] for p in pieces}) == 1:
        flat = base(x).movedim(dim, 0)
        if flat.numel() == flat.shape[0]:
            labels.equal(flat.reshape(len(pieces), -1))


@rule(aten.view, aten._unsafe_view)
def _view(labels: Labels, node: fx.Node, value: Any, shape: list[int]) -> Any:
    if isinstance(value, Parameter):
        return replace(value, planes=tuple(plane.reshape(shape) for plane in value.planes))
    return value.reshape(shape)


@rule(
    aten.clone, aten.alias, aten.detach, aten._to_copy, aten.to, aten.type_as, aten.contiguous, aten.dropout,
    aten.lift_fresh_copy,
)  # fmt: skip
def _same(labels: Labels, node: fx.Node, value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


@rule(aten.constant_pad_nd)
def _pad(labels: Labels, node: fx.Node, value: Tensor, pad: list[int], fill: float = 0) -> Any:
    if isinstance(value, Parameter):
        labels.pin(node, "a parameter is padded", value)
        return torch.zeros((), dtype=torch.long).expand(labels.shape(node))
    # Beside the channels the padding belongs to each channel; along them it is nobody's.
    across = [0] * len(pad)
    for i in range(len(pad) // 2):
        axis = value.dim() - 1 - i
        if value.shape[axis] > 1 and value.stride(axis) != 0:
            across[2 * i : 2 * i + 2] = pad[2 * i : 2 * i + 2]
        else:
            value = value.narrow(axis, 0, 1).expand(
                *value.shape[:axis], value.shape[axis] + pad[2 * i] + pad[2 * i + 1], *value.shape[axis + 1 :]
            )
    return aten.constant_pad_nd(value.contiguous(), across, WILDCARD) if any(across) else value


@rule(aten.pad)
def _pad_mode(
    labels: Labels, node: fx.Node, value: Any, pad: list[int], mode: str = "constant", fill: float | None = None
) -> Any:
    if mode == "constant" or not isinstance(value, Tensor):
        return _pad(labels, node, value, pad)
    return aten.pad(value.double(), pad, mode).long()  # reflection has no integer kernel; labels are exact in float64


@rule(aten.cumsum, aten.cumprod, aten.cummax, aten.sort, aten.argsort, aten.topk)
def _along(labels: Labels, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Operators along one axis: labels beside it pass."""
    topk = getattr(node.target, "overloadpacket", None) is aten.topk
    dims = [a for a in args if isinstance(a, int) and not isinstance(a, bool)]
    dim = kwargs.get("dim", (dims[1] if len(dims) > 1 else -1) if topk else (dims[0] if dims else -1))
    value = node.meta["val"]
    if not isinstance(x, Tensor) or (x.shape[dim] > 1 and x.stride(dim) != 0):
        labels.pin(node, "an operator runs along the channels", x)
        pinned = torch.zeros((), dtype=torch.long)
        return pinned.expand(value.shape) if isinstance(value, Tensor) else tuple(pinned.expand(v.shape) for v in value)
    beside = x.narrow(dim, 0, 1)
    return beside.expand(value.shape) if isinstance(value, Tensor) else tuple(beside.expand(v.shape) for v in value)


@rule(aten.glu)
def _glu(labels: Labels, node: fx.Node, x: Any, dim: int = -1) -> Any:
    """Halves that meet: each channel of the one goes with its gate."""
    if not isinstance(x, Tensor):
        labels.pin(node, "a gated parameter", x)
        return torch.zeros((), dtype=torch.long).expand(labels.shape(node))
    value, gate = x.chunk(2, dim)
    labels.unite(value, gate)
    return value


@rule(aten.im2col)
def _im2col(labels: Labels, node: fx.Node, x: Tensor, kernel: list[int], *args: Any) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C · kernel, L)``, N perhaps missing: a channel becomes a run of rows."""
    axis = x.dim() - 3
    runs = labels.channels(x, axis).repeat_interleave(kernel[0] * kernel[1])
    return labels.spread(node, runs, axis)


@rule(aten.col2im)
def _col2im(labels: Labels, node: fx.Node, x: Tensor, size: Any, kernel: list[int], *args: Any) -> Tensor:
    axis = x.dim() - 2
    runs = labels.channels(x, axis).view(-1, kernel[0] * kernel[1])
    labels.unite(runs, runs[:, :1])
    return labels.spread(node, runs[:, 0], axis)


@rule(aten.grid_sampler, aten.grid_sampler_2d)
def _grid(labels: Labels, node: fx.Node, x: Tensor, grid: Any, *args: Any) -> Tensor:
    labels.pin(node, "a sampling grid", grid)
    return labels.spread(node, labels.channels(x, 1), 1)


@rule(aten.sym_size)
def _size(labels: Labels, node: fx.Node, value: Any, axis: int) -> Any:
    """How many positions a mask has chosen; a number of channels does not depend on data."""
    return node.meta["val"]


@rule(
    aten.zeros, aten.ones, aten.full, aten.empty, aten.arange, aten.zeros_like, aten.ones_like, aten.full_like,
    aten.scalar_tensor, aten.linspace, aten.eye, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty,
    aten.empty_like, aten._assert_tensor_metadata,
)  # fmt: skip
def _factory(labels: Labels, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(node.meta.get("val"), Tensor):  # an assertion
        return None
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    if packet in _LIKE and isinstance(args[0], Tensor) and base(args[0]).numel() > 1:
        return args[0]  # as wide as the value, whatever that keeps
    return torch.full((), WILDCARD).expand(labels.shape(node))
