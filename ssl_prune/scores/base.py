"""What every score is: a number for each group, the smaller the less the network needs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssl_prune.groups import Partition

__all__ = ["EMAScore", "Score"]


class Score(ABC):
    """Says how much each group matters, from its entries and their gradients."""

    def bind(self, groups: Partition) -> None:
        """Take the groups to score."""
        self.rebind(groups)

    def rebind(self, groups: Partition) -> None:
        """Go on with the same groups on what is left of their members; what is remembered of each stays."""
        self.groups = groups

    def update(self) -> None:
        """Look at parameters and gradients, once an optimizer step; by default nothing is remembered."""
        return

    @abstractmethod
    def values(self) -> Tensor:
        """``(G,)`` the scores now."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers and tensors only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, after `bind`."""
        return


class EMAScore(Score):
    """A score that is the root of a moving mean of squares.

    ``s_g = sqrt(mean_t[x_g(t)²])``, the mean with weights ``decay^k`` for the step k steps ago.

    Args:
        decay: of the moving mean, in [0, 1).

    Raises:
        ValueError: a decay out of its range.
    """

    def __init__(self, decay: float = 0.98) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"{type(self).__name__}: decay must be in [0, 1), got {decay!r}")
        self.decay = decay

    def bind(self, groups: Partition) -> None:
        """Start anew on these groups."""
        super().bind(groups)
        self._mean = torch.zeros(groups.num_groups, device=groups.members[0].param.device, dtype=groups.dtype)
        self._weight = 0.0

    @abstractmethod
    def now(self) -> Tensor:
        """``(G,)`` the value x of this step."""

    @torch.no_grad()
    def update(self) -> None:
        """Take the value of this step into the mean; one that is not finite is left out."""
        value = self.now().square_()
        self._mean = self._mean.to(value.device)
        value = torch.where(value.isfinite(), value, self._mean / max(self._weight, 1e-12))
        self._mean.lerp_(value, 1 - self.decay)
        self._weight = self.decay * self._weight + 1 - self.decay

    def values(self) -> Tensor:
        """The root of the mean; zeros before the first step."""
        return (self._mean / max(self._weight, 1e-12)).sqrt_()

    def state_dict(self) -> dict[str, Any]:
        """The mean and its weight."""
        return {"mean": self._mean.clone(), "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for another number of groups."""
        if state["mean"].shape != self._mean.shape:
            raise ValueError(
                f"{type(self).__name__}: the state has {tuple(state['mean'].shape)} groups, expected "
                f"{tuple(self._mean.shape)}: it belongs to another network or another choice of layers"
            )
        self._mean, self._weight = state["mean"].to(self._mean), float(state["weight"])


@torch.no_grad()
def products(groups: Partition) -> list[Tensor]:
    """``w · ∂w`` a member; zeros where there is no gradient."""
    values = [m.values for m in groups.members]
    grads = [torch.zeros_like(v) if m.grad is None else m.grad for m, v in zip(groups.members, values, strict=True)]
    return list(torch._foreach_mul(values, grads))
