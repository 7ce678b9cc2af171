"""A traced program without in-place operators, at little cost.

`ExportedProgram.run_decompositions` traces the network a second and a third time. Most networks write in place only into
values that nothing else sees (a ReLU, `out += identity`), where renaming is all there is to do.
"""

import operator
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ssl_prune.graph.export.composites import take_apart

__all__ = ["functional"]

aten = torch.ops.aten


def functional(traced: fx.Graph, known: Callable[[fx.Node], bool]) -> fx.Graph | None:
    """The program with operators that return a new value in place of those that write.

    Args:
        traced: a program as `torch.export` traces it; every node knows its value's storage.
        known: whether a composite operator may stay; any other should be taken apart.

    Returns:
        A program made of functions of their arguments. None where it is not as simple as that: a write into an input, a
        buffer or a view that is more than a slice, or an operator that is a program of its own.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(traced, copies))
    for original, copied in copies.items():
        if original.op == "placeholder":
            copied.name = original.name  # copying a node may change its name, by which placeholders are known
    if not take_apart(graph, known):
        return None
    nodes = list(graph.nodes)
    order = {node: place for place, node in enumerate(nodes)}
    names: dict[int, list[fx.Node]] = {}
    for place, node in enumerate(nodes):
        for memory in _memory(node):
            names.setdefault(memory, []).append(node)
        if node.op == "get_attr":
            return None
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        if not isinstance(node.target, torch._ops.OpOverload) or _hidden_write(node):
            return None
        if not node.target._schema.is_mutable:
            continue
        twin, written = _twin(node), node.args[0]
        if twin is None:
            return None
        around = _sliced(written)
        for other in (name for memory in _memory(node) for name in names[memory]):
            if other.op == "placeholder" or (
                other not in (written, node, *around) and any(order[user] > place for user in other.users)
            ):
                return None  # what is written is seen under another name
        with graph.inserting_before(node):
            fresh = graph.call_function(twin, node.args, node.kwargs)
            fresh.meta = dict(node.meta)
            made = {node: fresh, written: fresh}
            for part, whole in pairwise([written, *around]):
                scatter = aten.slice_scatter.default if _packet(part) is aten.slice else aten.select_scatter.default
                made[whole] = graph.call_function(scatter, (whole, made[part], *part.args[1:]), part.kwargs)
                made[whole].meta = {**node.meta, "val": whole.meta["val"]}
        order.update(dict.fromkeys(made.values(), place))
        for old, new in made.items():
            old.replace_all_uses_with(new, lambda user, here=place: order[user] > here)
        graph.erase_node(node)
        for memory in _memory(fresh):
            names[memory] = [made.get(name, name) for name in names[memory]]
    _forget_unused(graph)
    return graph


def _forget_unused(graph: fx.Graph) -> None:
    """Erase what no output needs, but for layers whose results are thrown away: they run, and must fit what they read."""
    kept = _needed([graph.output_node()])
    layers = [
        node
        for node in graph.nodes
        if node not in kept and any(n.op == "placeholder" and kept.isdisjoint(n.users) for n in node.all_input_nodes)
    ]
    kept |= _needed(layers)
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node not in kept:
            graph.erase_node(node)


def _needed(nodes: list[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    while nodes:
        node = nodes.pop()
        if node not in found:
            found.add(node)
            nodes.extend(node.all_input_nodes)
    return found


def _hidden_write(node: fx.Node) -> bool:
    """A normalisation that updates its running statistics, which its schema does not say."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet in (aten.batch_norm, aten.instance_norm) and bool(node.args[5]) and node.args[3] is not None


def _twin(node: fx.Node) -> Any:
    """The operator that returns what this one writes; None where there is no such operator."""
    target: Any = node.target
    name, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    writes = [a.name for a in target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    packet = getattr(aten, name[:-1], None) if name.endswith("_") and not name.endswith("__") else None
    twin = getattr(packet, overload, None)
    written = node.args[0] if node.args else None
    if twin is None or writes != [target._schema.arguments[0].name] or not isinstance(written, fx.Node):
        return None
    if written.op != "call_function":  # an input or a buffer, which keeps what is written
        return None
    # A sum of two types has a type of its own, what is written keeps its own.
    dtypes = {v.dtype for a in pytree.tree_leaves((node.args, node.kwargs)) for v in _values(a) if v.dim()}
    return twin if dtypes == {node.meta["val"].dtype} else None


def _sliced(node: fx.Node) -> list[fx.Node]:
    """What the value is a slice of, and so on: parts of a tensor that is written in pieces."""
    found: list[fx.Node] = []
    while node.op == "call_function" and _packet(node) in (aten.slice, aten.select):
        (node,) = node.all_input_nodes
        found.append(node)
    return found


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


def _memory(node: fx.Node) -> set[int]:
    """The storages that the node's value lives in."""
    return {value.untyped_storage()._cdata for value in _values(node)}


def _values(node: Any) -> list[Tensor]:
    if not isinstance(node, fx.Node):
        return []
    return [v for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)]
