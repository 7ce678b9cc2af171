"""Operators that move data, or make it: executed on the mask by the same operator."""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ssl_prune.graph.rules.movement import MOVEMENT
from ssl_prune.slimming.analysis.dependence_rules.registry import (
    Call,
    always,
    never,
    nothing,
    rule,
    settle,
)
from ssl_prune.slimming.analysis.known import Known

__all__ = ["cut_out", "move", "pad", "pad_mode", "same", "unfold", "view"]

aten = torch.ops.aten

_CUTS = (aten.slice, aten.narrow)

settle(aten.zeros, aten.ones, aten.full, aten.scalar_tensor, aten.empty, aten.empty_like)
# Of their argument they take the shape, the type and the device.
rule(
    aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full, settled=always
)(nothing)  # fmt: skip


@rule(*(packet for packet in MOVEMENT if packet not in _CUTS), settled=always)
def move(call: Call) -> object:
    """What varies goes where it goes."""
    args, kwargs = pytree.tree_map(lambda a: a.varies if isinstance(a, Known) else a, (call.args, call.kwargs))
    moved: object = call.target(*args, **kwargs)
    return moved


@rule(*_CUTS, settled=never)
def cut_out(call: Call) -> object:
    """A longer input may read on in a table: what is one number here must be it everywhere."""
    if not call.free:
        return move(call)
    x, dim = call.known[0], call.args[1] if len(call.args) > 1 else 0
    other = x.varies | (x.value != x.value.narrow(dim, 0, 1))
    return other.any(dim, keepdim=True).expand(call.value.shape)


@rule(
    aten.clone, aten.alias, aten.detach, aten._to_copy, aten.to, aten.type_as, aten.contiguous, aten.lift_fresh_copy,
    settled=always,
)  # fmt: skip
def same(call: Call) -> Tensor:
    """The same elements."""
    return call.known[0].varies


rule(aten.dropout, settled=always, deterministic=lambda call: not call.args[2])(same)


@rule(aten.view, aten._unsafe_view, settled=always)
def view(call: Call) -> Tensor:
    """The mask may lie in memory otherwise than its value."""
    return call.known[0].varies.reshape(call.args[1])


@rule(aten.constant_pad_nd, settled=always)
def pad(call: Call) -> Tensor:
    """Constants around it do not vary."""
    padded: Tensor = call.target(call.known[0].varies, call.args[1])
    return padded


@rule(aten.pad, settled=always)
def pad_mode(call: Call) -> Tensor:
    """Likewise, and reflected or repeated elements vary with those that they are."""
    padded: Tensor = call.target(call.known[0].varies.float(), *call.args[1:3])
    return padded > 0


@rule(aten.col2im)
def unfold(call: Call) -> Tensor:
    """Patches of an image to rows, and back."""
    found: Tensor = call.target(call.known[0].varies.float(), *call.args[1:])
    return found > 0


rule(aten.im2col, settled=always)(unfold)
