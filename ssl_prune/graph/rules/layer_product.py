"""Layers that are written as products with a parameter: matmul, addmm and einsum."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.program import module_of
from ssl_prune.graph.labels.broadcast import collapse
from ssl_prune.graph.labels.label_types import Contraction, Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED
from ssl_prune.graph.rules.contraction import linear, note, plain, vector
from ssl_prune.graph.rules.letters import laid, moving
from ssl_prune.graph.rules.pointwise import pointwise

__all__ = ["add_product", "by_letters", "by_parameter"]

aten = torch.ops.aten


def _kept(labels: Labels, node: fx.Node, reason: str, *values: Any) -> Tensor:
    labels.pin(node, reason, *values)
    return torch.full((), PINNED).expand(labels.shape(node))


@rule(aten.addmm)
def add_product(labels: Labels, node: fx.Node, bias: Any, x: Any, weight: Any, **factors: Any) -> Tensor:
    """β b + α x W: a linear layer with its weight as ``(I, O)``, or as the transpose of one of shape ``(O, I)``."""
    if not isinstance(x, Tensor) or not isinstance(weight, Parameter):
        return _kept(labels, node, "a sum with a product that is no layer's", bias, x, weight)
    result = by_parameter(labels, node, x, weight, 1)
    if isinstance(bias, Parameter) and len(bias.shape) == 1 and plain(bias):
        labels.role(bias, 0, "writer")
        labels.unite(result, bias.planes[0].expand(result.shape))
        return result
    summed: Tensor = pointwise(labels, node, result, bias)
    return summed


def by_parameter(labels: Labels, node: fx.Node, x: Tensor, weight: Parameter, place: int = 0) -> Tensor:
    """x @ W with W of shape ``(I, O)``, or the transpose of one of shape ``(O, I)``; x is argument `place` of the node."""
    swapped = Parameter(weight.name, tuple(plane.t() for plane in weight.planes))
    if plain(swapped):  # the parameter itself is (O, I)
        result: Tensor = linear(labels, node, x, swapped, source=node.args[place])
        return result
    if not plain(weight):
        return _kept(labels, node, "a product with a computed parameter", x, weight)
    last = x.dim() - 1
    read, written = labels.channels(x, last), vector(weight.planes[1], 1)
    labels.role(weight, 1, "writer")
    labels.role(weight, 0, "reader")
    labels.unite(read, vector(weight.planes[0], 0))
    note(labels, node, weight, read, written, (last, 0, 1), source=node.args[place])
    return labels.spread(node, written, last)


def by_letters(labels: Labels, node: fx.Node, operands: Any, letters: list[str], out: str, nodes: Any) -> Tensor:
    """A linear layer over any axis: one letter is summed, the last new one has the channels that are written.

    Of a stack of matrices (experts) the others stay whole, and all of them read a channel or none.
    """
    place = 1 if isinstance(operands[1], Parameter) else 0
    weight, x, own, names = operands[place], operands[1 - place], letters[place], letters[1 - place]
    weight, own = _upright(weight, own)
    summed = [letter for letter in own if letter in names and letter not in out]
    new = sorted((letter for letter in own if letter not in names and letter in out), key=out.index)
    beside = [letter for letter in own if letter in names and letter in out]
    distinct = all(len(set(term)) == len(term) for term in (*letters, out))
    complete = set(own) | set(names) == {*out, *summed}
    if not plain(weight) or not distinct or not complete or len(summed) != 1 or not new:
        return _kept(labels, node, "an einsum that is not a product of two values", operands)
    into, onto = own.index(summed[0]), own.index(new[-1])
    along, changing = names.index(summed[0]), {names[axis] for axis in moving(x)}
    if changing & set(beside) or (len(own) > 2 and changing and changing != {summed[0]}):
        return _kept(labels, node, "a product over a stack of matrices that lies along channels", operands)
    if changing and summed[0] not in changing:
        labels.pin(node, "a product over positions", weight)
        return laid(collapse(x), names, out, labels.shape(node))
    read, written = labels.channels(x, along), vector(weight.planes[onto], onto)
    labels.role(weight, onto, "writer")
    labels.role(weight, into, "reader")
    labels.unite(read, vector(weight.planes[into], into))
    if len(own) == 2:
        note(labels, node, weight, read, written, (along, into, onto), source=nodes[1 - place])
    else:
        labels.pin(
            node, "matrices of a stack", *(p for axis, p in enumerate(weight.planes) if axis not in (into, onto))
        )
        every = torch.full((len(read),), PINNED)
        labels.contractions.append(
            Contraction(node, module_of(node), None, nodes[1 - place], (along,), read, every, stacked=written)
        )
    return labels.spread(node, written, out.index(new[-1]))


def _upright(weight: Parameter, own: str) -> tuple[Parameter, str]:
    """A parameter whose axes were permuted, with its letters, as it was before."""
    found = [moving(plane) for plane in weight.planes]
    order = [axes[0] for axes in found if len(axes) == 1]
    if sorted(order) != list(range(len(own))):
        return weight, own
    planes = tuple(plane.permute(order) for plane in weight.planes)
    return replace(weight, planes=planes), "".join(own[axis] for axis in order)
