"""The norm of each group."""

from torch import Tensor

from ssl_prune.scores.base import Score

__all__ = ["Magnitude"]


class Magnitude(Score):
    """``s_g = ‖w_g‖₂``, or ``‖w_g‖₂ / √|g|``, which makes groups of different size comparable.

    Before a normalisation the size of the weights means nothing; see `TaylorGate`.

    Args:
        per_entry: divide by the root of the group's size.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> score = Magnitude()
        >>> score.bind(partition(net, "neuron"))
        >>> score.values()
        tensor([3.0000, 4.1231])

    Source: Han et al., Learning both Weights and Connections (2015); Li et al., Pruning Filters (2017).
    """

    def __init__(self, per_entry: bool = False) -> None:
        self.per_entry = per_entry

    def values(self) -> Tensor:
        """The norms as they are now."""
        norms = self.groups.norms()
        return norms / self.groups.sizes.clamp_min(1).sqrt() if self.per_entry else norms
