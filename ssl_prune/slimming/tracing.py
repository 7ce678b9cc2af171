"""A network and whatever tracer can follow it."""

from collections.abc import Sequence

from torch import nn
from torch.utils import _pytree as pytree

from ssl_prune.errors import GraphError
from ssl_prune.graph import ChannelGraph, by_export
from ssl_prune.graph.export.program import Program
from ssl_prune.graph.fallback.tracer import by_autograd
from ssl_prune.slimming.fallback.trials import trial_inputs
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import Inputs, as_call
from ssl_prune.utils.tensors import named_tensors

__all__ = ["traced"]


def traced(model: nn.Module, inputs: Inputs, graph: ChannelGraph | None = None, options: Sequence[str] = ()) -> Subject:
    """The network with its channel graph by `torch.export`, or by autograd where export refuses it.

    Args:
        model: the network.
        inputs: the example.
        graph: the graph, if it was traced before. One that autograd made of the example alone is made again, of all inputs
            that the proof will try.
        options: names of what is asked for that needs a program.

    Raises:
        GraphError: neither tracer can follow the network, or the graph is that of another one.
        ValueError: there is no program for an option.
    """
    refusal = None if graph is None else graph.refusal
    if graph is None:
        try:
            graph = by_export(model, inputs)
        except GraphError as error:
            refusal = str(error)
    if refusal is not None and options:  # before the second tracer, which runs the network many times
        raise ValueError(
            f"{options[0]}: not available for a network that only the second tracer follows ({refusal}). Leave it out"
        )
    if graph is None or refusal is not None:
        more = [trial for _, trial in trial_inputs(inputs)[1:]]
        graph = by_autograd(model, inputs, more=more, refusal=refusal or "")
    else:
        _check(graph.program, model, inputs)
    return Subject(graph, model, inputs)


def _check(program: Program, model: nn.Module, inputs: Inputs) -> None:
    """Refuse the program of another network, or of another number of inputs."""
    tensors, again = named_tensors(model), "Trace the network again, or leave the graph out"
    for node in program.graph.nodes:
        name = program.tensors.get(node.name) if node.op == "placeholder" else None
        if name is not None:
            shape, found = tuple(node.meta["val"].shape), tensors.get(name)
            if found is None or tuple(found.shape) != shape:
                got = "none" if found is None else f"one of shape {tuple(found.shape)}"
                raise GraphError(
                    f"{name}: got {got} in this {type(model).__name__}, the graph expects shape {shape}. {again}"
                )
    more = [name for name, _ in model.named_parameters() if name not in program.parameters]
    if more:
        raise GraphError(f"{more[0]}: the graph is of a network without it, got a {type(model).__name__}. {again}")
    given = len(pytree.tree_leaves(as_call(inputs)))
    if given != len(program.inputs):
        raise GraphError(
            f"{type(model).__name__}: got {given} inputs, the graph expects {len(program.inputs)}. {again}"
        )
