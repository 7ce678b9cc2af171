"""The plan of a cut in the middle of training."""

from torch import nn

from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph
from ssl_prune.slimming.compiler import compiled
from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.tracing import traced
from ssl_prune.utils.inputs import Inputs

__all__ = ["training_cut"]


def training_cut(
    model: nn.Module,
    inputs: Inputs,
    tolerance: float = 1e-4,
    graph: ChannelGraph | None = None,
    round_to: int = 1,
) -> SlimResult:
    """What can go now without a change of the outputs, in evaluation as in training.

    As `slim`, but layers stay what they are: kernels are not cropped, computed weights stay computed, and a channel that
    carries a constant stays where the constant of training may be another one, or where no bias would take it in.

    Args:
        model: the network; it is left as it was.
        inputs: one example.
        tolerance: allowed relative difference of the outputs.
        graph: the channel graph, if it was traced before.
        round_to: keep the fewest dead channels with which every width is a multiple of this number.

    Returns:
        The cut network, the plan and the report; the plan is empty where nothing can go.

    Raises:
        GraphError: neither tracer can follow the network.
        SlimError: the network's outputs are not finite, or `round_to` is asked of a network that only the second tracer
            follows.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, :5].zero_()
        >>> training_cut(net, torch.randn(1, 4)).model[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    subject = traced(model, inputs, graph)
    if subject.graph.refusal is not None and round_to != 1:
        raise SlimError(
            f"{type(model).__name__}: round_to={round_to} needs torch.export to follow the network, and it refused: "
            f"{subject.graph.refusal}; leave round_to out"
        )
    return compiled(subject, Settings(tolerance=tolerance, round_to=round_to, training=True))
