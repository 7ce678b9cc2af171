"""Penalties that see a group by its norm alone: three functions of vectors make one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ssl_prune.penalties.base import Penalty

if TYPE_CHECKING:
    from ssl_prune.groups import Partition

SizeNorm = Literal["none", "sqrt"]


class GroupNormPenalty(Penalty):
    """``Omega(w) = sum_g rho(||w_g||_2; a_g)``, with ``rho`` not falling and ``rho(0) = 0``.

    The proximal map scales each group: ``w_g <- w_g p_g / ||w_g||``, ``p_g`` the minimum of
    ``1/2 (p - ||w_g||)^2 + step * rho(p; a_g)`` over ``p >= 0``. A subclass says ``rho`` (`cost`), its derivative (`slope`)
    and ``p`` (`shrunk`).

    Example:
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.penalties import GroupLasso
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.5]]))
        >>> GroupLasso().prox(partition(layer, "neuron"), 1.0)  # p = max(||w_g|| - 1, 0)
        >>> layer.weight.data
        tensor([[2.0000, 0.0000]])

    Source: Breheny and Huang, Group descent algorithms for nonconvex penalized linear and logistic regression models with
    grouped predictors (2015), section 2.
    """

    size_norm: SizeNorm

    def _check_size_norm(self) -> None:
        if self.size_norm not in ("none", "sqrt"):
            raise ValueError(f'size_norm must be "none" or "sqrt", got {self.size_norm!r}')

    @abstractmethod
    def cost(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``rho(||w_g||; a_g)``, ``(G,)``.

        Args:
            norms: ``(G,)`` the ``||w_g||``.
            weights: ``(G,)`` the ``a_g``.
        """

    @abstractmethod
    def slope(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``rho'(||w_g||; a_g)``, ``(G,)``; from above at 0.

        Args:
            norms: ``(G,)`` the ``||w_g||``.
            weights: ``(G,)`` the ``a_g``.
        """

    @abstractmethod
    def shrunk(self, norms: Tensor, step: Tensor, weights: Tensor) -> Tensor:
        """The norms ``(G,)`` after the proximal map with these steps ``(G,)``; NaN where the norm is.

        Args:
            norms: ``(G,)`` the ``||w_g||``.
            step: ``(G,)`` learning rate times strength.
            weights: ``(G,)`` the ``a_g``.
        """

    def weights(self, groups: Partition) -> Tensor | None:
        """The ``a_g``, ``(G,)``; None where all are 1.

        Args:
            groups: the partition.
        """
        return None if self.size_norm == "none" or groups.is_entrywise else groups.sizes.to(groups.dtype).sqrt()

    @torch.no_grad()
    def value(self, groups: Partition) -> Tensor:
        """``sum_g rho(||w_g||; a_g)``."""
        norms = groups.norms()
        return groups.total(self.cost(norms, self._factors(groups, norms)))

    @torch.no_grad()
    def subgradient(self, groups: Partition) -> list[Tensor]:
        """``rho'(||w_g||) w / ||w_g||``, 0 for a group of norm 0."""
        norms = groups.norms()
        scales = torch.where(norms == 0, 0, self.slope(norms, self._factors(groups, norms)) / norms)
        laid = groups.expand(scales, fill=0.0)
        return [(m.values * s).to(m.param.dtype) for m, s in zip(groups.members, laid, strict=True)]

    @torch.no_grad()
    def prox(self, groups: Partition, step: float | Tensor) -> None:
        """``w_g <- w_g p_g / ||w_g||``."""
        norms = groups.norms()
        steps = torch.as_tensor(step, dtype=norms.dtype, device=norms.device).expand_as(norms)
        after = self.shrunk(norms, steps, self._factors(groups, norms))
        groups.scale_(torch.where(after == norms, 1, after / norms))

    @torch.no_grad()
    def subdifferential_distance(self, groups: Partition, gradients: Sequence[Tensor], strength: float) -> Tensor:
        """``|| grad_g + strength rho'(||w_g||) w_g / ||w_g|| ||``; of a group at 0, ``(|| grad_g || - strength rho'(0))+``."""
        norms = groups.norms()
        slopes = strength * self.slope(norms, self._factors(groups, norms))
        laid = groups.expand(torch.where(norms == 0, 0, slopes / norms), fill=0.0)
        apart = [(g + m.values * s).square() for g, m, s in zip(gradients, groups.members, laid, strict=True)]
        distances = groups.sum(apart).sqrt()
        return torch.where(norms == 0, (distances - slopes).clamp_min(0), distances)

    def _factors(self, groups: Partition, norms: Tensor) -> Tensor:
        weights = self.weights(groups)
        return torch.ones_like(norms) if weights is None else weights.to(norms)
