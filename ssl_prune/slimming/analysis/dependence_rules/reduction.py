"""Reductions, and operators along one axis: a result varies where anything along the axis does."""

from typing import Any

import torch
from torch import Tensor

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.slimming.analysis.dependence_masks import uneven
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, rule

__all__ = ["in_order", "reduce"]

aten = torch.ops.aten

_GROWING = (aten.sum, aten.prod, aten.linalg_vector_norm)  # of equal numbers that are not zero


@rule(
    aten.mean, aten.sum, aten.amax, aten.amin, aten.prod, aten.linalg_vector_norm, aten.var, aten.std, aten.var_mean,
    aten.std_mean,
)  # fmt: skip
def reduce(call: Call) -> Any:
    """Uneven constants depend on the size of the image, and a sum of equal numbers is as large as it."""
    x, value, given = call.known[0], call.value, list(call.args[1:])
    if call.packet is aten.linalg_vector_norm:
        given = given[1:]  # its order comes before its axes
    first = value[0] if isinstance(value, (tuple, list)) else value
    dims = given[0] if given and not isinstance(given[0], bool) else call.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(x.value.dim()))
    found: Tensor = aten.amax(base(x.varies), dims, True) | uneven(x.value, x.varies, dims)
    if first.dim() != x.value.dim():
        gone = {dim % found.dim() for dim in dims}
        found = found[tuple(0 if axis in gone else slice(None) for axis in range(found.dim()))]
    if call.packet in _GROWING:
        return found | (value != 0)
    return [found] * 2 if isinstance(value, (tuple, list)) else found


@rule(aten.cumsum, aten.cumprod, aten.cummax, aten.sort, aten.argsort, aten.topk)
def in_order(call: Call) -> Any:
    """Sorted or added up along an axis: constant where everything along it is one constant."""
    x, value, packet = call.known[0], call.value, call.packet
    dims = [a for a in call.args[1:] if isinstance(a, int) and not isinstance(a, bool)]
    dim = (dims[1] if len(dims) > 1 else -1) if packet is aten.topk else (dims[0] if dims else -1)
    differs = (x.value != 0) if packet is aten.cumsum else x.value != x.value.narrow(dim, 0, 1)
    found = (x.varies | differs).any(dim, keepdim=True)
    return [found] * len(value) if isinstance(value, (tuple, list)) else found
