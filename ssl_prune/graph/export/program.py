"""A network as a flat, functional list of ATen operators, from `torch.export`."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ssl_prune.errors import GraphError, first_line
from ssl_prune.graph.export.functionalize import functional
from ssl_prune.graph.export.tensor_data import TensorData, without_scaled_parameters
from ssl_prune.graph.faults import fault
from ssl_prune.utils.inputs import Inputs, as_call, evaluation, uncompiled
from ssl_prune.utils.plain_outputs import plain_outputs
from ssl_prune.utils.restored import restored

__all__ = [
    "Program",
    "embeddings",
    "export",
    "module_of",
    "modules_of",
    "visible",
]


@dataclass(frozen=True)
class Program:
    """An exported network: operators over placeholders, with the names the network itself uses.

    Args:
        graph: the functional ATen graph (no operator writes into its argument).
        tensors: placeholder name -> name of the parameter or buffer it stands for.
        constants: placeholder name -> tensor, for literals that the forward creates.
        inputs: placeholder names of the user's inputs, flattened in order.
        parameters: names of the parameters (the rest of `tensors` are buffers).
        mutated: names of the buffers that the forward writes into.
    """

    graph: fx.Graph
    tensors: dict[str, str]
    constants: dict[str, Tensor]
    inputs: tuple[str, ...]
    parameters: frozenset[str]
    mutated: frozenset[str] = frozenset()


def export(model: nn.Module, example_inputs: Inputs, has_rule: Callable[[fx.Node], bool]) -> Program:
    """Trace `model` in evaluation mode; its weights, flags and random state are left as they were.

    Args:
        model: the network.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        has_rule: whether a composite operator may stay; any other is taken apart where torch can.

    Raises:
        GraphError: `torch.export` cannot follow the network, or the example does not fit it.
    """
    from torch.export.graph_signature import InputKind  # not at import: reading a slim file needs no export

    args, kwargs = as_call(example_inputs)
    quiet = warnings.catch_warnings()
    with (
        evaluation(model),
        restored(model, numbers=False),
        _masks_not_read(),
        torch.random.fork_rng(devices=[]),
        quiet,
        uncompiled(),
    ):
        warnings.simplefilter("ignore")
        model.register_forward_hook(lambda module, inputs, output: plain_outputs(output))  # `restored` takes it out
        with _refusing(model, (args, kwargs)), TensorData():
            exported = torch.export.export(model, args, kwargs, strict=False)
        try:
            graph = functional(exported.graph, has_rule)
        except Exception as error:
            fault("the renaming of what operators write in place", error)
            graph = None
        if graph is None:
            with _refusing(model, (args, kwargs)):
                exported = exported.run_decompositions({})
            graph = exported.graph
            without_scaled_parameters(exported.graph_signature, graph)
    tensors, constants, inputs, parameters = {}, {}, [], set()
    for spec in exported.graph_signature.input_specs:
        name = spec.arg.name
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            assert spec.target is not None
            tensors[name] = spec.target
            if spec.kind is InputKind.PARAMETER:
                parameters.add(spec.target)
        elif spec.kind is InputKind.USER_INPUT:
            inputs.append(name)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            assert spec.target is not None
            constants[name] = exported.constants[spec.target]
        else:
            raise GraphError(
                f"{type(model).__name__}: the forward pass takes a {spec.kind.name} ({name}), which has no rule here, only "
                "parameters, buffers, constants and inputs have. Make it a buffer of its module, or an input"
            )
    mutated = frozenset(exported.graph_signature.buffers_to_mutate.values())
    return Program(graph, tensors, constants, tuple(inputs), frozenset(parameters), mutated)


@contextmanager
def _masks_not_read() -> Iterator[None]:
    """Masks of PyTorch's transformers are applied as they are; the code would read one to see whether it is causal."""
    module: Any = torch.nn.modules.transformer
    before = module._detect_is_causal_mask
    module._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        module._detect_is_causal_mask = before


@contextmanager
def _refusing(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Say on which network and inputs torch failed."""
    try:
        yield
    except Exception as error:
        shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        raise GraphError(
            f"{type(model).__name__}: torch.export could not trace the forward pass on inputs of shape {shapes}: "
            f"{type(error).__name__}: {first_line(error)}. Check that the example input is what the network takes; "
            "control flow that depends on data cannot be traced"
        ) from error


def module_of(node: fx.Node) -> str:
    """Name of the innermost module whose forward made `node`; "" for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = list(stack.values())
    return str(entries[-1][0]) if entries else ""


def modules_of(node: fx.Node) -> tuple[str, ...]:
    """Names of all modules inside whose forward `node` was made, outermost first."""
    return tuple(str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values())


def embeddings(program: Program) -> list[tuple[fx.Node, str]]:
    """Where rows of a table are chosen: each node with the name of the table, if that is a parameter as it stands."""
    found = []
    for node in program.graph.nodes:
        if getattr(node.target, "overloadpacket", None) is torch.ops.aten.embedding:
            name = program.tensors.get(node.args[0].name)
            if name is not None:
                found.append((node, name))
    return found


def visible(node: fx.Node, scope: str) -> bool:
    """Whether the code of module `scope` itself handles the value: makes it, takes it in, or gets it from a module inside."""
    inside = modules_of(node)
    if scope and scope not in inside:
        return any(scope in modules_of(user) for user in node.users)
    deeper = inside[inside.index(scope) + 1 :] if scope in inside else inside
    return not deeper or any(deeper[0] not in modules_of(user) for user in node.users)
