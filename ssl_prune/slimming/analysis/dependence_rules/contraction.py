"""Convolution, linear and embedding: a result varies where something that varies meets a weight that is not zero."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_prune.slimming.analysis.dependence_masks import convolved, multiplied
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, always, everything, rule
from ssl_prune.slimming.analysis.known import Known, still

__all__ = ["add_product", "bilinear", "convolution", "embedding", "embedding_bag", "linear", "transposed_convolution"]

aten = torch.ops.aten


@rule(aten.conv1d, aten.conv2d, aten.conv3d, settled=always)
def convolution(call: Call) -> Tensor:
    """Channel by channel where the input's mask is the same at all positions."""
    known, args = call.known, call.args
    if still(known[1:2]):
        small = convolved(call.target, known[0].varies, known[1].value, args[3:6], args[6] if len(args) > 6 else 1)
        if small is not None:
            return small
    return transposed_convolution(call)


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d, settled=always)
def transposed_convolution(call: Call) -> Tensor:
    """A convolution of the mask with where the weight is not zero."""
    known = call.known
    if not still(known[1:2]):
        return everything(call)
    connections: Tensor = call.target(known[0].varies.float(), (known[1].value != 0).float(), None, *call.args[3:])
    return connections > 0.5  # they are counted, so there is none or at least one


@rule(aten.linear, settled=always)
def linear(call: Call) -> Tensor:
    """W of shape ``(O, I)``: columns that vary."""
    known = call.known
    return multiplied(known[0].varies, known[1].value) if still(known[1:2]) else everything(call)


@rule(aten.addmm, settled=always)
def add_product(call: Call) -> Tensor:
    """β b + α x W with W of shape ``(I, O)``."""
    bias, x, weight = call.known[:3]
    return bias.varies | multiplied(x.varies, weight.value.t()) if still([weight]) else everything(call)


@rule(aten.embedding, settled=always)
def embedding(call: Call) -> Tensor:
    """Whichever row is chosen, a column of one number is that number."""
    table = call.known[0].value
    return (table != table[:1]).any(0).expand(call.value.shape)


@rule(aten.embedding_bag)
def embedding_bag(call: Call) -> Any:
    """Sums of a constant are as large as the bag is long."""
    return [(call.known[0].value != 0).any(0), *(everything(call),) * (len(call.value) - 1)]


@rule(aten.bilinear)
def bilinear(call: Call) -> Tensor:
    """W of shape ``(O, I, J)``: one side varies and the other may be other than zero."""
    a, b, weight = call.known[:3]
    if weight.varies.any():
        return everything(call)
    matrix = (weight.value != 0).float()

    def met(first: Tensor, second: Tensor) -> Tensor:
        return F.bilinear(first.float(), second.float(), matrix) > 0.5

    return met(a.varies, _busy(b)) | met(_busy(a), b.varies)


def _busy(known: Known) -> Tensor:
    return known.varies | (known.value != 0)
