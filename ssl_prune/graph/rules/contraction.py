"""Convolution and linear: they read channels along the weight's input axis and write along its output axis."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels import Contraction, LabelPass, Parameter, base
from ssl_prune.graph.program import module_of
from ssl_prune.graph.rules.registry import rule
from ssl_prune.graph.unionfind import PINNED

__all__ = ["convolution", "linear", "transposed_convolution"]

aten = torch.ops.aten


def _refuse(labels: LabelPass, node: fx.Node, reason: str, *values: Any) -> Tensor:
    labels.pin(node, reason, *values)
    return torch.full((), PINNED).expand(labels.shape(node))


def _plain(weight: Any, bias: Any) -> bool:
    """Weight and bias are parameters as they stand in their module, not computed from others."""
    if not isinstance(weight, Parameter) or not (bias is None or isinstance(bias, Parameter)):
        return False
    if weight.computed or (bias is not None and bias.computed):
        return False
    # A square weight that was transposed has the shape of its own self: look where each plane changes.
    return all(
        base(plane).numel() == plane.shape[axis] == base(plane).shape[axis] for axis, plane in enumerate(weight.planes)
    )


def _vector(plane: Tensor, axis: int) -> Tensor:
    index: list[Any] = [0] * plane.dim()
    index[axis] = slice(None)
    return plane[tuple(index)]


def _write(labels: LabelPass, node: fx.Node, weight: Parameter, axis: int, bias: Parameter | None) -> Tensor:
    written = _vector(weight.planes[axis], axis)
    labels.role(weight, axis, "writer")
    if bias is not None:
        labels.role(bias, 0, "writer")
        labels.unite(written, bias.planes[0])
    return written


def _record(
    labels: LabelPass,
    node: fx.Node,
    weight: Parameter,
    read: Tensor,
    written: Tensor,
    axis: int,
    groups: int,
    padded: bool,
) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    labels.contractions.append(
        Contraction(node, module_of(node), weight.name, source, read, written, axis, groups, padded)
    )


@rule(aten.conv1d, aten.conv2d, aten.conv3d)
def convolution(
    labels: LabelPass,
    node: fx.Node,
    x: Tensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """W of shape (O, I / groups, *kernel): reads axis 1, writes axis 0; depthwise channels pass through."""
    if not isinstance(x, Tensor) or not _plain(weight, bias) or x.dim() != weight.planes[0].dim():
        return _refuse(
            labels, node, "the weight of a convolution is computed, or its input has no batch axis", x, weight, bias
        )
    read = labels.channels(x, 1)
    written = _write(labels, node, weight, 0, bias)
    padded = padding not in ("valid", 0) and any(p for p in (padding if isinstance(padding, (list, tuple)) else [1]))
    if groups == 1:
        labels.role(weight, 1, "reader")
        labels.unite(read, _vector(weight.planes[1], 1))
    elif weight.shape[1] == 1:
        # Depthwise: a channel and all it writes live or die together.
        labels.unite(read[:, None], written.view(groups, -1))
    else:
        # Every group keeps as many channels as the others: the j-th of each group are one unit.
        labels.role(weight, 1, "reader")
        labels.unite(read.view(groups, -1), _vector(weight.planes[1], 1)[None])
        labels.unite(written.view(groups, -1), written.view(groups, -1)[:1])
    _record(labels, node, weight, read, written, 1, groups, padded)
    return labels.spread(node, written, 1)


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def transposed_convolution(
    labels: LabelPass,
    node: fx.Node,
    x: Tensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """W of shape (I, O / groups, *kernel): reads axis 0, writes axis 1."""
    if not isinstance(x, Tensor) or not _plain(weight, bias) or groups != 1 or x.dim() != weight.planes[0].dim():
        return _refuse(labels, node, "a grouped or computed transposed convolution", x, weight, bias)
    read = labels.channels(x, 1)
    written = _write(labels, node, weight, 1, bias)
    labels.role(weight, 0, "reader")
    labels.unite(read, _vector(weight.planes[0], 0))
    # Border positions overlap fewer times than inner ones, so only a constant of zero can be dropped.
    _record(labels, node, weight, read, written, 0, 1, padded=True)
    return labels.spread(node, written, 1)


@rule(aten.linear)
def linear(labels: LabelPass, node: fx.Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
    """W of shape (O, I) over the last axis of the input: reads axis 1, writes axis 0."""
    if not isinstance(x, Tensor) or not _plain(weight, bias):
        return _refuse(labels, node, "the weight of a linear layer is computed", x, weight, bias)
    last = x.dim() - 1
    if any(x.shape[axis] > 1 and x.stride(axis) != 0 for axis in range(last)) and x.stride(last) == 0:
        return _refuse(labels, node, "a linear layer mixes positions, not channels", x, weight, bias)
    read = labels.channels(x, last)
    written = _write(labels, node, weight, 0, bias)
    labels.role(weight, 1, "reader")
    labels.unite(read, _vector(weight.planes[1], 1))
    _record(labels, node, weight, read, written, 1, 1, padded=False)
    return labels.spread(node, written, last)
