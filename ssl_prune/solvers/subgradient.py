"""The subgradient solver of the SSL reference code: penalty gradients, then small weights set to zero."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

import torch
from torch import nn
from torch.optim import Optimizer

from ssl_prune.groups import Partition
from ssl_prune.groups.shards import local
from ssl_prune.penalties import Penalty
from ssl_prune.schedules import Schedule
from ssl_prune.solvers.base import Solver, SolverOptions
from ssl_prune.solvers.binding import Binding, refuse_fused
from ssl_prune.utils.checks import check_number


class SubgradientSolver(Solver):
    """Adds ``strength * subgradient`` to the gradients; after each step sets entries with ``|w| < threshold`` to 0.

    The gradients are added by `add_gradient`, which is called once a step: after backward and unscaling, before
    clipping. Zeros come from the threshold alone, which works entry by entry, also on biases and normalisation vectors:
    a vector that starts at 0 stays there until one step moves it by the threshold.

    Args:
        groups: the partition.
        penalty: what being non-zero costs.
        strength: multiplies the penalty in the objective ``loss + strength * penalty``.
        schedule: a factor on the strength at each optimizer step; default 1. Where it is 0 nothing is thresholded.
        threshold: entries smaller than this in absolute value become 0.
        thresholded: the parameters this is applied to; None: all that the attached optimizers train.
        shared: `freeze_at`, `target_groups` and `run`, see `Solver`.

    Raises:
        ValueError: a strength or threshold that is negative or not finite, a negative `freeze_at`.

    Example:
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.penalties import L1
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.05001]]))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> solver = SubgradientSolver(partition(net, "weight"), L1(), strength=0.5)
        >>> solver.attach(sgd)
        >>> net(torch.zeros(1, 2)).sum().backward()
        >>> solver.add_gradient()
        >>> sgd.step()
        >>> net[0].weight.data
        tensor([[0.9500, 0.0000]])

    Source: Wen et al., Learning structured sparsity in deep neural networks (2016), and the solver of its code.
    """

    def __init__(
        self,
        groups: Partition,
        penalty: Penalty,
        strength: float,
        schedule: Schedule | None = None,
        *,
        threshold: float = 1e-4,
        thresholded: Iterable[nn.Parameter] | None = None,
        **shared: Unpack[SolverOptions],
    ) -> None:
        super().__init__(groups, penalty, strength, schedule, **shared)
        check_number(threshold, "threshold", low=0)
        self.threshold = threshold
        self._just_below: dict[torch.dtype, float] = {}
        self._only = None if thresholded is None else {id(p) for p in thresholded}

    def attach(self, *optimizers: Optimizer) -> None:
        """Act after every step of these optimizers, until `detach`.

        Raises:
            RuntimeError: already attached.
            TypeError: not a torch optimizer, or the penalty has no subgradient.
            ValueError: a grouped parameter is in none of them, or a group spans two.
        """
        if not self.penalty.has_subgradient:
            raise TypeError(
                f"the subgradient solver needs a subgradient, which {self.penalty} has not: take the proximal one"
            )
        super().attach(*optimizers)

    @torch.no_grad()
    def add_gradient(self, optimizer: Optimizer | None = None) -> None:
        """Add the penalty's subgradient to ``.grad`` of the grouped parameters, once a step.

        Args:
            optimizer: the one about to step, if several are attached and step in turn; None: all.

        Raises:
            RuntimeError: not attached.
        """
        if not self._bindings:
            raise RuntimeError("attach the optimizers before add_gradient()")
        for binding in self._bindings:
            if optimizer is not None and binding.optimizer is not optimizer:
                continue
            position = next(i for i, o in enumerate(self._optimizers) if o is binding.optimizer)
            strength = self._strength_at(self._counts[position])
            if strength == 0:
                continue
            for member in binding.groups.members:
                if member.param.grad is None:
                    member.param.grad = torch.zeros_like(member.param)
            self.penalty.add_subgradient(binding.groups, strength)

    def check_amp(self) -> None:
        """Refuse fused optimizers under a gradient scaler: they unscale inside their step, after `add_gradient`.

        Call it when training with float16 and a scaler.

        Raises:
            RuntimeError: an attached optimizer is fused.
        """
        refuse_fused(self._optimizers, "so a subgradient added before has the wrong size")

    def _penalise(self, binding: Binding, strength: float) -> None:
        for settings in binding.optimizer.param_groups:
            for param in settings["params"]:
                if param.requires_grad and (self._only is None or id(param) in self._only):
                    # Zero where |w| <= the next number below the threshold: one pass in place, and NaN stays NaN.
                    here = local(param) if binding.groups.is_sharded else param
                    torch.ops.aten.hardshrink.out(here, self._below(param.dtype), out=here)

    def _below(self, dtype: torch.dtype) -> float:
        if dtype not in self._just_below:
            edge = torch.tensor([self.threshold, -1.0], dtype=dtype)
            self._just_below[dtype] = torch.nextafter(edge[0], edge[1]).item()
        return self._just_below[dtype]
