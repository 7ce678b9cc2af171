"""Products whose numbers nobody looks at: where a result varies with the input, noise may stand for it.

Most of the time of a network goes into products of which every element, or all but some channels, varies. What does not
vary meets the varying input with weights of zero alone, so it can be computed from the rest.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.slimming.analysis.dependence import varying
from ssl_prune.slimming.analysis.known import Known

__all__ = ["skipped"]

aten = torch.ops.aten

_LAYERS = {aten.linear: -1, aten.conv1d: 1, aten.conv2d: 1, aten.conv3d: 1}  # with the axis of the channels
_PRODUCTS = {aten.matmul, aten.bmm, aten.mm}
_SKIPPED = {*_LAYERS, *_PRODUCTS, aten.scaled_dot_product_attention}


def skipped(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """A value that is right where it does not vary and noise elsewhere, and where it varies.

    Returns:
        None where the operator has to be run: it is no product, it is none of plain tensors, or all of it is constant.
    """
    packet = getattr(node.target, "overloadpacket", None)
    known = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Known)]
    result = node.meta.get("val")
    if packet not in _SKIPPED or not isinstance(result, Tensor) or not known or len({k.value.dtype for k in known}) > 1:
        return None
    noise = _noise(result, known[0].value.device)
    if packet in _PRODUCTS:
        if len(known) != 2:
            return None
        either = [bool(base(k.varies).all()) and bool(k.value.numel()) for k in known]
        other = known[either.index(True) - 1] if any(either) else None
        # Every element of the result meets one that varies, and something that is not zero.
        if other is None or not bool(_somewhere(other, -2 if other is known[1] else -1).all()):
            return None
        return noise, torch.ones((), dtype=torch.bool)
    if packet is aten.scaled_dot_product_attention:
        everywhere = base(varying(node, noise, args, kwargs, False))
        return (noise, everywhere) if bool(everywhere.all()) else None
    if len(known) > 3 or any(bool(base(k.varies).any()) for k in known[1:]):
        return None
    if kwargs or not isinstance(args[0], Known) or not isinstance(args[1], Known):
        return None
    varies = base(varying(node, noise, args, kwargs, False))
    return _layer(node, noise, varies, args, _LAYERS[packet])


def _somewhere(factor: Known, axis: int) -> Tensor:
    """Whether each row (axis -1) or column (axis -2) of a factor has something that varies or is not zero."""
    if factor.value.dim() < 2:
        return torch.zeros((), dtype=torch.bool)
    small = base(factor.varies)
    if bool(small.all()):
        return torch.ones((), dtype=torch.bool)
    return (factor.varies | (factor.value != 0)).any(axis)


def _layer(
    node: fx.Node, noise: Tensor, varies: Tensor, args: tuple[Any, ...], axis: int
) -> tuple[Tensor, Tensor] | None:
    """A linear layer or a convolution of one group, computed for the channels that do not vary at all positions."""
    x, weight = args[0], args[1].value
    bias = args[2].value if len(args) > 2 and args[2] is not None else None
    if varies.dim() != noise.dim():
        varies = varies.expand(noise.shape)
    channel = axis % noise.dim()
    still = (~varies).movedim(channel, 0)
    still = still.reshape(len(still), -1).any(1).expand(noise.shape[channel])
    rows = still.nonzero().flatten()
    if not len(rows):
        return noise, varies
    if bool(base(x.varies).all()):  # then all that does not vary meets weights of zero, or what is outside the image
        alone = (
            noise.new_zeros(()) if bias is None else bias.view([-1 if a == channel else 1 for a in range(noise.dim())])
        )
        return torch.where(varies, noise, alone), varies
    grouped = len(args) > 6 and args[6] != 1
    if grouped or 2 * len(rows) > len(still) or x.value.dim() != noise.dim():
        return None
    target: Any = node.target
    rest = [None if bias is None else bias[rows], *args[3:]]
    read, chosen, small = x.value, weight[rows], base(x.varies)
    if small.numel() == read.shape[channel] == small.shape[channel]:  # what varies has no weight in these rows
        columns = (~small).flatten().nonzero().flatten()
        read, chosen = read.index_select(channel, columns), chosen.index_select(1, columns)
    value = noise.index_copy(channel, rows, target(read, chosen, *rest))
    return torch.where(varies, noise, value), varies


def _noise(like: Tensor, device: torch.device) -> Tensor:
    """Numbers as a normal layer has them; zeros would make accidents of their own, such as a ratio that is nowhere finite."""
    start = torch.randn(4093, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=like.dtype)
    return start.repeat(-(-like.numel() // len(start))).narrow(0, 0, like.numel()).view(like.shape)
