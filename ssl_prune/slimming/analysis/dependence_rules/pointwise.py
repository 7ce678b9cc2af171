"""Pointwise operators: a result varies where any of the elements that meet does."""

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.rules.pointwise import UNTAGGED
from ssl_prune.slimming.analysis.dependence_masks import busy
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, always, everything, rule
from ssl_prune.slimming.analysis.known import Known, still

__all__ = ["choose", "divide", "gated", "multiply", "pointwise", "prelu"]

aten = torch.ops.aten

_CHOICES = (aten.masked_fill, aten.where)
_CLAMPS = (aten.clamp, aten.clamp_min)
_VIEWS = (aten.view, aten.expand, aten.expand_as, aten.unsqueeze, aten._to_copy, aten.clone)


@rule("pointwise", *(packet for packet in UNTAGGED if packet not in _CHOICES), settled=always)
def pointwise(call: Call) -> Tensor:
    """The rule of every operator with the tag."""
    merged = torch.zeros((), dtype=torch.bool)
    for k in call.known:
        merged = merged | base(k.varies)
    return merged


@rule(aten.mul, settled=always)
def multiply(call: Call) -> Tensor:
    """A proven zero stays zero whatever it is multiplied with."""
    if len(call.known) != 2:
        return pointwise(call)
    a, b = call.known
    return (base(a.varies) & busy(b.value, b.varies)) | (base(b.varies) & busy(a.value, a.varies))


@rule(aten.div, settled=always)
def divide(call: Call) -> Tensor:
    """A proven zero stays zero where a bound keeps the divisor away from zero, as a mean over what is there has it."""
    if len(call.known) != 2 or not any(_bounded(divisor) for divisor in call.node.args[1:2]):
        return pointwise(call)
    a, b = call.known
    return base(a.varies) | (base(b.varies) & busy(a.value, a.varies))


def _bounded(node: object) -> bool:
    """A value that is clamped from below by a positive number."""
    while isinstance(node, fx.Node) and getattr(node.target, "overloadpacket", None) in _VIEWS:
        node = node.args[0]
    packet = getattr(node.target, "overloadpacket", None) if isinstance(node, fx.Node) else None
    least = node.args[1] if packet in _CLAMPS and isinstance(node, fx.Node) and len(node.args) > 1 else None
    return isinstance(least, (int, float)) and least > 0


@rule(*_CHOICES, settled=always)
def choose(call: Call) -> Tensor:
    """Whatever is chosen, it may be the same number."""
    if len(call.args) != 3:
        return pointwise(call)
    args = call.args
    mask, *sides = (args[1], args[0], args[2]) if call.packet is aten.masked_fill else args
    one, other = (s if isinstance(s, Known) else Known(torch.as_tensor(s), torch.tensor(False)) for s in sides)
    chosen: Tensor = one.varies | other.varies | (mask.varies & (one.value != other.value))
    return chosen


@rule(aten.prelu, aten._prelu_kernel, settled=always)
def prelu(call: Call) -> Tensor:
    """With slopes that are parameters."""
    return call.known[0].varies if still(call.known[1:2]) else everything(call)


@rule(aten.glu, settled=always)
def gated(call: Call) -> Tensor:
    """A proven zero stays zero whatever its gate is."""
    x, dim = call.known[0], call.args[1] if len(call.args) > 1 else -1
    (value, _), (varies, gate) = x.value.chunk(2, dim), x.varies.chunk(2, dim)
    return varies | (gate & (value != 0))
