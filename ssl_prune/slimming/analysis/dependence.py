"""Which elements of an operator's result depend on the input: the taint mask beside a concrete run."""

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from ssl_prune.slimming.analysis.dependence_rules import Call, rule_for
from ssl_prune.slimming.analysis.known import Known, still

__all__ = ["varying"]


def varying(node: fx.Node, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any], free: bool) -> Any:
    """Which elements of the node's result depend on the input, or on how large it is.

    Args:
        node: an operator of the program.
        value: its result in the concrete run.
        args: its arguments, values as `Known`.
        kwargs: likewise.
        free: the shape of everything it reads depends on parameters alone.

    Returns:
        A mask that broadcasts against the result, or a list of one for each of several results.
    """
    known = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Known)]
    call, rule = Call(node, value, args, kwargs, known, free), rule_for(node)
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and not rule.deterministic(call):
        return torch.ones((), dtype=torch.bool)
    if still(known) and rule.settled(call):
        return torch.zeros((), dtype=torch.bool)
    return rule.mask(call)
