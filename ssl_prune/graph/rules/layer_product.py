"""Layers that are written as products with a parameter: matmul, addmm and einsum."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.broadcast import collapse
from ssl_prune.graph.labels.label_types import Parameter
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


def by_letters(labels: Labels, node: fx.Node, operands: Any, letters: list[str], out: str) -> Tensor:
    """A linear layer over any axis: of the parameter's two letters one is summed, the other one is new."""
    place = 1 if isinstance(operands[1], Parameter) else 0
    weight, x, own, names = operands[place], operands[1 - place], letters[place], letters[1 - place]
    summed = [letter for letter in own if letter in names and letter not in out]
    new = [letter for letter in own if letter not in names and letter in out]
    rest = [letter for letter in names if letter not in own and letter in out]
    distinct = all(len(set(term)) == len(term) for term in (*letters, out))
    if (
        not plain(weight)
        or not distinct
        or (len(summed), len(new)) != (1, 1)
        or len(own) != 2
        or len(rest) + 1 != len(names)
    ):
        return _kept(labels, node, "an einsum that is not a product of two values", operands)
    into, onto = own.index(summed[0]), own.index(new[0])
    along = names.index(summed[0])
    if moving(x) and along not in moving(x):
        labels.pin(node, "a product over positions", weight)
        return laid(collapse(x), names, out, labels.shape(node))
    read, written = labels.channels(x, along), vector(weight.planes[onto], onto)
    labels.role(weight, onto, "writer")
    labels.role(weight, into, "reader")
    labels.unite(read, vector(weight.planes[into], into))
    note(labels, node, weight, read, written, (along, into, onto), source=node.args[1][1 - place])  # type: ignore[index]
    return labels.spread(node, written, out.index(new[0]))
