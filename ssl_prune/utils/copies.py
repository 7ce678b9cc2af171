"""Copies of networks, also of those that keep computed tensors."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["copied"]


def copied(model: nn.Module, known: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy of `model`.

    What a forward in training left in its attributes (an activation, the weight of `torch.nn.utils.weight_norm`) is
    copied without its history, where `copy.deepcopy` refuses.

    Args:
        model: the network; it is left as it was.
        known: id of a part -> what stands for it in the copy.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 2)
        >>> net.seen = net(torch.ones(1, 2))
        >>> torch.equal(copied(net).seen, net.seen)
        True
    """
    memo = dict(known or {})
    for module in model.modules():
        for leaf in pytree.tree_leaves(list(vars(module).values())):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                memo.setdefault(id(leaf), leaf.detach().clone())
    return _copied(model, memo)


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy`, several times faster: most of what a module has in its dictionary is empty or a plain number."""
    if id(module) in memo or any(
        getattr(type(module), name, None) is not getattr(nn.Module, name, None) for name in _OWN
    ):
        found: nn.Module = copy.deepcopy(module, memo)
        for child in found.modules():
            vars(child).pop("_compiled_call_impl", None)
        return found
    twin: nn.Module = memo.setdefault(id(module), type(module).__new__(type(module)))
    for key, value in vars(module).items():
        if key == "_compiled_call_impl":  # of a module compiled in place: it calls the module that it was made of
            continue
        if type(value) in _PLAIN:
            vars(twin)[key] = value
        elif key == "_modules":
            vars(twin)[key] = {name: child if child is None else _copied(child, memo) for name, child in value.items()}
        elif type(value) in (dict, OrderedDict) and not value:
            vars(twin)[key] = type(value)()
        else:
            vars(twin)[key] = copy.deepcopy(value, memo)
    return twin


_PLAIN = {bool, int, float, str, type(None)}
_OWN = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
