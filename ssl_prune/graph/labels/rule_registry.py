"""Which rule serves which operator."""

import operator
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.example_sizes import data_numbers, shapes_alone
from ssl_prune.graph.faults import fault, name_of
from ssl_prune.graph.labels.label_types import Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.union_find import PINNED

__all__ = ["Rule", "follow", "has_rule", "rule", "rule_for", "unknown"]

Rule = Callable[..., Any]
_RULES: dict[Any, Rule] = {}
_VALUES: dict[Rule, tuple[int, ...]] = {}  # rule -> arguments of its operator that it takes as values alone


def rule(*packets: Any) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operators (all overloads), or of single overloads.

    What it annotates as `Tensor` is a value: where the operator reads a parameter there, its rule is not asked.
    """

    def register(function: Rule) -> Rule:
        given = list(signature(function).parameters.values())[2:]
        _VALUES[function] = tuple(place for place, each in enumerate(given) if each.annotation is Tensor)
        for packet in packets:
            _RULES[packet] = function
        return function

    return register


def rule_for(node: fx.Node) -> Rule:
    """The rule of a node's operator: its own, else the pointwise rule for pointwise operators, else pinning."""
    target = node.target
    packet = getattr(target, "overloadpacket", target)
    for key in (target, packet):  # an overload of its own, else any
        if key in _RULES:
            return _RULES[key]
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        return _RULES["pointwise"]
    return unknown


def follow(labels: Labels, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply the operator's rule; where it has none for such arguments, or fails, keep all that the operator reads."""
    found = rule_for(node)
    if any(isinstance(args[place], Parameter) for place in _VALUES.get(found, ()) if place < len(args)):
        return _kept(labels, node, f"operator {name_of(node)} has no rule for a parameter", args, kwargs)
    if data_numbers(node) and not shapes_alone(node) and torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return _kept(labels, node, f"operator {name_of(node)} is given a number that depends on the data", args, kwargs)
    try:
        return found(labels, node, *args, **kwargs)
    except Exception as error:
        return _kept(labels, node, fault(node, error), args, kwargs)


def has_rule(node: fx.Node) -> bool:
    """Some rule other than pinning serves the node's operator."""
    return rule_for(node) is not unknown


def unknown(labels: Labels, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Pin what the operator reads and say so."""
    return _kept(labels, node, f"operator {name_of(node)} has no rule", args, kwargs)


def _kept(labels: Labels, node: fx.Node, reason: str, *values: Any) -> Any:
    labels.pin(node, reason, *values)
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return torch.full((), PINNED).expand(value.shape)
    if isinstance(value, (tuple, list)):
        return [torch.full((), PINNED).expand(v.shape) if isinstance(v, Tensor) else v for v in value]
    return value


@rule(operator.getitem)
def _getitem(labels: Labels, node: fx.Node, values: Any, index: int) -> Any:
    return values[index]
