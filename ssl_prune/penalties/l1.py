"""The l1 norm: single entries die."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_prune.penalties.base import Penalty
from ssl_prune.penalties.functional import soft_threshold

if TYPE_CHECKING:
    from ssl_prune.groups import Partition


@dataclass(frozen=True)
class L1(Penalty):
    """The sum of absolute values of the grouped weights.

    ``Omega(w) = sum_i |w_i|``

    Vectors (biases, normalisation scales and shifts) are left out: they are one entry a unit, and a shift of exactly 0
    saves nothing. With the granularity "weight" there are none.

    Example:
        >>> from ssl_prune.groups import partition
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, -2.0]]))
        >>> groups = partition(torch.nn.Sequential(layer), "weight")
        >>> L1().value(groups)
        tensor(2.5000)
        >>> L1().prox(groups, 1.0)
        >>> layer.weight.data
        tensor([[ 0., -1.]])

    Source: Tibshirani, Regression shrinkage and selection via the lasso (1996).
    """

    @property
    def entrywise(self) -> bool:
        """Single entries die."""
        return True

    @torch.no_grad()
    def value(self, groups: Partition) -> Tensor:
        """``sum_i |w_i|``."""
        sizes = [m.values.abs() if m.param.ndim > 1 else torch.zeros_like(m.values) for m in groups.members]
        return groups.total(groups.sum(sizes))

    @torch.no_grad()
    def subgradient(self, groups: Partition) -> list[Tensor]:
        """``sign(w_i)``, 0 at 0."""
        masks = _in_a_group(groups)
        signs = [torch.zeros_like(m.values) for m in groups.members]
        for i, w in _weights(groups):
            sign = torch.where(w.isnan(), w, w.sign())  # torch's sign of NaN is 0
            signs[i] = sign if masks is None else torch.where(masks[i], sign, 0)
        return signs

    @torch.no_grad()
    def subdifferential_distance(self, groups: Partition, gradients: Sequence[Tensor], strength: float) -> Tensor:
        """The norm over each group of ``grad_i + strength sign(w_i)``; of an entry at 0, ``(|grad_i| - strength)+``."""
        apart = []
        for member, gradient in zip(groups.members, gradients, strict=True):
            w, most = member.values, strength if member.param.ndim > 1 else 0.0
            apart.append(torch.where(w == 0, soft_threshold(gradient, most), gradient + most * w.sign()).square())
        return groups.sum(apart).sqrt()

    @torch.no_grad()
    def prox(self, groups: Partition, step: float | Tensor) -> None:
        """``w_i <- sign(w_i) max(|w_i| - step, 0)``."""
        uniform = not isinstance(step, Tensor) or step.ndim == 0
        if uniform and not groups.has_ungrouped:
            for _, w in _weights(groups):
                _shrink_(w, step)
            return
        steps = groups.expand(_per_group(step, groups), fill=0.0)
        for i, w in _weights(groups):
            _shrink_(w, steps[i])

    @torch.no_grad()
    def prox_metric(self, groups: Partition, strength: float | Tensor, metric: Sequence[Tensor]) -> None:
        """``w_i <- sign(w_i) max(|w_i| - strength / h_i, 0)``."""
        strengths = groups.expand(_per_group(strength, groups), fill=0.0)
        for i, w in _weights(groups):
            # An entry whose metric is 0 is free to go: 0 / 0 of an ungrouped one must not become NaN.
            step = torch.where(strengths[i] == 0, 0, strengths[i] / metric[i])
            _shrink_(w, step)


def _weights(groups: Partition) -> list[tuple[int, Tensor]]:
    return [(i, m.values) for i, m in enumerate(groups.members) if m.param.ndim > 1]


def _in_a_group(groups: Partition) -> list[Tensor] | None:
    """Whether entries are in a group, laid over the members; None if every entry is in one."""
    if not groups.has_ungrouped:
        return None
    return [mask.bool() for mask in groups.expand(torch.ones_like(groups.sizes), fill=0.0)]


def _per_group(value: float | Tensor, groups: Partition) -> Tensor:
    sizes = groups.sizes
    return torch.as_tensor(value, dtype=groups.dtype, device=sizes.device).expand(groups.num_groups)


def _shrink_(w: Tensor, step: float | Tensor) -> None:
    if isinstance(step, Tensor):
        w.copy_(soft_threshold(w.to(torch.promote_types(w.dtype, torch.float32)), step))
    elif w.dtype in (torch.float16, torch.bfloat16):
        w.copy_(soft_threshold(w.float(), step))
    else:
        torch.ops.aten.softshrink.out(w, step, out=w)  # one pass, no temporary
