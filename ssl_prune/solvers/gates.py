"""Parameters as products of factors, for the time of one optimizer step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.masks import clear_state
from ssl_prune.solvers.binding import Binding

__all__ = ["Gates"]


class Gates:
    """``w_g = omega_g * prod_d gamma_gd`` of the members that one optimizer steps.

    Between steps the parameters hold ``w`` and the optimizer does not know the gates, so that its state and its
    checkpoints are as ever. ``omega`` is not kept: it is ``w / prod gamma``, of the gates that are.

    Args:
        binding: the optimizer and its members.
        factors: D, so that there are D - 1 gates a group.
        weights: ``(G,)`` the ``a_g`` of the penalty; None: 1.
    """

    def __init__(self, binding: Binding, factors: int, weights: Tensor | None) -> None:
        self.binding, self.factors = binding, factors
        self.groups = binding.groups
        present = (self.groups.sizes > 0).to(self.groups.dtype)
        self._weights = present if weights is None else present * weights
        self._gamma: nn.Parameter | None = None
        self._dead: Tensor | None = None
        self._state: dict[str, Any] = {}  # what the optimizer keeps of the gates
        self._inside = False
        self._gradients: list[Tensor | None] = []

    @torch.no_grad()
    def enter(self) -> None:
        """Put ``omega`` in place of the parameters, and the gates beside them into the optimizer."""
        if self._gamma is None:
            self._balance()
        assert self._gamma is not None
        optimizer, member = self.binding.optimizer, self.groups.members[0]
        self._gamma.data = self._gamma.data.to(member.param.device)
        optimizer.param_groups[self.binding.param_groups[0]]["params"].append(self._gamma)
        if self._state:
            optimizer.state[self._gamma] = self._state
        self._inside, self._gradients = True, [m.param.grad for m in self.groups.members]
        product = self._gamma.prod(0)
        self.groups.scale_(torch.where(product == 0, 0, product.reciprocal()))

    @torch.no_grad()
    def leave(self) -> None:
        """Put the products back, take the gates out of the optimizer, and give the parameters their own gradients."""
        if not self._inside:
            return
        assert self._gamma is not None
        optimizer = self.binding.optimizer
        inside = optimizer.param_groups[self.binding.param_groups[0]]["params"]
        del inside[next(i for i, p in enumerate(inside) if p is self._gamma)]
        self._state = optimizer.state.pop(self._gamma, {})
        if self._dead is not None:
            self._gamma[:, self._dead] = 0
        self.groups.scale_(self._gamma.prod(0))
        self._gamma.grad = None
        for member, gradient in zip(self.groups.members, self._gradients, strict=True):
            member.param.grad = gradient
        self._inside, self._gradients = False, []

    @contextmanager
    def merged(self) -> Iterator[None]:
        """The parameters as products, for a closure; after it they hold ``omega`` again, to the bit."""
        assert self._gamma is not None
        kept = [m.values.detach().clone() for m in self.groups.members]
        for member, gradient in zip(self.groups.members, self._gradients, strict=True):
            member.param.grad = gradient
        with torch.no_grad():
            self.groups.scale_(self._gamma.prod(0))
        try:
            yield
        finally:
            with torch.no_grad():
                for member, omega in zip(self.groups.members, kept, strict=True):
                    member.values.copy_(omega)
            self._gradients = [m.param.grad for m in self.groups.members]

    @torch.no_grad()
    def differentiate(self, strength: float) -> Tensor:
        """Gradients of the factors from those of the parameters, by the chain rule, and of the penalty; its value.

        ``d/d omega = prod gamma * d/dw + 2 s omega``, ``d/d gamma_d = (prod of the others) <omega, d/dw> + 2 s gamma_d``,
        with ``s = strength a_g / D``.
        """
        gamma, members = self._gamma, self.groups.members
        assert gamma is not None
        s = strength / self.factors * self._weights.to(gamma)
        given = [torch.zeros_like(m.param) if m.param.grad is None else m.param.grad for m in members]
        local = [m.local(g) for m, g in zip(members, given, strict=True)]
        along = self.groups.sum([m.values * g for m, g in zip(members, local, strict=True)]).to(gamma)
        others = torch.stack([torch.cat([gamma[:d], gamma[d + 1 :]]).prod(0) for d in range(len(gamma))])
        gamma.grad = others * along + 2 * s * gamma
        products, pulls = self.groups.expand(gamma.prod(0), fill=1.0), self.groups.expand(2 * s, fill=0.0)
        for member, gradient, product, pull in zip(members, local, products, pulls, strict=True):
            factor_gradient = gradient * product + member.values * pull
            member.param.grad = factor_gradient.to(member.param.dtype).view_as(member.param)
        norms = self.groups.norms().to(gamma)
        return (s * (norms.square() + gamma.square().sum(0))).sum()

    @torch.no_grad()
    def zero_small(self, threshold: float) -> None:
        """Set groups of a norm up to the threshold to zero, for good, with what the optimizer keeps of them."""
        assert self._gamma is not None
        dead = (self.groups.norms() <= threshold) & (self.groups.sizes > 0)
        new = dead if self._dead is None else dead & ~self._dead
        if not bool(new.any()):
            return
        self._dead = dead if self._dead is None else dead | self._dead
        alive = (~self._dead).to(self.groups.dtype)
        self.groups.scale_(alive)
        self._gamma[:, self._dead] = 0
        clear_state(self.groups, self.binding.optimizer, new)
        for value in self._state.values():
            if isinstance(value, Tensor) and value.shape == self._gamma.shape:
                value[:, self._dead] = 0

    def forget(self) -> None:
        """Let go of the gates: parameters that move without them are balanced anew, and groups at zero may come back."""
        self._gamma, self._dead, self._state = None, None, {}

    def state_dict(self) -> dict[str, Any]:
        """The gates ``(D - 1, G)``, which groups are at zero for good, and what the optimizer keeps of the gates."""
        return {
            "gates": None if self._gamma is None else self._gamma.detach().clone(),
            "dead": None if self._dead is None else self._dead.clone(),
            "optimizer": {k: v.clone() if isinstance(v, Tensor) else v for k, v in self._state.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        device = self.groups.members[0].param.device
        gates, dead = state["gates"], state["dead"]
        self._gamma = None if gates is None else nn.Parameter(gates.clone().to(device))
        self._dead = None if dead is None else dead.clone().to(device)
        self._state = {
            k: v.clone().to(device if v.dim() else v.device) if isinstance(v, Tensor) else v
            for k, v in state["optimizer"].items()
        }

    def _balance(self) -> None:
        """Gates of the same size as ``||omega||``; of groups at zero, which have no size, 1."""
        norms = self.groups.norms()
        start = torch.where(norms == 0, 1, norms ** (1 / self.factors))
        if self._dead is not None:
            start[self._dead] = 0
        self._gamma = nn.Parameter(start.expand(self.factors - 1, -1).clone())
