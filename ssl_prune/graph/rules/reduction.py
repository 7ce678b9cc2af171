"""Reductions: along an axis without channels they pass, along one of several they tie, along the only one they pin."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.program import module_of
from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.labels.label_types import Contraction
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED

__all__ = ["reduce"]


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


aten = torch.ops.aten


@rule(
    aten.mean, aten.sum, aten.amax, aten.amin, aten.prod, aten.logsumexp, aten.var, aten.std, aten.var_mean, aten.std_mean,
    aten.linalg_vector_norm,
)  # fmt: skip
def reduce(labels: Labels, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Keep the labels of the axes that stay; both results of an operator that has two have them."""
    found = _left(labels, node, x, *args, **kwargs)
    return (found, found) if _packet(node) in (aten.var_mean, aten.std_mean) else found


def _left(labels: Labels, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    shape = labels.shape(node)
    if _packet(node) is aten.linalg_vector_norm:
        args = args[1:]  # its order comes before its axes
    dims = kwargs.get("dim", next((a for a in args if isinstance(a, (list, tuple))), args[0] if args else None))
    if not isinstance(x, Tensor):
        labels.pin(node, "a parameter is reduced", x)
        return torch.full((), PINNED).expand(shape)
    dims = [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims
    if not isinstance(dims, (list, tuple)) or not dims:
        dims = list(range(x.dim()))
    dims = sorted({d % x.dim() for d in dims}, reverse=True)
    moving = [d for d in range(x.dim()) if x.shape[d] > 1 and x.stride(d) != 0]
    summed = _packet(node) is aten.sum or node in labels.dense_means
    if moving and moving == sorted(dims) and summed:
        # A sum needs the channels that are not zero, whatever follows.
        read = base(x).reshape(-1)
        source = node.args[0]
        assert isinstance(source, fx.Node)
        written = torch.full((len(read),), PINNED)
        labels.contractions.append(Contraction(node, module_of(node), None, source, tuple(moving), read, written))
        return torch.full((), PINNED).expand(shape)
    joined = labels.joined(x, dims)
    if joined is None:
        labels.pin(node, "a reduction runs over the channels", x)
        return torch.full((), PINNED).expand(shape)
    keep = len(shape) == x.dim()
    for d in dims:
        joined = joined.narrow(d, 0, 1) if keep else joined.select(d, 0)
    return joined
