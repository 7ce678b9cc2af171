"""What a penalty is: the cost of being non-zero, and its proximal map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ssl_prune.groups import Partition


class Penalty(ABC):
    """A function ``Omega(w)`` of a partition's entries, for strength 1.

    The strength is no part of a penalty: it multiplies what `value` and `subgradient` return, and enters the proximal
    maps through their arguments. A penalty has `value`, `prox` and `subdifferential_distance`; two more are optional and
    asked for when an optimizer is attached: `prox_metric` for a proximal map in the metric of the optimizer, and
    `subgradient` for the subgradient solver.

    Attributes:
        convex: ``Omega`` is convex, so that its proximal map does not expand.
        homogeneous: ``Omega(c w) = c Omega(w)`` for ``c >= 0``.

    Example:
        >>> from ssl_prune.penalties import L1, GroupMCP
        >>> L1().has_prox_metric, GroupMCP().has_prox_metric, GroupMCP().convex
        (True, False, False)
    """

    convex: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    @property
    def entrywise(self) -> bool:
        """Whether `prox` sets single entries of weights to zero too, so that freezing the zeros freezes these."""
        return False

    @abstractmethod
    def value(self, groups: Partition) -> Tensor:
        """``Omega(w)``, a scalar in float32 (float64 if a member is).

        Args:
            groups: the partition.
        """

    @abstractmethod
    def prox(self, groups: Partition, step: float | Tensor) -> None:
        """Replace ``w`` in place by ``argmin_z 1/2 ||z - w||^2 + step * Omega(z)``.

        Args:
            groups: the partition whose parameters are changed.
            step: learning rate times strength: a number, a 0-d tensor, or ``(G,)``.
        """

    @abstractmethod
    def subdifferential_distance(self, groups: Partition, gradients: Sequence[Tensor], strength: float) -> Tensor:
        """How far each group is from being stationary: ``min_u || grad_g + u ||, u in strength * dOmega(w)_g``.

        It is 0 in all groups where ``w`` minimises ``loss + strength * Omega`` to first order.

        Args:
            groups: the partition.
            gradients: of the loss: one tensor a member, shaped as its parameter.
            strength: multiplies the penalty in the objective.

        Returns:
            ``(G,)`` distances >= 0.
        """

    def subgradient(self, groups: Partition) -> list[Tensor]:
        """The subgradient of ``Omega`` that is 0 where ``w`` is 0: one tensor a member, shaped as its parameter.

        Args:
            groups: the partition.

        Raises:
            TypeError: this penalty has none.
        """
        raise TypeError(f'{self} has no subgradient: leave solver at "proximal"')

    @torch.no_grad()
    def add_subgradient(self, groups: Partition, strength: float) -> None:
        """Add ``strength * subgradient`` to the members' ``.grad``, which exists.

        Args:
            groups: the partition.
            strength: multiplies the subgradient.
        """
        for member, part in zip(groups.members, self.subgradient(groups), strict=True):
            assert member.grad is not None
            member.grad.add_(part, alpha=strength)

    def prox_metric(self, groups: Partition, strength: float | Tensor, metric: Sequence[Tensor]) -> None:
        """Replace ``w`` in place by ``argmin_z 1/2 (z - w)' H (z - w) + strength * Omega(z)``.

        Args:
            groups: the partition whose parameters are changed.
            strength: not multiplied by a learning rate (that is in ``H``): a number, a 0-d tensor, or ``(G,)``.
            metric: the diagonal of ``H``, one tensor a member that broadcasts to its parameter.

        Raises:
            TypeError: this penalty has none.
        """
        raise TypeError(
            f"{self} has no proximal map in a diagonal metric: leave preconditioned=False, and give all members of a group "
            "one learning rate"
        )

    @property
    def has_subgradient(self) -> bool:
        """Whether it says a `subgradient`."""
        return type(self).subgradient is not Penalty.subgradient

    @property
    def has_prox_metric(self) -> bool:
        """Whether it says a `prox_metric`."""
        return type(self).prox_metric is not Penalty.prox_metric
