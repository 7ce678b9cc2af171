"""Operators that only move data: executed on the labels by the same operator."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels import LabelPass, Parameter
from ssl_prune.graph.rules.registry import rule
from ssl_prune.graph.unionfind import WILDCARD

__all__ = ["MOVEMENT", "move"]

aten = torch.ops.aten

MOVEMENT = (
    aten.reshape, aten.permute, aten.transpose, aten.t, aten.expand, aten.squeeze, aten.unsqueeze, aten.slice,
    aten.select, aten.cat, aten.stack, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten.flip, aten.roll,
    aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.repeat, aten.narrow,
    aten.flatten, aten.movedim, aten.swapaxes,
)  # fmt: skip


def move(labels: LabelPass, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Run the node's own operator on labels; on a parameter, on each of its planes."""
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


@rule(aten.view, aten._unsafe_view)
def _view(labels: LabelPass, node: fx.Node, value: Any, shape: list[int]) -> Any:
    if isinstance(value, Parameter):
        return replace(value, planes=tuple(plane.reshape(shape) for plane in value.planes))
    return value.reshape(shape)


@rule(aten.clone, aten.alias, aten.detach, aten._to_copy, aten.contiguous, aten.dropout, aten.lift_fresh_copy)
def _same(labels: LabelPass, node: fx.Node, value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


@rule(aten.constant_pad_nd)
def _pad(labels: LabelPass, node: fx.Node, value: Tensor, pad: list[int], fill: float = 0) -> Any:
    if isinstance(value, Parameter):
        labels.pin(node, "a parameter is padded", value)
        return torch.zeros((), dtype=torch.long).expand(labels.shape(node))
    return aten.constant_pad_nd(value.contiguous(), pad, WILDCARD)


@rule(aten.pad)
def _pad_mode(
    labels: LabelPass, node: fx.Node, value: Any, pad: list[int], mode: str = "constant", fill: float | None = None
) -> Any:
    if mode == "constant" or not isinstance(value, Tensor):
        return _pad(labels, node, value, pad)
    return aten.pad(value.double(), pad, mode).long()  # reflection has no integer kernel; labels are exact in float64


@rule(
    aten.zeros, aten.ones, aten.full, aten.empty, aten.arange, aten.zeros_like, aten.ones_like, aten.full_like,
    aten.scalar_tensor, aten.linspace, aten.eye,
)  # fmt: skip
def _factory(labels: LabelPass, node: fx.Node, *args: Any, **kwargs: Any) -> Tensor:
    return torch.full((), WILDCARD).expand(labels.shape(node))
