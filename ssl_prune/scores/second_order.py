"""The second-order estimate of how much the loss changes when a group goes."""

from torch import Tensor

from ssl_prune.scores.base import Score
from ssl_prune.scores.context import by_member

__all__ = ["SecondOrder"]


class SecondOrder(Score):
    """``s_g = ½ Σ_{i∈g} h_ii w_i²``, with the context's curvature h: at a minimum, without cross terms.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.scores import ScoreContext
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[0.2, 1.0]]))
        >>> score = SecondOrder()
        >>> score.bind(partition(net, "weight"), context=ScoreContext(curvature={"0.weight": torch.tensor([[8.0, 4.0]])}))
        >>> score.values()
        tensor([0.1600, 2.0000])

    Source: LeCun, Denker and Solla, Optimal Brain Damage (1989), equation 5.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """The curvature."""
        return ("SecondOrder: curvature",)

    def values(self) -> Tensor:
        """The saliencies of the weights as they are now.

        Raises:
            ValueError: the context has no curvature for one of the parameters.
        """
        curvature = by_member(self.groups, self.context.curvature, "SecondOrder: curvature")
        pairs = zip(self.groups.members, curvature, strict=True)
        return self.groups.sum([0.5 * h * member.values.detach().square() for member, h in pairs])
