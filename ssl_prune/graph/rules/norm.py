"""Normalisation: per channel for batch norm; over channels (layer, group, softmax) it ties or pins them."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.label_types import Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED

__all__ = ["batch_norm", "over_channels"]

_ROLES = ("scale", "shift", "statistic", "statistic")  # of what a normalisation is given, in its order

aten = torch.ops.aten


def _per_channel(
    labels: Labels, node: fx.Node, x: Tensor, parameters: tuple[Any, ...], roles: tuple[str, ...] = _ROLES
) -> Tensor:
    channels = labels.channels(x, 1)
    for parameter, role in zip(parameters, roles, strict=False):
        if isinstance(parameter, Parameter):
            labels.role(parameter, 0, role)
            labels.unite(channels, parameter.planes[0])
    return labels.spread(node, channels, 1)


@rule(aten._native_batch_norm_legit_no_training)
def batch_norm(labels: Labels, node: fx.Node, x: Tensor, *args: Any) -> Any:
    """Scale, shift, running mean and variance belong to the channel they normalise."""
    result = _per_channel(labels, node, x, args[:4])
    empty = torch.full((), PINNED).expand(0)
    return (result, empty, empty)


@rule(aten.batch_norm)
def _batch_norm(labels: Labels, node: fx.Node, x: Tensor, *args: Any) -> Any:
    return _per_channel(labels, node, x, args[:4])


@rule(aten.prelu, aten._prelu_kernel)
def _prelu(labels: Labels, node: fx.Node, x: Tensor, slope: Any) -> Any:
    if isinstance(slope, Parameter) and slope.shape[0] > 1:
        return _per_channel(labels, node, x, (slope,), ("other",))
    return x


@rule(aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax)
def over_channels(labels: Labels, node: fx.Node, x: Any, dim: int, *args: Any) -> Any:
    """A sum over the axis reads every channel along it: what other axes tell apart is tied, else it is pinned."""
    if not isinstance(x, Tensor):
        labels.pin(node, "softmax of a parameter", x)
        return torch.full((), PINNED).expand(labels.shape(node))
    joined = labels.joined(x, [dim % x.dim()])
    if joined is None:
        labels.pin(node, "softmax runs over the channels", x)
        return torch.full((), PINNED).expand(x.shape)
    return joined


@rule(aten.instance_norm)
def _instance_norm(labels: Labels, node: fx.Node, x: Tensor, *args: Any) -> Any:
    return _per_channel(labels, node, x, args[:4])


@rule(aten._native_batch_norm_legit.no_stats, aten._native_batch_norm_legit)
def _batch_statistics(labels: Labels, node: fx.Node, x: Tensor, *args: Any) -> Any:
    result = _per_channel(labels, node, x, args[:4])
    empty = torch.full((), PINNED).expand(0)
    return (result, empty, empty)


@rule(aten.layer_norm, aten.native_layer_norm, aten.rms_norm, aten._fused_rms_norm)
def _layer_norm(labels: Labels, node: fx.Node, x: Tensor, normalized: list[int], *args: Any) -> Any:
    value = node.meta["val"]
    pinned = torch.full((), PINNED)
    joined = labels.joined(x, range(x.dim() - len(normalized), x.dim()))
    if joined is None:
        labels.pin(node, "a normalisation runs over the channels", x, args)
        return pinned.expand(value.shape) if isinstance(value, Tensor) else tuple(pinned.expand(v.shape) for v in value)
    labels.pin(node, "a normalisation over positions", args)
    return joined if isinstance(value, Tensor) else (joined, *(pinned.expand(v.shape) for v in value[1:]))


@rule(aten.group_norm)
def _group_norm(labels: Labels, node: fx.Node, x: Tensor, groups: int, *args: Any) -> Tensor:
    """The channels of a group share their statistics: they go together."""
    return _in_groups(labels, node, x, groups, args[:2])


@rule(aten.native_group_norm)
def _native_group_norm(labels: Labels, node: fx.Node, x: Tensor, *args: Any) -> Any:
    result = _in_groups(labels, node, x, args[5], args[:2])
    return (result, *(torch.full((), PINNED).expand(v.shape) for v in node.meta["val"][1:]))


def _in_groups(labels: Labels, node: fx.Node, x: Tensor, groups: int, parameters: tuple[Any, ...]) -> Tensor:
    if groups == 1:
        labels.pin(node, "group normalisation runs over the channels", x, parameters)
        return torch.full((), PINNED).expand(x.shape)
    inside = labels.channels(x, 1).view(groups, -1)
    labels.unite(inside, inside[:, :1])
    return _per_channel(labels, node, x, parameters)
