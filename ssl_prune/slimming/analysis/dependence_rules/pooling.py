"""Pooling and resizing, per channel: a window varies where anything in it does."""

from typing import Any

import torch

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.rules.pooling import POOLING
from ssl_prune.slimming.analysis.dependence_masks import uneven
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, everything, rule

__all__ = ["pool"]

aten = torch.ops.aten


@rule(*POOLING)
def pool(call: Call) -> Any:
    """Pooling a constant that padding made uneven depends on the size of the image."""
    x, value = call.known[0], call.value
    several = isinstance(value, (tuple, list))  # with positions, which differ between constants
    rank = x.value.dim()
    over = min(next((int(c) for c in str(call.packet) if c.isdigit()), rank - 2), rank - 1)  # axes of positions
    differs = uneven(x.value, x.varies, range(rank - over, rank))
    first = value[0] if several else value
    if base(x.varies).shape[-over:].numel() == 1 and first.shape[:-over] == x.value.shape[:-over]:
        everywhere = base(x.varies) | differs
        return [everywhere, everything(call)] if several else everywhere
    if several:
        return [(call.target(x.varies.float(), *call.args[1:], **call.kwargs)[0] > 0) | differs, everything(call)]
    if call.packet is aten.upsample_bicubic2d:  # weights of both signs
        return x.varies.any((-2, -1), keepdim=True) | differs
    return (call.target(x.varies.float(), *call.args[1:], **call.kwargs) > 0) | differs
