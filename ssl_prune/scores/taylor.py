"""First-order estimates of how much the loss changes when a group goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ssl_prune.groups import Partition
from ssl_prune.groups.shards import sum_here
from ssl_prune.scores.base import EMAScore, products
from ssl_prune.scores.context import ScoreContext
from ssl_prune.scores.gates import Gates

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["TaylorGate", "TaylorGroup", "TaylorWeight"]


class TaylorGroup(EMAScore):
    """``s_g = sqrt(E[(Σ_{i∈g} w_i ∂L/∂w_i)²])`` over all entries of the group.

    Args:
        decay: of the moving mean over steps.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> score = TaylorGroup()
        >>> score.bind(partition(net, "neuron"))
        >>> net(torch.tensor([[1.0, 2.0]])).sum().backward()
        >>> score.update()
        >>> score.values()
        tensor([ 3., 10.])

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning (2019), equation 8.
    """

    def now(self) -> Tensor:
        """The change of the loss to first order if the group were zero."""
        return self.groups.sum(products(self.groups))


class TaylorWeight(EMAScore):
    """``s_g = sqrt(E[Σ_{i∈g} (w_i ∂L/∂w_i)²])``: every entry for itself, so that none cancels another.

    Args:
        decay: of the moving mean over steps.

    Example:
        >>> TaylorWeight(decay=0.9).decay
        0.9

    Source: Molchanov et al. (2019), the sum over entries of equation 8.
    """

    def now(self) -> Tensor:
        """The root of the sum of squares."""
        return self.groups.sum([p.square_() for p in products(self.groups)]).sqrt_()


class TaylorGate(EMAScore):
    """``s_g = sqrt(E[(Σ_norms γ ∂L/∂γ + β ∂L/∂β)²])``, summed over the coupled normalisations before squaring.

    That is `TaylorGroup` taken where the channel leaves its normalisations, where its size means something. Groups
    without a normalisation are taken over their weights and biases, see `Gates`.

    Args:
        decay: of the moving mean over steps.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        >>> groups = partition(net, "coupled", example_inputs=torch.randn(2, 2))
        >>> score = TaylorGate()
        >>> score.bind(groups)
        >>> net(torch.randn(8, 2)).sum().backward()
        >>> score.update()
        >>> score.values().shape
        torch.Size([4])

    Source: Molchanov et al. (2019), section 3.2, gates after batch normalisation.
    """

    def rebind(
        self, groups: Partition, *, context: ScoreContext | None = None, origin: Mapping[str, Source] | None = None
    ) -> None:
        """Find the part of each group by which it is judged."""
        super().rebind(groups, context=context, origin=origin)
        self._gates = Gates(groups)

    def now(self) -> Tensor:
        """The change of the loss to first order if the channel's scale and shift were zero."""
        return self.groups.over_processes(self._gates(lambda part: sum_here(part, products(part))))
