"""Products of two values: something that varies meets something that is not a proven zero."""

from typing import Any

import torch
from torch import Tensor

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.slimming.analysis.dependence_masks import busy
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, everything, rule

__all__ = ["attention", "product"]

aten = torch.ops.aten


@rule(aten.matmul, aten.bmm, aten.mm, aten.einsum)
def product(call: Call) -> Tensor:
    """Of two values; einsum may be of more."""
    if len(call.known) != 2:
        return everything(call)
    a, b = call.known
    target: Any = call.target

    def run(first: Tensor, second: Tensor) -> Tensor:
        if target.overloadpacket is aten.einsum or min(a.value.dim(), b.value.dim()) < 2:
            pair = first.expand(a.value.shape).float(), second.expand(b.value.shape).float()
            result: Tensor = target(call.args[0], pair) if target.overloadpacket is aten.einsum else target(*pair)
            return result > 0.5
        terms = max(first.shape[-1], second.shape[-2])
        first = first.expand(*first.shape[:-1], terms)
        return first.float() @ second.expand(*second.shape[:-2], terms, second.shape[-1]).float() > 0.5

    met = run(base(a.varies), busy(b.value, b.varies)) | run(busy(a.value, a.varies), base(b.varies))
    return busy(call.value, met.expand(call.value.shape))


def _without_dropout(call: Call) -> bool:
    return not (call.args[4] if len(call.args) > 4 else call.kwargs.get("dropout_p", 0.0))


@rule(aten.scaled_dot_product_attention, deterministic=_without_dropout)
def attention(call: Call) -> Tensor:
    """Weights add up to one only up to rounding: a channel of v is a constant where it is zero."""
    filled = busy(call.known[2].value, call.known[2].varies).any(-2, keepdim=True)
    if call.kwargs.get("enable_gqa") and filled.shape[-3] not in (1, call.value.shape[-3]):
        filled = filled.repeat_interleave(call.value.shape[-3] // filled.shape[-3], -3)
    return filled.expand(call.value.shape)
