"""The plan of a cut in the middle of training."""

import hashlib

from torch import nn

from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph
from ssl_prune.slimming.compiler import compiled, compiler_of
from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.subject import Subject
from ssl_prune.slimming.tracing import traced
from ssl_prune.utils.inputs import Inputs

__all__ = ["training_cut", "what_may_go"]


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
    return compiled(
        _subject(model, inputs, graph, round_to), Settings(tolerance=tolerance, round_to=round_to, training=True)
    )


def what_may_go(
    model: nn.Module,
    inputs: Inputs,
    tolerance: float = 1e-4,
    graph: ChannelGraph | None = None,
    round_to: int = 1,
) -> str:
    """What a `training_cut` would try to remove now, as a text: where it is the same again, so is what is found.

    Args:
        model, inputs, tolerance, graph, round_to: as of `training_cut`.

    Returns:
        A checksum of the channels.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> before = what_may_go(net, torch.zeros(1, 4))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, :5].zero_()
        >>> what_may_go(net, torch.zeros(1, 4)) == before
        False
    """
    subject = _subject(model, inputs, graph, round_to)
    dead = compiler_of(subject, Settings(tolerance=tolerance, round_to=round_to, training=True)).dead()
    shapes = [tuple(p.shape) for p in model.parameters()]
    return hashlib.sha256(repr((shapes, dead.nonzero().flatten().tolist())).encode()).hexdigest()


def _subject(model: nn.Module, inputs: Inputs, graph: ChannelGraph | None, round_to: int) -> Subject:
    subject = traced(model, inputs, graph)
    if subject.graph.refusal is not None and round_to != 1:
        raise SlimError(
            f"{type(model).__name__}: round_to={round_to} needs torch.export to follow the network, and it refused: "
            f"{subject.graph.refusal}; leave round_to out"
        )
    return subject
