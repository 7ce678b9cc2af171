"""Normalisation: per channel for batch norm; over channels (layer, group, softmax) it pins them."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels import LabelPass, Parameter
from ssl_prune.graph.rules.registry import rule
from ssl_prune.graph.unionfind import PINNED

__all__ = ["batch_norm", "over_channels"]

aten = torch.ops.aten


def _per_channel(labels: LabelPass, node: fx.Node, x: Tensor, parameters: tuple[Any, ...]) -> Tensor:
    channels = labels.channels(x, 1)
    for parameter in parameters:
        if isinstance(parameter, Parameter):
            labels.role(parameter, 0, "norm")
            labels.unite(channels, parameter.planes[0])
    return labels.spread(node, channels, 1)


@rule(aten._native_batch_norm_legit_no_training)
def batch_norm(labels: LabelPass, node: fx.Node, x: Tensor, *args: Any) -> Any:
    """Scale, shift, running mean and variance belong to the channel they normalise."""
    result = _per_channel(labels, node, x, args[:4])
    empty = torch.full((), PINNED).expand(0)
    return (result, empty, empty)


@rule(aten.batch_norm)
def _batch_norm(labels: LabelPass, node: fx.Node, x: Tensor, *args: Any) -> Any:
    return _per_channel(labels, node, x, args[:4])


@rule(aten.prelu, aten._prelu_kernel)
def _prelu(labels: LabelPass, node: fx.Node, x: Tensor, slope: Any) -> Any:
    if isinstance(slope, Parameter) and slope.shape[0] > 1:
        return _per_channel(labels, node, x, (slope,))
    return x


@rule(aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax)
def over_channels(labels: LabelPass, node: fx.Node, x: Any, dim: int, *args: Any) -> Any:
    """A sum over the axis reads every channel: labels that change along it are pinned, others pass."""
    if not isinstance(x, Tensor):
        labels.pin(node, "softmax of a parameter", x)
        return torch.full((), PINNED).expand(labels.shape(node))
    if x.stride(dim) != 0 and x.shape[dim] > 1:
        labels.pin(node, "softmax runs over the channels", x)
        return torch.full((), PINNED).expand(x.shape)
    return x


@rule(aten.instance_norm)
def _instance_norm(labels: LabelPass, node: fx.Node, x: Tensor, *args: Any) -> Any:
    return _per_channel(labels, node, x, args[:4])


@rule(aten._native_batch_norm_legit.no_stats, aten._native_batch_norm_legit)
def _batch_statistics(labels: LabelPass, node: fx.Node, x: Tensor, *args: Any) -> Any:
    result = _per_channel(labels, node, x, args[:4])
    empty = torch.full((), PINNED).expand(0)
    return (result, empty, empty)


@rule(aten.layer_norm, aten.native_layer_norm, aten.rms_norm, aten._fused_rms_norm)
def _layer_norm(labels: LabelPass, node: fx.Node, x: Tensor, normalized: list[int], *args: Any) -> Any:
    over = range(x.dim() - len(normalized), x.dim())
    value = node.meta["val"]
    if any(x.shape[axis] > 1 and x.stride(axis) != 0 for axis in over):
        labels.pin(node, "a normalisation runs over the channels", x, args)
        pinned = torch.full((), PINNED)
        return pinned.expand(value.shape) if isinstance(value, Tensor) else tuple(pinned.expand(v.shape) for v in value)
    labels.pin(node, "a normalisation over positions", args)
    return x if isinstance(value, Tensor) else (x, *(torch.full((), PINNED).expand(v.shape) for v in value[1:]))


@rule(aten.group_norm, aten.native_group_norm)
def _group_norm(labels: LabelPass, node: fx.Node, x: Tensor, *args: Any) -> Any:
    labels.pin(node, "group normalisation runs over the channels", x, args)
    pinned = torch.full((), PINNED)
    value = node.meta["val"]
    return pinned.expand(value.shape) if isinstance(value, Tensor) else tuple(pinned.expand(v.shape) for v in value)
