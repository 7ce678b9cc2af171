"""The gating solver: groups are split into factors whose squares are penalised, and trained as these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from ssl_prune.groups import Partition
from ssl_prune.penalties import GroupLasso, Penalty
from ssl_prune.schedules import Schedule
from ssl_prune.solvers.base import Solver, SolverOptions
from ssl_prune.solvers.binding import Binding, refuse_fused
from ssl_prune.solvers.gates import Gates
from ssl_prune.utils.checks import check_number, check_whole

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["GatedSolver"]


class GatedSolver(Solver):
    r"""Group sparsity by a smooth problem: any optimizer steps the factors of a group, LBFGS too.

    ``w_g = ω_g · Π_d γ_gd`` with D − 1 gates γ a group, and ``strength · a_g / D · (‖ω_g‖² + Σ_d γ_gd²)`` in the loss. Over
    all factors of the same ``w_g`` that is at least ``strength · a_g ‖w_g‖₂^(2/D)``, and equal where they are balanced: for
    D = 2 the group lasso, for more factors a penalty that is not convex. Between steps the parameters are the products, so
    the network, its checkpoints and its gradients are what they are without gates: an optimizer sees the factors and their
    gradients during its step only. Groups start balanced.

    Smooth training comes close to zero and never there: a group whose norm is at most `threshold` after a step is set to
    zero, and stays there.

    Args:
        groups: the partition.
        penalty: the group lasso, whose ``a_g`` are taken.
        strength: multiplies the penalty in the objective ``loss + strength * penalty``; with a learning rate that falls to
            nothing within the run, zeros come late.
        schedule: a factor on the strength at each optimizer step; default 1. Where it is 0 the parameters are stepped.
        factors: D, at least 2.
        threshold: norm of a group up to which it is set to zero.
        shared: `freeze_at`, `target_groups` and `run`, see `Solver`.

    Raises:
        TypeError: a penalty that is no group lasso.
        ValueError: fewer than two factors, a negative threshold, sharded parameters.

    Note:
        The optimizer's own weight decay acts on all factors alike: it adds ``D / 2 · weight_decay`` to the strength. Clipping
        acts on the gradients of the parameters. A closure returns the loss with the penalty on the factors.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from ssl_prune.groups import Neuron, partition
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> goal = torch.tensor([[3.0, 0.3], [4.0, 0.4]])
        >>> _ = net[0].weight.data.copy_(goal)
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> solver = GatedSolver(partition(net, Neuron(side="out")), GroupLasso(), strength=1.0)
        >>> solver.attach(sgd)
        >>> for _ in range(200):
        ...     net.zero_grad()
        ...     (0.5 * (net[0].weight - goal).square().sum()).backward()
        ...     sgd.step()
        >>> net[0].weight.data  # a column of norm 5 comes to 4, one of 0.5 to nothing
        tensor([[2.4000, 0.0000],
                [3.2000, 0.0000]])

    Source: Kolb, Frost, Bischl and Rügamer, Differentiable sparsity via D-Gating (2025), definition 1 and theorem 1.
    """

    def __init__(
        self,
        groups: Partition,
        penalty: Penalty,
        strength: float,
        schedule: Schedule | None = None,
        *,
        factors: int = 2,
        threshold: float = 1e-4,
        **shared: Unpack[SolverOptions],
    ) -> None:
        super().__init__(groups, penalty, strength, schedule, **shared)
        if not isinstance(penalty, GroupLasso):
            raise TypeError(f"gates make a group lasso, expected GroupLasso() as the penalty, got {penalty!r}")
        check_whole(factors, "factors", 2)
        check_number(threshold, "threshold", low=0)
        if self.groups.is_sharded:
            raise ValueError(
                f"{self.groups.members[0].name} is sharded (a DTensor), expected whole parameters: take the proximal solver"
            )
        self.lasso, self.factors, self.threshold = penalty, factors, threshold
        self._gates: dict[int, Gates] = {}  # by the position of the optimizer
        self._kept: dict[int, dict[str, Any]] = {}  # the states of gates that are not attached
        self._before: list[RemovableHandle] = []

    def attach(self, *optimizers: Optimizer) -> None:
        """Act on every step of these optimizers, until `detach`.

        Raises:
            RuntimeError: already attached.
            TypeError: not a torch optimizer, or one whose steps are not of single entries.
            ValueError: a grouped parameter is in none of them, or a group spans two.
        """
        for optimizer in optimizers:
            if type(optimizer).__name__ in ("Muon", "SparseAdam", "Adafactor", "ZeroRedundancyOptimizer"):
                raise TypeError(
                    f"{type(optimizer).__name__} cannot step gates: take SGD, Adam, AdamW, RMSprop or LBFGS"
                )
        super().attach(*optimizers)
        places = {id(optimizer): position for position, optimizer in enumerate(optimizers)}
        for binding in self._bindings:
            gates = Gates(binding, self.factors, self.lasso.weights(self.groups))
            self._gates[places[id(binding.optimizer)]] = gates
        self._take(self._kept)
        self._before = [o.register_step_pre_hook(self._before_step) for o in optimizers]

    def detach(self) -> None:
        """Remove the hooks; counts, strength, gates and frozen zeros stay."""
        for gates in self._gates.values():
            gates.leave()  # a step that broke off left the factors in place of the parameters
        self._kept = self._states()
        for handle in self._before:
            handle.remove()
        self._gates, self._before = {}, []
        super().detach()

    def rebind(self, groups: Partition, origin: Mapping[str, Source] | None = None) -> None:
        """Go on with what is left of the groups; single entries, which are numbered anew, are balanced anew."""
        if groups.num_groups != self.groups.num_groups:
            for gates in self._gates.values():
                gates.leave()
            self._gates, self._kept = {}, {}
        super().rebind(groups, origin)

    def check_amp(self) -> None:
        """Refuse fused optimizers under a gradient scaler: they unscale inside their step.

        Raises:
            RuntimeError: an attached optimizer is fused.
        """
        refuse_fused(self._optimizers, "where those of the gates are made")

    def state_dict(self) -> dict[str, Any]:
        """What the base class keeps, and the gates with what their optimizer keeps of them."""
        return {**super().state_dict(), "gates": self._states()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, before or after `attach`.

        Raises:
            ValueError: it is the state of another solver, of other groups, or of another number of factors.
        """
        shape = (self.factors - 1, self.groups.num_groups)
        kept = state.get("gates", {0: {"gates": None}})
        got = [tuple(gates["gates"].shape) for gates in kept.values() if gates["gates"] is not None]
        if "gates" not in state or any(found != shape for found in got):
            raise ValueError(
                f"the state has gates of shape {got[0] if got else 'none'}, expected {shape}: it is that of another solver, "
                "another number of factors, or other groups"
            )
        super().load_state_dict(state)
        self._kept = dict(kept)
        self._take(self._kept)

    def _states(self) -> dict[int, dict[str, Any]]:
        return {place: gates.state_dict() for place, gates in self._gates.items()} or self._kept

    def _take(self, states: Mapping[int, Mapping[str, Any]]) -> None:
        for place, gates in self._gates.items():
            if place in states:
                gates.load_state_dict(states[place])

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        position = next(i for i, o in enumerate(self._optimizers) if o is optimizer)
        gates = self._gates.get(position)
        strength = self._strength_at(self._counts[position])
        if gates is None:
            return None
        if strength == 0:
            gates.forget()
            _forget_other_sizes(optimizer)
            return None
        gates.enter()
        _forget_other_sizes(optimizer)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer
        if closure is None:
            gates.differentiate(strength)
            return None
        whole = _objective(gates, closure, strength)
        return (
            (args[:1], {**kwargs, "closure": whole}) if "closure" in kwargs else ((args[0], whole, *args[2:]), kwargs)
        )

    def _act(self, binding: Binding, step: int) -> None:
        self._of(binding).leave()
        super()._act(binding, step)

    def _penalise(self, binding: Binding, strength: float) -> None:
        self._of(binding).zero_small(self.threshold)

    def _of(self, binding: Binding) -> Gates:
        return next(gates for gates in self._gates.values() if gates.binding is binding)


def _objective(gates: Gates, closure: Callable[[], Any], strength: float) -> Callable[[], Any]:
    """The closure of the loss of the parameters, as one of the loss and the penalty of the factors."""

    def objective() -> Any:
        try:
            with gates.merged():
                loss = closure()
        except BaseException:
            gates.leave()  # a step that breaks off has no end at which the products come back
            raise
        penalty = gates.differentiate(strength)
        return loss if loss is None else loss + penalty.to(loss) if isinstance(loss, Tensor) else loss + float(penalty)

    return objective


def _forget_other_sizes(optimizer: Optimizer) -> None:
    """LBFGS keeps all parameters in one vector: where gates came or went, its memory begins anew."""
    if isinstance(optimizer, LBFGS):
        params = optimizer.param_groups[0]["params"]
        optimizer._numel_cache = None
        direction = optimizer.state.get(params[0], {}).get("d")
        if direction is not None and direction.numel() != sum(p.numel() for p in params):
            optimizer.state.clear()
