"""Branches that carry nothing but a constant: what of a network disappears as a whole."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.graph.export.program import module_of
from ssl_prune.slimming.analysis.liveness import Liveness

__all__ = ["constant_branches", "gone_modules", "without_channels"]

# Layers that take one tensor and return one.
_SIMPLE = (
    nn.Linear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.BatchNorm1d,
    nn.Dropout,
    nn.GELU,
    nn.ReLU,
    nn.SiLU,
    nn.ELU,
    nn.Identity,
)


def constant_branches(live: Liveness, whole: bool = False) -> dict[str, dict[str, Any]]:
    """Modules that a constant branch no longer needs, and what they become.

    The last module of the branch becomes the constant that it adds, those before it pass their input through. A branch
    is left alone where its last module also computes something that is needed.

    Args:
        live: what is constant.
        whole: constants have all positions, and the first layer of a branch gives a new tensor: for code that writes
            into what it gets. Branches whose size cannot be foretold are left as they are without it.

    Returns:
        Module name -> {"kind": "Identity"}, {"kind": "Blank", "steps"} or {"kind": "Constant", "values", "dims", "node"}.
    """
    graph = live.subject.graph
    frontier = {node: live.values.constants[node] for node in _frontier(live)}
    last = {} if whole else {node: live.values.last_constants[node] for node in _last_frontier(live)}
    frontier |= last
    if not live.values.output_varies:
        return {}
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.program.graph.nodes:
        if node.op == "call_function" and module_of(node):
            calls.setdefault(module_of(node), []).append(node)
    needed: set[fx.Node] = set()
    while frontier:
        needed = _needed(graph.program.graph, stop=frontier)
        unfit = [node for node in frontier if any(n is not node and n in needed for n in calls[module_of(node)])]
        unfit += [node for node in last if node in frontier and node not in unfit and not _plain(live, node, needed)]
        if not unfit:
            break
        for node in unfit:
            del frontier[node]
    if not frontier:
        return {}
    becomes: dict[str, dict[str, Any]] = {
        module_of(node): {"kind": "Constant", "values": values.tolist(), "dims": node.meta["val"].dim(), "node": node}
        for node, values in frontier.items()
    }
    for node in last.keys() & frontier.keys():
        becomes[module_of(node)]["last"] = True
    leaves = [name for name in calls if not any(other.startswith(name + ".") for other in calls)]
    for name in leaves:
        if name not in becomes and not any(node in needed for node in calls[name]):
            becomes[name] = {"kind": "Identity"}
    if whole:
        for node in frontier:
            path = _path(graph, node, needed)
            if path is not None and becomes.get(path[0], {}).get("kind") == "Identity":
                becomes[path[0]] = {"kind": "Blank", "steps": path[1]}
                becomes[module_of(node)]["whole"] = True
    return becomes


def _path(graph: ChannelGraph, node: fx.Node, needed: set[fx.Node]) -> tuple[str, list[Any]] | None:
    """The first module of the branch that ends in `node`, and how its layers change the size; None if not one chain."""
    steps: list[Any] = []
    first = node
    while True:
        inputs = [n for n in first.all_input_nodes if n.op == "call_function" or n.name in graph.program.inputs]
        if len(inputs) != 1:
            return None
        step = _step(first, inputs[0])
        if step is None:
            return None
        steps = [*step, *steps]
        if inputs[0] in needed or inputs[0].op == "placeholder":
            return module_of(first), steps
        first = inputs[0]


def _step(node: fx.Node, source: fx.Node) -> list[Any] | None:
    """[] where a node keeps the size of its input, [step] where a convolution or pooling changes it, else None."""
    if node.target is operator.getitem:  # out of a normalisation's several results
        return []
    aten, value = torch.ops.aten, node.meta["val"]
    size = source.meta["val"].shape[2:] if isinstance(source.meta["val"], Tensor) else None
    packet = getattr(node.target, "overloadpacket", None)
    axes = len(size) if size is not None else 0

    def each(i: int, default: int) -> list[int]:
        given: Any = node.args[i] if len(node.args) > i and node.args[i] != [] else default
        numbers = list(given) if isinstance(given, (list, tuple)) else [given]
        return [int(n) for n in (numbers * axes if len(numbers) == 1 else numbers)]

    if packet in (aten.conv1d, aten.conv2d, aten.conv3d) and not isinstance(_at(node, 4), str):
        kernel = list(node.args[1].meta["val"].shape[2:])  # type: ignore[union-attr]
        stride, padding, dilation = each(3, 1), each(4, 0), each(5, 1)
        return [[(k, s, p, p, d) for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)]]
    if packet in (aten.avg_pool2d, aten.max_pool2d) and not (len(node.args) > 4):
        kernel = each(1, 1)
        stride = each(2, 1) if len(node.args) > 2 and node.args[2] != [] else kernel
        return [[(k, s, p, p, 1) for k, s, p in zip(kernel, stride, each(3, 0), strict=True)]]
    shapes = [v.shape[2:] for v in (value if isinstance(value, (tuple, list)) else [value]) if v.numel()]
    return [] if shapes and shapes[0] == size and axes else None


def _at(node: fx.Node, i: int) -> Any:
    return node.args[i] if len(node.args) > i else None


def gone_modules(live: Liveness) -> frozenset[str]:
    """Names of the modules that dead branches no longer need."""
    return frozenset(constant_branches(live))


def _frontier(live: Liveness) -> list[fx.Node]:
    """Constant nodes that meet something that varies in a pointwise operator, each the last node of its module."""
    graph, constants = live.subject.graph, live.values.constants
    tail = {}
    for node in graph.program.graph.nodes:
        if node.op == "call_function" and module_of(node):
            tail[module_of(node)] = node
    return [
        node
        for node in constants
        if tail.get(module_of(node)) is node
        and _channels_second(graph, node)
        and node.op == "call_function"
        and node.meta["val"].dim() > 2
        and _meets_what_varies(node, constants)
    ]


def _meets_what_varies(node: fx.Node, constants: Mapping[fx.Node, Tensor]) -> bool:
    return bool(node.users) and all(
        user not in constants
        and torch.Tag.pointwise in getattr(user.target, "tags", ())
        and len(user.all_input_nodes) > 1
        for user in node.users
    )


def _last_frontier(live: Liveness) -> list[fx.Node]:
    """The same of linear layers, which have their channels last."""
    graph, modules, constants = live.subject.graph, live.subject.modules, live.values.last_constants
    found = []
    for node in constants:
        writer = graph.layers_at.get(node)
        if (
            writer is not None
            and isinstance(modules.get(module_of(node)), nn.Linear)
            and len(writer.written) == node.meta["val"].shape[-1]
            and _meets_what_varies(node, constants)
        ):
            found.append(node)
    return found


def _plain(live: Liveness, last: fx.Node, needed: set[fx.Node]) -> bool:
    """A branch whose layers may pass their input through: none takes more than one tensor, nothing between counts channels."""
    modules, stack, seen = live.subject.modules, [last], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node in seen or node.op != "call_function" or (node in needed and node is not last):
            continue
        seen.add(node)
        module = modules.get(module_of(node))
        own = next(iter(module.children()), None) is None and isinstance(module, _SIMPLE) if module else False
        if not own and torch.Tag.pointwise not in getattr(node.target, "tags", ()):
            return False
        stack.extend(node.all_input_nodes)
    return True


def _needed(graph: fx.Graph, stop: Iterable[fx.Node]) -> set[fx.Node]:
    """Nodes that an output needs when the nodes of `stop` are given; those are included."""
    stop = set(stop)
    stack = [next(iter(reversed(graph.nodes)))]
    needed: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            if node not in stop:
                stack.extend(node.all_input_nodes)
    return needed


def without_channels(becomes: dict[str, Any], graph: ChannelGraph, dead: Tensor) -> dict[str, Any]:
    """An entry of `constant_branches` without the channels that are removed, as plain data."""
    entry = dict(becomes)
    node = entry.pop("node", None)
    if node is not None:
        units = _written(graph, node)
        if units is not None:
            entry["values"] = [v for v, u in zip(entry["values"], units.tolist(), strict=True) if u < 0 or not dead[u]]
    return entry


def _written(graph: ChannelGraph, node: fx.Node) -> Tensor | None:
    """Units of a node's channels: those of the contraction it stems from through per-channel operators."""
    writer = _writer(graph, node)
    return None if writer is None else writer.written


def _writer(graph: ChannelGraph, node: fx.Node) -> Reader | None:
    while node not in graph.layers_at:
        inputs = [n for n in node.all_input_nodes if n.op == "call_function"]
        if not inputs:
            return None
        node = inputs[0]
    return graph.layers_at[node]


def _channels_second(graph: ChannelGraph, node: fx.Node) -> bool:
    """A branch of convolutions; linear layers over tokens have their channels last, where no constant stands in."""
    writer = _writer(graph, node)
    return writer is None or (
        "linear" not in str(writer.node.target)
        and writer.source_axes == (1,)  # an image without a batch axis has them first
        and len(writer.written) == node.meta["val"].shape[1]
    )
