"""The sparse group lasso: whole groups die, and single entries inside the living ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_prune.penalties.base import Penalty
from ssl_prune.penalties.functional import soft_threshold
from ssl_prune.penalties.group_lasso import GroupLasso
from ssl_prune.penalties.group_norm import SizeNorm
from ssl_prune.penalties.l1 import L1
from ssl_prune.utils.checks import check_number

if TYPE_CHECKING:
    from ssl_prune.groups import Partition


@dataclass(frozen=True)
class SparseGroupLasso(Penalty):
    """A mixture of the l1 norm and the group lasso.

    ``Omega(w) = r sum_i |w_i| + (1 - r) sum_g a_g ||w_g||_2``

    The proximal map is the composition of the two, the soft threshold first and the group shrinkage second; this is
    exact, also in a diagonal metric, and only in this order.

    Args:
        l1_ratio: ``r`` in [0, 1].
        size_norm: the weights ``a_g``, see `GroupLasso`.

    Raises:
        ValueError: `l1_ratio` is not in [0, 1], or `size_norm` is unknown.

    Example:
        >>> from ssl_prune.groups import Neuron, partition
        >>> layer = torch.nn.Linear(1, 3)
        >>> _ = layer.weight.data.copy_(torch.tensor([[4.0], [0.5], [-5.0]]))
        >>> column = partition(torch.nn.Sequential(layer), Neuron(side="out"))
        >>> SparseGroupLasso(l1_ratio=0.5).prox(column, 2.0)      # soft threshold by 1 to (3, 0, -4), then 5 - 1 = 4
        >>> layer.weight.data.flatten()
        tensor([ 2.4000,  0.0000, -3.2000])

    Source: Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso (2013), equation 3; the composition: Yu, On
    decomposing the proximal map (2013), theorem 4.
    """

    l1_ratio: float = 0.5
    size_norm: SizeNorm = "none"

    def __post_init__(self) -> None:
        check_number(self.l1_ratio, "l1_ratio", low=0, high=1)
        GroupLasso(self.size_norm)  # checks the name

    @property
    def entrywise(self) -> bool:
        """Whether single entries die: with an l1 part they do."""
        return self.l1_ratio > 0

    @property
    def _group(self) -> GroupLasso:
        return GroupLasso(self.size_norm)

    @torch.no_grad()
    def value(self, groups: Partition) -> Tensor:
        """``r ||w||_1 + (1 - r) sum_g a_g ||w_g||``."""
        return self.l1_ratio * L1().value(groups) + (1 - self.l1_ratio) * self._group.value(groups)

    @torch.no_grad()
    def subgradient(self, groups: Partition) -> list[Tensor]:
        """``r sign(w) + (1 - r) a_g w / ||w_g||``."""
        entries, whole = L1().subgradient(groups), self._group.subgradient(groups)
        return [self.l1_ratio * a + (1 - self.l1_ratio) * b for a, b in zip(entries, whole, strict=True)]

    @torch.no_grad()
    def subdifferential_distance(self, groups: Partition, gradients: Sequence[Tensor], strength: float) -> Tensor:
        """As of the group lasso, with what the l1 part leaves of the gradient.

        That is ``grad_i + r strength sign(w_i)``; of an entry at 0, ``soft(grad_i, r strength)``.
        """
        left = []
        for member, gradient in zip(groups.members, gradients, strict=True):
            w, most = member.values, self.l1_ratio * strength if member.param.ndim > 1 else 0.0
            left.append(torch.where(w == 0, soft_threshold(gradient, most), gradient + most * w.sign()))
        return self._group.subdifferential_distance(groups, left, (1 - self.l1_ratio) * strength)

    @torch.no_grad()
    def prox(self, groups: Partition, step: float | Tensor) -> None:
        """Soft threshold by ``r step``, then shrink groups by ``(1 - r) step``."""
        if self.l1_ratio > 0:
            L1().prox(groups, self.l1_ratio * step)
        if self.l1_ratio < 1:
            self._group.prox(groups, (1 - self.l1_ratio) * step)

    @torch.no_grad()
    def prox_metric(self, groups: Partition, strength: float | Tensor, metric: Sequence[Tensor]) -> None:
        """The same composition, each map in the metric ``H``."""
        if self.l1_ratio > 0:
            L1().prox_metric(groups, self.l1_ratio * strength, metric)
        if self.l1_ratio < 1:
            self._group.prox_metric(groups, (1 - self.l1_ratio) * strength, metric)
