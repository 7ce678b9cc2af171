"""The tensors of whatever object a network returns."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["plain_outputs"]


def plain_outputs(output: Any) -> Any:
    """`output` with dicts in place of objects that torch cannot look into: their attributes by name.

    Args:
        output: what a network returned: a cache of keys and values, a dataclass, a nest of lists with such objects.

    Returns:
        The same nest of tensors and plain numbers; None for what is neither.

    Example:
        >>> class Cache:
        ...     def __init__(self, key):
        ...         self.key = key
        >>> plain_outputs((torch.ones(1), [Cache(torch.zeros(1))]))
        (tensor([1.]), [{'key': tensor([0.])}])
    """
    return _plain(output, {})


def _plain(output: Any, inside: dict[int, Any]) -> Any:
    def opened(leaf: Any) -> Any:
        if isinstance(leaf, (Tensor, bool, int, float, str, type(None), torch.SymInt, torch.SymFloat, torch.SymBool)):
            return leaf
        if id(leaf) in inside or isinstance(leaf, (nn.Module, type)):  # a cycle, or more than what it returned
            return None
        names = dict(getattr(leaf, "__dict__", {}))
        if dataclasses.is_dataclass(leaf):  # one with slots has no dictionary
            names |= {field.name: getattr(leaf, field.name, None) for field in dataclasses.fields(leaf)}
        if isinstance(leaf, dict):  # a class of its own
            names |= {str(key): value for key, value in leaf.items()}
        within = {**inside, id(leaf): leaf}
        found = {name: _plain(value, within) for name, value in names.items()}
        return found if any(isinstance(value, Tensor) for value in pytree.tree_leaves(found)) else None

    return pytree.tree_map(opened, output)
