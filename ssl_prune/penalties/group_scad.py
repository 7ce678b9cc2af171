"""The group SCAD: small groups are shrunk as by the group lasso, large ones not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_prune.penalties.group_norm import GroupNormPenalty, SizeNorm
from ssl_prune.utils.checks import check_number


@dataclass(frozen=True)
class GroupSCAD(GroupNormPenalty):
    """The smoothly clipped absolute deviation of the group norms: the group lasso up to a knee, nothing far beyond it.

    ``Omega(w) = sum_g a_g rho(||w_g||_2)``, with ``k = a_g knee``, ``rho(t) = t`` for ``t <= k``,
    ``(2 a k t - t^2 - k^2) / (2 (a - 1) k)`` for ``k < t <= a k``, and ``(a + 1) k / 2`` beyond. The proximal map with step
    ``s = step a_g`` is, for ``s < (a - 1) k``, ``(t - s)+`` up to ``k + s``, ``(t - s a / (a - 1)) / (1 - s / ((a - 1) k))``
    up to ``a k``, and ``t`` beyond; for larger steps the better one of ``min((t - s)+, k)`` and, from ``a k`` on, ``t``.

    Args:
        a: how many knees the shrinkage reaches; infinite: the group lasso.
        knee: the group norm up to which a group is shrunk in full, in units of ``a_g``.
        size_norm: the weights ``a_g``: 1 for "none", ``sqrt(|g|)`` for "sqrt".

    Raises:
        ValueError: `a` is not above 1, `knee` is not above 0, or `size_norm` is unknown.

    Example:
        >>> from ssl_prune.groups import Neuron, partition
        >>> layer = torch.nn.Linear(4, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.4, 1.2, 2.0, 5.0]]))
        >>> columns = partition(torch.nn.Sequential(layer), Neuron(side="out"))
        >>> GroupSCAD(a=3.0).prox(columns, 0.5)
        >>> layer.weight.data
        tensor([[0.0000, 0.7000, 1.6667, 5.0000]])

    Source: Fan and Li, Variable selection via nonconcave penalized likelihood and its oracle properties (2001), equation
    2.7; of groups: Breheny and Huang (2015), section 2.1.
    """

    convex: ClassVar[bool] = False
    homogeneous: ClassVar[bool] = False

    a: float = 3.7
    knee: float = 1.0
    size_norm: SizeNorm = "none"

    def __post_init__(self) -> None:
        self._check_size_norm()
        check_number(self.a, "a", above=1, infinite=True)
        check_number(self.knee, "knee", above=0)

    def cost(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``a_g rho(t)``: ``t`` less the square of what is beyond the knee, constant from ``a k`` on."""
        knee = self.knee * weights
        t = torch.where(norms > self.a * knee, self.a * knee, norms)  # NaN stays
        return weights * (t - (t - knee).clamp_min(0).square() / (2 * (self.a - 1) * knee))

    def slope(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``a_g``, falling from the knee on, 0 from ``a k`` on."""
        knee = self.knee * weights
        return weights * (1 - (norms - knee).clamp_min(0) / ((self.a - 1) * knee)).clamp_min(0)

    def shrunk(self, norms: Tensor, step: Tensor, weights: Tensor) -> Tensor:
        """The minimum in each of the three pieces, exact for every step."""
        knee, s = self.knee * weights, step * weights
        soft = torch.minimum((norms - s).clamp_min(0), knee)
        firm = s < (self.a - 1) * knee
        bend = s / (self.a - 1)
        between = (norms - s - bend) / torch.where(firm, 1 - bend / knee, 1)
        smooth = torch.where(norms <= knee + s, soft, torch.where(norms <= self.a * knee, between, norms))
        # With a larger step the middle piece is concave, so the minimum is on one of its sides.
        stay = 0.5 * (soft - norms).square() + s * soft > s * knee * (self.a + 1) / 2
        steep = torch.where((norms >= self.a * knee) & stay, norms, soft)
        return torch.where(norms.isnan(), norms, torch.where(firm, smooth, steep))
