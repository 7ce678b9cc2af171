"""Pooling and resizing: per channel, over positions."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED

__all__ = ["POOLING", "pool"]

aten = torch.ops.aten

POOLING = tuple(
    getattr(aten, name)
    for name in (
        *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
        "max_pool2d_with_indices", "max_pool3d_with_indices", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
        "mkldnn_adaptive_avg_pool2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d",
    )
    if hasattr(aten, name)
)  # fmt: skip


@rule(*POOLING)
def pool(labels: Labels, node: fx.Node, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A channel goes in, the same channel comes out."""
    value = node.meta["val"]
    spatial = (value if isinstance(value, Tensor) else value[0]).dim() - x.dim()
    if spatial or x.dim() < 3:
        labels.pin(node, "pooling without a channel axis", x)
        return torch.full((), PINNED).expand(labels.shape(node))
    # An input without a batch axis has its channels first; pooling never mixes axis 0 and 1 with the positions.
    axis = 1 if x.shape[1] == labels.shape(node)[1] and _batched(node, x) else 0
    result = labels.spread(node, labels.channels(x, axis), axis)
    return result if isinstance(value, Tensor) else (result, *(result for _ in value[1:]))


def _batched(node: fx.Node, x: Tensor) -> bool:
    digits = [c for c in getattr(node.target, "__name__", "") if c.isdigit()]
    return not digits or x.dim() == int(digits[0]) + 2
