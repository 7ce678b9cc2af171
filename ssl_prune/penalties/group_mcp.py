"""The group MCP: small groups die, large ones are not shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_prune.penalties.group_norm import GroupNormPenalty, SizeNorm
from ssl_prune.utils.checks import check_number


@dataclass(frozen=True)
class GroupMCP(GroupNormPenalty):
    """The minimax concave penalty of the group norms: it falls off in a straight line, and is gone from ``gamma`` on.

    ``Omega(w) = sum_g rho(||w_g||_2)``, ``rho(t) = a t - t^2 / (2 gamma)`` for ``t <= a gamma`` and ``a^2 gamma / 2``
    beyond. The proximal map with step ``s`` is, for ``s < gamma``, 0 up to ``s a``, ``(t - s a) / (1 - s / gamma)`` up to
    ``a gamma``, and ``t`` beyond; for ``s >= gamma`` it is 0 up to ``a sqrt(s gamma)`` and ``t`` beyond.

    Args:
        gamma: the group norm from which on nothing is shrunk, in units of ``a_g``; infinite: the group lasso.
        size_norm: the weights ``a_g``: 1 for "none", ``sqrt(|g|)`` for "sqrt".

    Raises:
        ValueError: `gamma` is not above 0, or `size_norm` is unknown.

    Example:
        >>> from ssl_prune.groups import Neuron, partition
        >>> layer = torch.nn.Linear(3, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, 2.0, 5.0]]))
        >>> columns = partition(torch.nn.Sequential(layer), Neuron(side="out"))
        >>> GroupMCP(gamma=4.0).prox(columns, 1.0)
        >>> layer.weight.data
        tensor([[0.0000, 1.3333, 5.0000]])

    Source: Zhang, Nearly unbiased variable selection under minimax concave penalty (2010), equation 2.2; of groups: Breheny
    and Huang (2015), section 2.1.
    """

    convex: ClassVar[bool] = False
    homogeneous: ClassVar[bool] = False

    gamma: float = 3.0
    size_norm: SizeNorm = "none"

    def __post_init__(self) -> None:
        self._check_size_norm()
        check_number(self.gamma, "gamma", above=0, infinite=True)

    def cost(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``a t - t^2 / (2 gamma)``, constant from ``a gamma`` on."""
        t = torch.where(norms > weights * self.gamma, weights * self.gamma, norms)  # NaN stays
        return weights * t - t.square() / (2 * self.gamma)

    def slope(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``(a - t / gamma)+``."""
        return (weights - norms / self.gamma).clamp_min(0)

    def shrunk(self, norms: Tensor, step: Tensor, weights: Tensor) -> Tensor:
        """0, ``(t - s a) / (1 - s / gamma)`` or ``t``: exact for every step."""
        firm = step < self.gamma
        least = torch.where(firm, step, (step * self.gamma).sqrt()) * weights
        between = (norms - step * weights) / torch.where(firm, 1 - step / self.gamma, 1)
        after = torch.where(firm & (norms <= weights * self.gamma), between, norms)
        return torch.where(norms <= least, 0, after)
