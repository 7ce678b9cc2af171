"""What a cut leaves: the network, the plan that made it, and the report."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from ssl_prune.slimming.outcome.slim_report import SlimReport
from ssl_prune.slimming.plan.plan import SlimPlan

__all__ = ["SlimResult"]


@dataclass(frozen=True)
class SlimResult:
    """A slim network with the plan that made it and the report of what happened.

    Args:
        model: the slim network, in ordinary modules.
        plan: as data, to be applied to another instance of the dense network.
        report: sizes before and after, what was kept and why, the largest difference of the outputs.
        dead: ``(U,)`` units of the network's channel graph that went; None where the plan is not of that graph alone.

    Example:
        >>> import torch
        >>> from ssl_prune import slim
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, :5].zero_()
        >>> result = slim(net, torch.zeros(1, 4))
        >>> result.model[0], result.report.removed
        (Linear(in_features=4, out_features=3, bias=True), {'0': 5})
    """

    model: nn.Module
    plan: SlimPlan
    report: SlimReport
    dead: Tensor | None = field(default=None, repr=False, compare=False)
