"""The group lasso: whole groups die."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_prune.penalties.functional import metric_norms, shrink_factor
from ssl_prune.penalties.group_norm import GroupNormPenalty, SizeNorm
from ssl_prune.penalties.l1 import L1

if TYPE_CHECKING:
    from ssl_prune.groups import Partition


@dataclass(frozen=True)
class GroupLasso(GroupNormPenalty):
    """The weighted sum of group norms.

    ``Omega(w) = sum_g a_g ||w_g||_2``, with ``a_g = 1`` for `size_norm` "none" and ``a_g = sqrt(|g|)`` for "sqrt".

    Args:
        size_norm: "none" is what the source uses; "sqrt" makes groups of different sizes comparable, as in coupled
            groups of a network whose layers differ in width.

    Raises:
        ValueError: `size_norm` is neither.

    Example:
        >>> from ssl_prune.groups import Neuron, partition
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.1], [4.0, 0.0]]))
        >>> columns = partition(torch.nn.Sequential(layer), Neuron(side="out"))
        >>> GroupLasso().value(columns)
        tensor(5.1000)
        >>> GroupLasso().prox(columns, 1.0)
        >>> layer.weight.data
        tensor([[2.4000, 0.0000],
                [3.2000, 0.0000]])

    Source: Yuan and Lin (2006), equation 2.1; Wen et al., Learning structured sparsity in deep neural networks (2016),
    equation 2.
    """

    size_norm: SizeNorm = "none"

    def __post_init__(self) -> None:
        self._check_size_norm()

    def cost(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``a_g ||w_g||``."""
        return norms * weights

    def slope(self, norms: Tensor, weights: Tensor) -> Tensor:
        """``a_g``; NaN where the norm is."""
        return torch.where(norms.isnan(), norms, weights)

    def shrunk(self, norms: Tensor, step: Tensor, weights: Tensor) -> Tensor:
        """``max(||w_g|| - step a_g, 0)``."""
        return norms * shrink_factor(norms, step * weights)

    @torch.no_grad()
    def add_subgradient(self, groups: Partition, strength: float) -> None:
        """``grad <- grad + strength a_g w / ||w_g||``: one pass, and no tensor as large as the weights."""
        scales = self._scales(groups)
        values, grads = [m.values for m in groups.members], [m.grad for m in groups.members if m.grad is not None]
        flat = groups.in_a_row(grads)
        if flat is not None and {t.dtype for t in (*values, *grads)} == {scales.dtype}:
            flat.add_(grads, values, flat.spread(scales, fill=0.0), strength)
            return
        for value, grad, scale in zip(values, grads, groups.expand(scales, fill=0.0), strict=True):
            grad.addcmul_(value, scale.to(value.dtype), value=strength)

    def _scales(self, groups: Partition) -> Tensor:
        weights, norms = self.weights(groups), groups.norms()
        return torch.where(norms == 0, 0, (1 if weights is None else weights) / norms)

    @torch.no_grad()
    def prox(self, groups: Partition, step: float | Tensor) -> None:
        """``w_g <- w_g max(1 - step a_g / ||w_g||, 0)``."""
        if groups.is_entrywise:  # a group of one entry: the same map in one pass, and without a vector (G,)
            L1().prox(groups, step)
            return
        weights = self.weights(groups)
        groups.scale_(shrink_factor(groups.norms(), step if weights is None else step * weights))

    @torch.no_grad()
    def prox_metric(self, groups: Partition, strength: float | Tensor, metric: Sequence[Tensor]) -> None:
        """``w_i <- w_i theta_g / (theta_g + strength a_g / h_i)``, ``theta_g`` by Newton: see `metric_norms`."""
        if groups.is_entrywise:
            L1().prox_metric(groups, strength, metric)
            return
        weights = self.weights(groups)
        scaled = torch.as_tensor(strength, dtype=groups.dtype, device=groups.sizes.device).expand(groups.num_groups)
        scaled = scaled if weights is None else scaled * weights
        values = [m.values for m in groups.members]
        flat = groups.in_a_row(values)
        if flat is not None and all(v.dtype == groups.dtype for v in values):
            whole = [
                h if (h.shape, h.stride()) == (v.shape, v.stride()) else torch.empty_like(v).copy_(h)
                for h, v in zip(metric, values, strict=True)
            ]
            theta, offsets = metric_norms(
                [flat.gather(values, groups.dtype)],
                [flat.gather(whole, groups.dtype)],
                scaled,
                lambda t: flat.per_group(t[0]),
                lambda v: [flat.spread(v)],
            )
            flat.multiply_(values, _kept(flat.spread(theta, fill=torch.inf), offsets[0], groups.has_ungrouped))
            return
        theta, offsets = metric_norms(
            [v.to(groups.dtype) for v in values],
            metric,
            scaled,
            groups.sum,
            lambda v: groups.expand(v, fill=1.0),
            groups.scratch(3),
        )
        for v, t, c in zip(values, groups.expand(theta, fill=torch.inf), offsets, strict=True):
            v.mul_(_kept(t, c, groups.has_ungrouped))


def _kept(theta: Tensor, offset: Tensor, ungrouped: bool) -> Tensor:
    """``theta / (theta + offset)`` in place of the offset: 0 where theta is, 1 in entries of no group, where it is infinite."""
    factor = torch.div(theta.expand_as(offset), offset.add_(theta), out=offset)
    if ungrouped:
        factor.masked_fill_(theta.isinf(), 1)
    return factor.masked_fill_(theta == 0, 0)
