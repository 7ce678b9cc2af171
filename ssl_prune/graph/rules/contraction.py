"""Convolution, linear and embedding: they read channels along the weight's input axis and write along its output axis."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.program import module_of
from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.labels.label_types import Contraction, Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED

__all__ = [
    "bilinear",
    "convolution",
    "embedding",
    "embedding_bag",
    "linear",
    "note",
    "plain",
    "transposed_convolution",
    "vector",
]

aten = torch.ops.aten


def _refuse(labels: Labels, node: fx.Node, reason: str, *values: Any) -> Tensor:
    labels.pin(node, reason, *values)
    return torch.full((), PINNED).expand(labels.shape(node))


def plain(weight: Any, bias: Any = None) -> bool:
    """Weight and bias hold numbers of a parameter, unchanged, and each axis runs over one axis of the parameter."""
    if not isinstance(weight, Parameter) or not (bias is None or isinstance(bias, Parameter)):
        return False
    if weight.computed or (bias is not None and bias.computed):
        return False
    # A square weight that was transposed has the shape of its own self: look where each plane changes.
    return all(
        base(plane).numel() == plane.shape[axis] == base(plane).shape[axis] for axis, plane in enumerate(weight.planes)
    )


def vector(plane: Tensor, axis: int) -> Tensor:
    """The labels of a plane along the axis in which they change."""
    index: list[Any] = [0] * plane.dim()
    index[axis] = slice(None)
    return plane[tuple(index)]


def _write(labels: Labels, weight: Parameter, axis: int, bias: Parameter | None) -> Tensor:
    written = vector(weight.planes[axis], axis)
    labels.role(weight, axis, "writer")
    if bias is not None:
        labels.role(bias, 0, "writer")
        labels.unite(written.reshape(bias.planes[0].shape), bias.planes[0])
    return written


def note(
    labels: Labels,
    node: fx.Node,
    weight: Parameter,
    read: Tensor,
    written: Tensor,
    axes: tuple[int, int, int],
    groups: int = 1,
    padded: bool = False,
    source: Any = None,
) -> None:
    """Note a reader; `axes` are those of its input's channels, of the weight's input and of the weight's output."""
    source = node.args[0] if source is None else source
    assert isinstance(source, fx.Node)
    along, reading, writing = axes
    labels.contractions.append(
        Contraction(
            node,
            module_of(node),
            weight.name,
            source,
            (along,),
            read,
            written,
            reading,
            # A transposed convolution of several groups has as many outputs on its axis as one group.
            labels.positions(weight.name, writing, vector(weight.planes[writing], writing)).repeat(
                len(written) // weight.shape[writing]
            ),
            labels.positions(weight.name, reading, vector(weight.planes[reading], reading)),
            groups,
            padded,
        )
    )


