"""Positions chosen by an index: whichever they are, a constant along the axis is that constant."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.slimming.analysis.dependence_masks import busy, uneven
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, always, everything, rule
from ssl_prune.slimming.analysis.known import Known, still

__all__ = ["choose", "gather", "lay", "lay_along"]

aten = torch.ops.aten

_MASKS = (torch.bool, torch.uint8)


@rule(aten.index, aten.index_select, settled=always)
def choose(call: Call) -> Tensor:
    """Of positions that do not vary, or of any along axes on which the value is one number."""
    x = call.known[0]
    if still(call.known[1:]):
        plain = pytree.tree_map(lambda a: a.value if isinstance(a, Known) else a, call.args[1:])
        chosen: Tensor = call.target(x.varies, *plain)
        return chosen
    if call.packet is aten.index_select:
        return _along(x, [call.args[1]])
    indices = [None if i is None else i.value for i in call.args[1]]
    if any(i is not None and i.dtype in _MASKS for i in indices):
        return _masked(call, x, indices)
    found: Tensor = aten.index(_along(x, [axis for axis, i in enumerate(indices) if i is not None]), _anywhere(indices))
    return found


def _masked(call: Call, x: Known, indices: Sequence[Tensor | None]) -> Tensor:
    """One mask chooses some of the positions along its axes."""
    given = [(place, i) for place, i in enumerate(indices) if i is not None]
    if len(given) > 1:
        return everything(call)
    (first, mask), *_ = given
    return _along(x, range(first, first + mask.dim())).flatten(first, first + mask.dim() - 1)


@rule(aten.gather)
def gather(call: Call) -> Tensor:
    """Likewise, element by element beside the axis."""
    x, dim, index = call.args[:3]
    if still([index]):
        picked: Tensor = x.varies.gather(dim, index.value)
        return picked
    mask = _along(x, [dim])
    return mask[tuple(slice(1) if a == dim % mask.dim() else slice(n) for a, n in enumerate(index.value.shape))]


@rule(aten.index_add, aten.index_copy, aten.index_reduce, aten.scatter, aten.scatter_add, aten.scatter_reduce)
def lay_along(call: Call) -> Tensor:
    """Zeros laid over zeros are zeros, and zeros that are added change nothing."""
    x, dim, index, source = call.args[:4]
    if not isinstance(source, Known):
        return everything(call)
    dim, values = dim % x.value.dim(), [x.value, source.value]
    if call.packet in (aten.scatter, aten.scatter_add, aten.scatter_reduce):
        values.append(index.value)
    if any(len({v.shape[axis] for v in values}) > 1 for axis in range(x.value.dim()) if axis != dim):
        return everything(call)
    laid = busy(source.value, source.varies).expand(source.value.shape).any(dim, keepdim=True)
    adds = call.packet in (aten.index_add, aten.scatter_add)
    found: Tensor = laid | (base(x.varies) if adds else busy(x.value, x.varies))
    return found


@rule(aten.index_put)
def lay(call: Call) -> Tensor:
    """Likewise by several indices."""
    x, given, source = call.args[:3]
    indices = [None if i is None else i.value for i in given]
    if any(i is not None and i.dtype in _MASKS for i in indices):
        return everything(call)
    axes, anywhere = [axis for axis, i in enumerate(indices) if i is not None], _anywhere(indices)
    room = torch.zeros([1 if axis in axes else size for axis, size in enumerate(x.value.shape)], device=x.value.device)
    laid = busy(source.value, source.varies).expand(source.value.shape).float()
    found: Tensor = (aten.index_put(room, anywhere, laid, True) > 0) | busy(x.value, x.varies)
    return found


def _along(x: Known, axes: Sequence[int]) -> Tensor:
    """Where something along the axes varies, or differs from the rest; of the value's shape but for these."""
    axes = [axis % x.value.dim() for axis in axes]
    found: Tensor = aten.amax(base(x.varies), axes, True) | uneven(x.value, x.varies, axes)
    return found.expand([1 if axis in axes else size for axis, size in enumerate(x.value.shape)])


def _anywhere(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if i is None else torch.zeros_like(i) for i in indices]
