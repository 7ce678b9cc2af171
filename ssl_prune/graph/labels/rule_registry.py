"""Which rule serves which operator."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.union_find import PINNED

__all__ = ["Rule", "has_rule", "rule", "rule_for", "unknown"]

Rule = Callable[..., Any]
_RULES: dict[Any, Rule] = {}


def rule(*packets: Any) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operators (all overloads), or of single overloads."""

    def register(function: Rule) -> Rule:
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


def has_rule(node: fx.Node) -> bool:
    """Some rule other than pinning serves the node's operator."""
    return rule_for(node) is not unknown


def unknown(labels: Labels, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Pin what the operator reads and say so."""
    name = getattr(node.target, "__name__", str(node.target))
    labels.pin(node, f"operator {name} has no rule", args, kwargs)
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return torch.full((), PINNED).expand(value.shape)
    if isinstance(value, (tuple, list)):
        return [torch.full((), PINNED).expand(v.shape) if isinstance(v, Tensor) else v for v in value]
    return value


@rule(operator.getitem)
def _getitem(labels: Labels, node: fx.Node, values: Any, index: int) -> Any:
    return values[index]