@rule(aten.conv1d, aten.conv2d, aten.conv3d)
def convolution(
    labels: Labels,
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
    if not isinstance(x, Tensor) or not plain(weight, bias):
        return _refuse(labels, node, "the weight of a convolution is computed", x, weight, bias)
    along = x.dim() - weight.planes[0].dim() + 1  # 0 without a batch axis
    read = labels.channels(x, along)
    written = _write(labels, weight, 0, bias)
    padded = padding not in ("valid", 0) and any(p for p in (padding if isinstance(padding, (list, tuple)) else [1]))
    if groups == 1:
        labels.role(weight, 1, "reader")
        labels.unite(read, vector(weight.planes[1], 1))
    elif weight.shape[1] == 1 and len(written) == groups:
        labels.unite(read, written)  # depthwise: a channel and what it writes live or die together
    else:
        _grouped(labels, weight, 1, read, written, groups)
    note(labels, node, weight, read, written, (along, 1, 0), groups, padded)
    return labels.spread(node, written, along)


def _grouped(labels: Labels, weight: Parameter, axis: int, read: Tensor, written: Tensor, groups: int) -> None:
    """Groups may keep different channels, but equally many; a group goes with all that it reads and writes."""
    labels.role(weight, axis, "grouped")
    inside, outside = read.reshape(groups, -1), written.reshape(groups, -1)
    labels.equal(inside, vanish=True)
    labels.equal(outside, vanish=True)
    labels.alike(inside, outside)


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def transposed_convolution(
    labels: Labels,
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
    depthwise = groups > 1 and isinstance(weight, Parameter) and groups == weight.shape[0] and weight.shape[1] == 1
    if not isinstance(x, Tensor) or not plain(weight, bias) or x.dim() != weight.planes[0].dim():
        return _refuse(
            labels, node, "the weight of a convolution is computed, or its input has no batch axis", x, weight, bias
        )
    read = labels.channels(x, 1)
    if depthwise:
        written = vector(weight.planes[0], 0)
        labels.role(weight, 0, "writer")
        labels.unite(read, written)
        if bias is not None:
            labels.role(bias, 0, "writer")
            labels.unite(written, bias.planes[0])
        note(labels, node, weight, read, written, (1, 0, 0), groups, True)
        return labels.spread(node, written, 1)
    labels.role(weight, 0, "reader")
    labels.unite(read, vector(weight.planes[0], 0))
    if groups > 1:
        # Each group's outputs lie on one axis of the weight: units of their own, which the bias has, too.
        written = labels.new_virtual(groups * weight.shape[1])
        if bias is not None:
            labels.role(bias, 0, "writer")
            labels.unite(written, bias.planes[0])
        _grouped(labels, weight, 1, read, written, groups)
        note(labels, node, weight, read, written, (1, 0, 1), groups, True)
        return labels.spread(node, written, 1)
    written = _write(labels, weight, 1, bias)
    # Border positions overlap fewer times than inner ones, so only a constant of zero can be dropped.
    note(labels, node, weight, read, written, (1, 0, 1), padded=True)
    return labels.spread(node, written, 1)


@rule(aten.linear)
def linear(
    labels: Labels, node: fx.Node, x: Tensor, weight: Any, bias: Any = None, *, source: fx.Node | None = None
) -> Tensor:
    """W of shape ``(O, I)`` over the last axis of the input: reads axis 1, writes axis 0."""
    if not isinstance(x, Tensor) or not plain(weight, bias):
        return _refuse(labels, node, "the weight of a linear layer is computed", x, weight, bias)
    last = x.dim() - 1
    if any(x.shape[axis] > 1 and x.stride(axis) != 0 for axis in range(last)) and x.stride(last) == 0:
        # Positions are mixed, channels stay where they are: the layer is one matrix for all of them.
        labels.pin(node, "a linear layer over positions", weight, bias)
        return x.narrow(last, 0, 1).expand(labels.shape(node))
    read = labels.channels(x, last)
    written = _write(labels, weight, 0, bias)
    labels.role(weight, 1, "reader")
    labels.unite(read, vector(weight.planes[1], 1))
    note(labels, node, weight, read, written, (last, 1, 0), source=source)
    return labels.spread(node, written, last)


@rule(aten.embedding)
def embedding(labels: Labels, node: fx.Node, weight: Any, indices: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A table of shape ``(V, D)``: writes axis 1."""
    if not plain(weight):
        return _refuse(labels, node, "the table of an embedding is computed", weight, indices)
    labels.pin(node, "the rows of an embedding are chosen by the input", weight.planes[0])
    labels.role(weight, 1, "writer")
    return labels.spread(node, vector(weight.planes[1], 1), len(labels.shape(node)) - 1)


@rule(aten.embedding_bag)
def embedding_bag(labels: Labels, node: fx.Node, weight: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of a table of shape ``(V, D)``, added up or compared channel by channel."""
    values = node.meta["val"]
    if not plain(weight):
        labels.pin(node, "the table of an embedding is computed", weight, indices, args)
        return tuple(torch.full((), PINNED).expand(v.shape) for v in values)
    labels.pin(node, "the rows of an embedding are chosen by the input", weight.planes[0], indices, args)
    labels.role(weight, 1, "writer")
    written = vector(weight.planes[1], 1)
    # The rows that a maximum comes from are as many as the channels.
    wide = [v.dim() == 2 and v.shape[1] == len(written) for v in values]
    return tuple(
        (written if own else torch.full((), PINNED)).expand(v.shape) for v, own in zip(values, wide, strict=True)
    )


@rule(aten.bilinear)
def bilinear(labels: Labels, node: fx.Node, a: Tensor, b: Tensor, weight: Any, bias: Any = None) -> Tensor:
    """W of shape ``(O, I, J)`` over the last axes of two inputs: reads axes 1 and 2, writes axis 0."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and plain(weight, bias)):
        return _refuse(labels, node, "the weight of a bilinear layer is computed", a, b, weight, bias)
    written, last = _write(labels, weight, 0, bias), a.dim() - 1
    for axis, x in ((1, a), (2, b)):
        read, source = labels.channels(x, last), node.args[axis - 1]
        labels.role(weight, axis, "reader")
        labels.unite(read, vector(weight.planes[axis], axis))
        note(labels, node, weight, read, written, (last, axis, 0), source=source)
    return labels.spread(node, written, last)
