"""Composite operators without a rule, taken apart where they stand: no second trace of the whole network."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

__all__ = ["take_apart"]


def take_apart(graph: fx.Graph, known: Callable[[fx.Node], bool]) -> bool:
    """Put in place of each composite operator without a rule the operators that torch makes it of.

    Args:
        graph: a program as `torch.export` traces it; every node knows its value. It is changed.
        known: whether a composite operator may stay.

    Returns:
        Whether all could be taken apart. What is made of a number of its own, of another program, or of composite
        operators without a rule cannot.
    """
    unknown = [node for node in graph.nodes if _is_composite(node) and not known(node)]
    if not all(_in_place(graph, node) for node in unknown):
        return False
    return not unknown or all(known(node) for node in graph.nodes if _is_composite(node))


def _is_composite(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and not node.target._schema.is_mutable
        and node.target._can_decompose()
    )


def _in_place(graph: fx.Graph, node: fx.Node) -> bool:
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    read = [isinstance(leaf, fx.Node) and isinstance(leaf.meta.get("val"), Tensor) for leaf in leaves]
    tensors = [leaf for leaf, one in zip(leaves, read, strict=True) if one]
    if not tensors or any(isinstance(leaf, fx.Node) and not one for leaf, one in zip(leaves, read, strict=True)):
        return False
    target: Any = node.target

    def call(*values: Tensor) -> Any:
        given = iter(values)
        args, kwargs = pytree.tree_unflatten(
            [next(given) if one else leaf for leaf, one in zip(leaves, read, strict=True)], spec
        )
        return target.decompose(*args, **kwargs)

    example = [tensor.meta["val"] for tensor in tensors]
    with example[0].fake_mode, torch.no_grad():
        parts = make_fx(call)(*example).graph.nodes
    if not all(map(_is_operator, parts)) or not all(
        isinstance(v, Tensor) for v in pytree.tree_leaves(node.meta["val"])
    ):
        return False
    given = iter(tensors)
    copies: dict[fx.Node, Any] = {}
    result: Any = None
    with graph.inserting_before(node):
        for part in parts:
            if part.op == "placeholder":
                copies[part] = next(given)
            elif part.op == "output":
                result = pytree.tree_map(lambda a: copies[a] if isinstance(a, fx.Node) else a, part.args[0])
            else:
                copies[part] = graph.node_copy(part, copies.__getitem__)
                copies[part].meta = {**node.meta, "val": part.meta["val"]}
    return _replaced(graph, node, result)


def _is_operator(node: fx.Node) -> bool:
    """With a value that is known, which an assertion has not."""
    if node.op == "call_function":
        return "val" in node.meta and (
            node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload)
        )
    return node.op in ("placeholder", "output")


def _replaced(graph: fx.Graph, node: fx.Node, result: Any) -> bool:
    """Have those who read the operator read what stands in its place, which has its value: views of it are views of that."""
    if isinstance(result, fx.Node):
        if result.op == "call_function" and result.meta["val"].shape == node.meta["val"].shape:
            result.meta = {**result.meta, "val": node.meta["val"]}
        node.replace_all_uses_with(result)
    elif isinstance(result, (list, tuple)):
        for user in list(node.users):
            place: Any = user.args[1] if user.target is operator.getitem else None
            if place is None or not isinstance(result[place], fx.Node):
                return False
            user.replace_all_uses_with(result[place])
            graph.erase_node(user)
    else:
        return False
    graph.erase_node(node)
    return True
