"""The second tracer: units of networks that `torch.export` refuses, from torch-pruning's graph of autograd nodes.

The network really runs, once for each way through its Python code; the ties that every way shows are joined. What
autograd does not see, or an operator that may mix channels, keeps the channels that it meets. The graph is no proof: it
can tie the wrong positions, and only the comparison of outputs tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.errors import GraphError, first_line
from ssl_prune.graph.fallback.autograd_graph import AutogradGraph
from ssl_prune.graph.fallback.control_flow import Answers, explore
from ssl_prune.graph.fallback.per_channel_ops import LAYERS, WRITERS, is_own, layer_axes, operator_problem
from ssl_prune.graph.fallback.recording import Calls, Operations, calls, internal_nodes
from ssl_prune.graph.fallback.split_edges import correct_splits
from ssl_prune.graph.fallback.ties import Ties
from ssl_prune.utils.copies import copied
from ssl_prune.utils.inputs import Inputs, call, evaluation, leaves, map_tensors
from ssl_prune.utils.plain_outputs import plain_outputs

__all__ = ["by_autograd"]

# Of one layer: far more than any graph takes whose walk ends.
_STEPS = 100  # a node
_POSITIONS = 4_000_000


class _RefusedError(Exception):
    """The forward itself goes no further; its error is the cause."""


def by_autograd(
    model: nn.Module, example_inputs: Inputs, *, more: Sequence[Inputs] = (), refusal: str = ""
) -> AutogradGraph:
    """The units of `model` as torch-pruning's dependency graph shows them; the model is left as it was.

    Args:
        model: the network; a copy of it runs.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        more: further inputs; those that reach other modules than the example does are traced too.
        refusal: why the first tracer refused, for messages and the report.

    Raises:
        GraphError: the network cannot be traced here either, or its Python code branches too often to see every way.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)
        ...     def forward(self, x):
        ...         return self.c(self.a(x) if x.sum() > 0 else self.b(x))
        >>> graph = by_autograd(Net(), torch.randn(1, 4))
        >>> graph.num_units, graph.ways
        (3, 2)
        >>> [axis.name for axis in graph.axes if axis.role == "writer"]
        ['a.weight', 'a.bias', 'b.weight', 'b.bias']
    """
    ties = Ties(model, refusal)
    reached: set[str] = set()
    for place, inputs in enumerate((example_inputs, *more)):
        if place and _called(model, inputs) <= reached:
            continue
        try:
            exploration = explore(partial(_way, model, inputs, ties), refuses=_RefusedError)
        except Exception as error:
            if place and isinstance(error, _RefusedError):  # only the example must be an input that the network takes
                continue
            cause = error.__cause__ or error
            raise GraphError(_message(model, refusal, f"{type(cause).__name__}: {first_line(cause)}")) from cause
        if exploration.missed is not None:
            raise GraphError(
                _message(model, refusal, f"too many ways through the Python code ({exploration.missed}) to try all")
            )
        reached |= ties.calls.inside.keys()
    return ties.resolve()


def _message(model: nn.Module, refusal: str, problem: str) -> str:
    first = f"{refusal}. " if refusal else ""
    return (
        f"{first}{type(model).__name__}: the second tracer, torch-pruning's autograd graph, failed too: {problem}. Check "
        "that the example input is what the network takes, and that its outputs depend on its weights through autograd"
    )


def _called(model: nn.Module, inputs: Inputs) -> set[str]:
    network = copied(model)
    with calls(network) as record, evaluation(network), torch.random.fork_rng(devices=[]):
        try:
            call(network, map_tensors(torch.clone, inputs))
        except Exception:
            return set()
    return set(record.inside)


def _way(model: nn.Module, inputs: Inputs, ties: Ties, answers: Answers) -> None:
    """Run a copy once with the given answers, and add what its graph ties."""
    network = copied(model)  # torch-pruning changes flags, a forward may change buffers
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)  # frozen layers would be missing from the autograd graph
    for module in network.modules():
        module.training = False
    known = [*network.parameters(), *network.buffers()]
    layers = [m for m in network.modules() if is_own(m, LAYERS)]
    operations, record, hidden = Operations(known), Calls(), list[Any]()
    alone: set[Any] = set()
    inner: set[Any] = set()

    def forward(network: nn.Module, inputs: Inputs) -> Any:
        nonlocal record, inner
        with calls(network) as record, internal_nodes(layers) as inner, operations, answers:
            try:
                return plain_outputs(call(network, inputs))
            except Exception as error:
                raise _RefusedError from error

    def roots(output: Any) -> list[Tensor]:
        outputs = leaves(output)
        found, escaped = operations.inspect(outputs, answers.read)
        alone.update(found)
        # A product of its own for each: torch-pruning does not see an output that is a layer's own result.
        ends = [t * 1 for t in (*outputs, *escaped) if t.grad_fn is not None]
        hidden.extend(ends[len(ends) - len(escaped) :])
        if not ends:
            raise _RefusedError from GraphError("no output depends on a parameter through autograd")
        return ends

    with torch.enable_grad(), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        given = map_tensors(torch.clone, inputs)
        graph = _build(network, given, forward, roots)
    operations.forget()
    escaped = {t.grad_fn for t in hidden}
    used = _leaves(graph)
    ties.saw(record, {name for name, p in network.named_parameters() if id(p) in used})
    names = {id(module): name for name, module in network.named_modules()}
    parameters = {id(p): name for name, p in network.named_parameters()}
    for root, items in _walks(graph, names):
        for node, reads, source, target in items:
            ties.add(*_meeting(node, reads, root, names, parameters, alone, inner, escaped), source, target)
    for module, node in graph.module2node.items():
        if id(module) in names and isinstance(module, LAYERS):
            followers = [names.get(id(n.module), "") for n in node.outputs]
            norms = all(isinstance(n.module, nn.modules.batchnorm._BatchNorm) for n in node.outputs)
            ties.layer(names[id(module)], followers if norms else [])


def _build(network: nn.Module, inputs: Inputs, forward: Any, roots: Any) -> Any:
    import torch_pruning  # takes a second to load, and only networks that export refuses need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph()
        # As a dict or a tensor the inputs would be called in torch-pruning's own way.
        graph.build_dependency(
            network, inputs, forward_fn=forward, output_transform=roots, unwrapped_parameters=None, verbose=False
        )
        correct_splits(graph, torch_pruning.dependency.index_mapping)
    return graph


def _leaves(graph: Any) -> set[int]:
    """Identities of the parameters that the autograd graph reaches."""
    found, seen = set(), set()
    stack = [node.grad_fn for node in graph.module2node.values()]
    while stack:
        grad_fn = stack.pop()
        if grad_fn is None or grad_fn in seen:
            continue
        seen.add(grad_fn)
        if hasattr(grad_fn, "variable"):
            found.add(id(grad_fn.variable))
        stack += [edge[0] for edge in grad_fn.next_functions]
    return found


Item = tuple[Any, bool, list[int], list[int]]


def _walks(graph: Any, names: dict[int, str]) -> Iterator[tuple[nn.Module, list[Item]]]:
    """For each layer that writes channels: (node, reads?, positions of the layer, positions at the node).

    `get_pruning_group` would do the walk, but it merges positions that two ways lead to.
    """
    from torch_pruning._helpers import _HybridIndex

    for module, node in list(graph.module2node.items()):
        if not isinstance(module, WRITERS):
            continue
        pruner = graph.get_pruner_of_module(module)
        size = pruner.get_out_channels(module)
        start = [_HybridIndex(idx=i, root_idx=i) for i in range(size)]
        stack, seen, items = [(node, pruner.prune_out_channels, start)], set(), list[Item]()
        positions = 0
        while stack:
            here, handler, indices = stack.pop()
            key = (id(here), handler.__name__, tuple(indices))
            if key in seen or not indices:
                continue
            seen.add(key)
            positions += len(indices)
            if len(seen) > _STEPS * len(graph.module2node) or positions > _POSITIONS:
                raise GraphError(
                    f"{names.get(id(module), type(module).__name__)}: what its {size} channels meet has no end, stopped after "
                    f"{len(seen)} steps through the {len(graph.module2node)} nodes"
                )
            reads = handler.__name__ == "prune_in_channels"
            items.append((here, reads, [i.root_idx for i in indices], [i.idx for i in indices]))
            for edge in here.dependencies:
                if edge.is_triggered_by(handler):
                    mapped = indices
                    for mapping in edge.index_mapping:
                        mapped = mapping(mapped) if mapping is not None else mapped
                    stack.append((edge.target, edge.handler, mapped))
        yield module, items


def _meeting(
    node: Any,
    reads: bool,
    root: nn.Module,
    names: dict[int, str],
    parameters: dict[int, str],
    alone: set[Any],
    inner: set[Any],
    escaped: set[Any],
) -> tuple[str, list[tuple[str, int, str]], str | None]:
    """Name of the root layer, the tensor axes that `node` adds, and why the channels must stay (or None)."""
    layer, module = names[id(root)], node.module
    if isinstance(module, nn.Parameter):
        axis, size = node.pruning_dim, tuple(module.shape)
        if module.numel() != size[axis]:
            return layer, [], f"the parameter {parameters[id(module)]} of shape {size} is not one number a channel"
        return layer, [(parameters[id(module)], axis % len(size), "other")], None
    if id(module) in names:
        name = names[id(module)]
        found = layer_axes(module, reads)
        if isinstance(found, str):
            return layer, [], f"{found} ({name})"
        return layer, [(f"{name}.{leaf}" if name else leaf, axis, role) for leaf, axis, role in found], None
    if type(module).__name__ == "_OutputOp":
        if node.grad_fn in escaped:
            return layer, [], f"Python code or a part without gradients reads them past autograd ({layer})"
        return layer, [], "it reaches an output of the network"
    problem = None if node.grad_fn in inner else operator_problem(node.grad_fn, alone)
    return layer, [], f"{problem} (behind {layer})" if problem else None
