"""The proximal solver: the optimizer's step, then the penalty's proximal map. Exact zeros."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from ssl_prune.groups import Partition
from ssl_prune.penalties import Penalty
from ssl_prune.schedules import Schedule
from ssl_prune.solvers.base import Solver
from ssl_prune.solvers.binding import Binding
from ssl_prune.solvers.preconditioner import check_supported, diagonals
from ssl_prune.timing import RunLength, TimeLike


class ProximalSolver(Solver):
    """Proximal gradient descent around any torch optimizer.

    ``w <- prox(v)``, ``v`` the optimizer's result, with the step ``lr * strength * schedule`` and the lr that the
    optimizer just used. If members of one group have different lrs, the map is taken in the metric ``1 / lr``.
    With strength 0 nothing is touched.

    Args:
        groups: the partition.
        penalty: what being non-zero costs.
        strength: multiplies the penalty in the objective ``loss + strength * penalty``; the lr is multiplied on by the
            solver.
        schedule: a factor on the strength at each optimizer step; default 1.
        preconditioned: take the map in the metric of the optimizer, the diagonal that the optimizer scales its gradient by, so that the fixed
            points are those of the objective (SGD, Adam, AdamW, RMSprop, Adagrad).
        freeze_at: the optimizer step, counted from 0, or the time in `run`, from which on zeros are held and the strength is 0.
        target_groups: zeros are held and the strength is 0 as soon as no more than this many groups are left.
        run: how long the run and an epoch are, for a schedule whose times count in them.

    Raises:
        ValueError: a strength that is negative or not finite, a negative `freeze_at`.

    Note:
        SGD's momentum ``m`` adds gradients up, so that its steps grow to ``lr / (1 - m)`` while the Euclidean map keeps
        ``lr``: it converges to the minimum of ``loss + (1 - m) * strength * penalty``. `preconditioned=True` knows this
        and converges to that of ``loss + strength * penalty``; its strength is the smaller by ``1 - m`` for the same zeros.

        A step that a gradient scaler skips does not count and has no proximal map.

    Example:
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.penalties import L1
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.01]]))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> solver = ProximalSolver(partition(net, "weight"), L1(), strength=0.5)
        >>> solver.attach(sgd)
        >>> net(torch.zeros(1, 2)).sum().backward()
        >>> sgd.step()
        >>> net[0].weight.data, solver.step_count
        (tensor([[0.9500, 0.0000]]), 1)

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 4.2; the metric: Deleu and Bengio (2021), section 3.
    """

    def __init__(
        self,
        groups: Partition,
        penalty: Penalty,
        strength: float,
        schedule: Schedule | None = None,
        *,
        preconditioned: bool = False,
        freeze_at: int | TimeLike | None = None,
        target_groups: int | None = None,
        run: RunLength | None = None,
    ) -> None:
        super().__init__(
            groups,
            penalty,
            strength,
            schedule,
            freeze_at=freeze_at,
            target_groups=target_groups,
            run=run,
        )
        self.preconditioned = preconditioned

    def attach(self, *optimizers: Optimizer) -> None:
        """Act after every step of these optimizers, until `detach`.

        Raises:
            RuntimeError: already attached.
            TypeError: not a torch optimizer; with `preconditioned`, its metric is not known, or the penalty has no proximal
                map in a metric.
            ValueError: a grouped parameter is in none of them, or a group spans two; its members have several learning
                rates, and the penalty has no proximal map in a metric.
        """
        if self.preconditioned:
            if not self.penalty.has_prox_metric:
                raise TypeError(
                    f"preconditioned=True needs a proximal map in the metric of the optimizer, which {self.penalty} has not; "
                    "leave it at False"
                )
            for optimizer in optimizers:
                check_supported(optimizer)
        super().attach(*optimizers)
        if not self.penalty.has_prox_metric and any(b.learning_rates() is None for b in self._bindings):
            self.detach()
            raise ValueError(
                f"members of one group have several learning rates, for which {self.penalty} has no proximal map; give them "
                "one, or take the group lasso"
            )

    def _penalise(self, binding: Binding, strength: float) -> None:
        groups = binding.groups
        rate = binding.learning_rates()
        if not self.preconditioned and rate is not None:
            self.penalty.prox(groups, strength * rate)
            return
        members, settings = groups.members, binding.settings()
        if self.preconditioned:
            found = diagonals(binding.optimizer, settings, [m.param for m in members], groups.dtype)
            metric = [member.local(h) for member, h in zip(members, found, strict=True)]
        else:
            metric = [
                torch.as_tensor(own["lr"], dtype=groups.dtype, device=member.param.device).reciprocal()
                for own, member in zip(settings, members, strict=True)
            ]
        self.penalty.prox_metric(groups, strength, metric)
