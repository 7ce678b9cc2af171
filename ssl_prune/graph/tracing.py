"""From a network to its channel graph: by `torch.export`, else by running it and looking at its autograd graph."""

from torch import nn

from ssl_prune.errors import GraphError
from ssl_prune.graph.channel_graph import ChannelGraph
from ssl_prune.graph.export.example_sizes import with_example_sizes
from ssl_prune.graph.export.program import export
from ssl_prune.graph.fallback.tracer import by_autograd
from ssl_prune.graph.labels.label_pass import LabelPass
from ssl_prune.graph.labels.resolution import resolved
from ssl_prune.graph.rules import has_rule
from ssl_prune.graph.unfit_networks import check_network
from ssl_prune.utils.inputs import Inputs

__all__ = ["by_export", "trace"]


def trace(model: nn.Module, example_inputs: Inputs) -> ChannelGraph:
    """The channel graph of `model`, which is left as it was.

    `torch.export` comes first. Networks that it refuses, because their Python code asks for numbers, are run and traced
    through autograd: of these there is an `AutogradGraph`, which knows why export refused.

    Args:
        model: any network.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Returns:
        The units that live or die together, the parameter axes that they lie on, and who reads them.

    Raises:
        GraphError: neither way can follow the network on this example; the message has both reasons.
        TypeError: `example_inputs` is not a tensor, tuple or dict, or `model` is wrapped, quantised or exported.
        ValueError: lazy layers do not know their shapes yet.

    Example:
        >>> import torch
        >>> trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.randn(1, 4)).num_units
        3
    """
    try:
        return by_export(model, example_inputs)
    except GraphError as error:
        return by_autograd(model, example_inputs, refusal=str(error))


def by_export(model: nn.Module, example_inputs: Inputs) -> ChannelGraph:
    """The channel graph by `torch.export` alone, for those who need its program or the reason why there is none.

    Args:
        model: any network that `torch.export` can follow; it is left as it was.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Returns:
        The graph, with the exported program.

    Raises:
        GraphError: the network cannot be exported on this example.
        TypeError: `example_inputs` is not a tensor, tuple or dict, or `model` is wrapped, quantised or exported.
        ValueError: lazy layers do not know their shapes yet.

    Example:
        >>> import torch
        >>> by_export(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.randn(1, 4)).program.inputs
        ('input',)
    """
    check_network(model)
    program = with_example_sizes(export(model, example_inputs, has_rule), model, example_inputs)
    labels = LabelPass(program, model)
    labels.run()
    return resolved(labels)
