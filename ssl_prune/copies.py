"""Copies of networks, also of those that keep computed tensors."""

import copy
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
    return copy.deepcopy(model, memo)
