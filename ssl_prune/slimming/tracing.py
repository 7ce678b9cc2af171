"""A network and whatever tracer can follow it."""

from collections.abc import Sequence

from torch import nn

from ssl_prune.errors import GraphError
from ssl_prune.graph import ChannelGraph, by_export
from ssl_prune.graph.fallback.tracer import by_autograd
from ssl_prune.slimming.fallback.trials import trial_inputs
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import Inputs

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
        GraphError: neither tracer can follow the network.
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
    return Subject(graph, model, inputs)
