"""What a penalty is: the cost of being non-zero, its subgradient and its proximal maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ssl_prune.groups import Partition


class Penalty(ABC):
    """A convex function ``Omega(w)`` of a partition's entries, for strength 1.

    The strength is no part of a penalty: it multiplies what `value` and `subgradient` return, and enters the proximal
    maps through their arguments.
    """

    @property
    def entrywise(self) -> bool:
        """Whether `prox` sets single entries of weights to zero too, so that freezing the zeros freezes these."""
        return False

    @abstractmethod
    def value(self, groups: Partition) -> Tensor:
        """``Omega(w)``, a scalar in float32 (float64 if a member is)."""

    @abstractmethod
    def subgradient(self, groups: Partition) -> list[Tensor]:
        """The subgradient of ``Omega`` that is 0 where ``w`` is 0: one tensor a member, shaped as its parameter."""

    @torch.no_grad()
    def add_subgradient(self, groups: Partition, strength: float) -> None:
        """Add ``strength * subgradient`` to the members' ``.grad``, which exists."""
        for member, part in zip(groups.members, self.subgradient(groups), strict=True):
            assert member.grad is not None
            member.grad.add_(part, alpha=strength)

    @abstractmethod
    def prox(self, groups: Partition, step: float | Tensor) -> None:
        """Replace ``w`` in place by ``argmin_z 1/2 ||z - w||^2 + step * Omega(z)``.

        Args:
            groups: the partition whose parameters are changed.
            step: learning rate times strength: a number, a 0-d tensor, or ``(G,)``.
        """

    @abstractmethod
    def prox_metric(self, groups: Partition, strength: float | Tensor, metric: Sequence[Tensor]) -> None:
        """Replace ``w`` in place by ``argmin_z 1/2 (z - w)' H (z - w) + strength * Omega(z)``.

        Args:
            groups: the partition whose parameters are changed.
            strength: not multiplied by a learning rate (that is in ``H``): a number, a 0-d tensor, or ``(G,)``.
            metric: the diagonal of ``H``, one tensor a member that broadcasts to its parameter.
        """
