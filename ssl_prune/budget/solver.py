"""The solver that meets a size: its strength finds itself, and its zeros are admitted one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssl_prune.budget.controller import Choice, Controller
from ssl_prune.budget.due_size import due_share, moments
from ssl_prune.budget.limits import Limits
from ssl_prune.budget.measure import at_zero
from ssl_prune.budget.measured_choice import fit, plan, unmet
from ssl_prune.errors import SlimError
from ssl_prune.groups import Partition
from ssl_prune.groups.shards import norms_beside
from ssl_prune.masks import clear_state
from ssl_prune.penalties import GroupLasso
from ssl_prune.penalties.functional import shrink_factor
from ssl_prune.schedules import Ramp
from ssl_prune.scores import Score
from ssl_prune.solvers.base import Solver
from ssl_prune.solvers.binding import Binding
from ssl_prune.timing import RunLength, Time, TimeLike
from ssl_prune.utils.checks import check_number, check_whole

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["BudgetSolver"]

MEASUREMENTS = 8  # in the window, after which what goes in the end is chosen anew


class BudgetSolver(Solver):
    r"""Proximal shrinkage of the groups that a budget takes next.

    ``w_g ← w_g · max(0, 1 − lr λ ω_g / ‖w_g‖)``, with ``ω_g = min(1, κ / k_g)⁸`` and the keys
    ``k_g = score_g / saving_g^a``. Every `every` steps of the window the controller takes the groups with the smallest
    keys whose removal reaches the size that is due `lookahead` later; κ is the largest key among them, and λ brings
    the largest of them to zero by then. A group that comes to zero stays there if the budget and the floors have room for
    it. At the end of the window what is missing is set to zero at once, and the zeros stay frozen.

    Args:
        groups: the partition.
        score: which groups matter.
        controller: what may go and what the network costs without it.
        saving: of the dead groups ``(G,)``, the share of the dense network that each group saves.
        window: the share of the way to the limits that is due, see `window_of`.
        run: how long the run and an epoch are, where times count in them.
        lookahead: how far ahead the strength looks.
        cost_exponent: a; 0: cost does not count.
        every: optimizer steps between two decisions.
        measure: says what sizes are estimates of: from dead groups ``(G,)`` to the shares that are left, for the network as it
            is at that moment, where these are at zero. Called a few times in the window, of what is to go in the end.
        stated: the limits in the units in which messages speak of them; default shares.

    Attributes:
        first: the optimizer step at which the window begins.
        last: the one at which it ends; by then the size is met.
        dead: ``(G,)`` groups that are gone.
        keys: ``(G,)`` the keys of the last decision; of a group that is gone, those that it went with.
        gone: ``(G,)`` the step at which each group went, -1 for those that stay.
        projected: how many groups were set to zero at the end of the window.
        unmet: what was said then of a measured size that was not reached.
        history: of each decision (step, share that is due, share that is left, strength), of the first limit.

    Raises:
        ValueError: `every` is not positive, a negative cost_exponent, or a window without a step.
    """

    def __init__(
        self,
        groups: Partition,
        score: Score,
        controller: Controller,
        saving: Callable[[Tensor], Tensor],
        window: Ramp,
        *,
        run: RunLength | None = None,
        lookahead: TimeLike = "0.05",
        cost_exponent: float = 1.0,
        every: int = 10,
        measure: Callable[[Tensor], Mapping[str, float]] | None = None,
        stated: Limits | None = None,
    ) -> None:
        super().__init__(groups, GroupLasso("none"), 0.0, run=run)
        check_whole(every, "Budget: every", 1, "optimizer steps")
        check_number(cost_exponent, "Budget: cost_exponent", low=0)
        self.score, self.controller, self.window = score, controller, window
        self.cost_exponent, self.every, self._saving, self._measure = cost_exponent, every, saving, measure
        self._stated = Limits.of(controller.limits) if stated is None else stated
        self.first, self.last = moments(window, self.run)
        self._ahead = max(1, round(Time.of(lookahead, "Budget: lookahead").exact(self.run, "Budget: lookahead")))
        score.bind(self.groups)
        self.dead = torch.zeros(groups.num_groups, dtype=torch.bool)
        self.keys = torch.zeros(groups.num_groups, dtype=torch.float64)
        self.gone = torch.full((groups.num_groups,), -1)
        self.projected = 0
        self.unmet = ""
        self.history: list[tuple[int, float, float, float]] = []
        self._weights: Tensor | None = None
        self._plan: Tensor | None = None  # all that goes in the end, where that is measured
        self._seen: tuple[Tensor, float] | None = None  # the groups measured last, and what was found above the limit

    def attach(self, *optimizers: Optimizer) -> None:
        """Act on every step of the optimizer that trains the groups, until `detach`.

        Raises:
            RuntimeError: already attached.
            TypeError: something is not a torch optimizer.
            ValueError: a grouped parameter is in none of them, or the groups are divided between several.
        """
        super().attach(*optimizers)
        count = len(self._bindings)
        if count > 1:
            self.detach()
            raise ValueError(
                f"the groups are trained by {count} optimizers; a budget chooses among groups of one: "
                "leave the layers of the others out with exclude"
            )

    def rebind(self, groups: Partition, origin: Mapping[str, Source] | None = None) -> None:
        """Go on with what is left of the groups, whose numbers must be the same."""
        super().rebind(groups, origin)
        self.score.rebind(groups, origin=origin)

    def state_dict(self) -> dict[str, Any]:
        """What the base class keeps, and the decisions so far: numbers, lists and tensors only."""
        return {
            **super().state_dict(),
            "dead": self.dead.clone(),
            "keys": self.keys.clone(),
            "gone": self.gone.clone(),
            "weights": None if self._weights is None else self._weights.clone(),
            "plan": None if self._plan is None else self._plan.clone(),
            "projected": self.projected,
            "history": [list(entry) for entry in self.history],
            "score": self.score.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: it is the state of another solver, or of other groups.
        """
        if "dead" not in state or state["dead"].shape != self.dead.shape:
            got = tuple(state["dead"].shape) if "dead" in state else "none"
            raise ValueError(
                f"the state has decisions on {got} groups, expected {tuple(self.dead.shape)}: it is that of another solver, "
                "another network or another choice of layers"
            )
        super().load_state_dict(state)
        self.dead, self.keys, self.gone = state["dead"].clone(), state["keys"].clone(), state["gone"].clone()
        self._weights = None if state["weights"] is None else state["weights"].clone()
        known = state.get("plan")  # earlier versions saved none; the next decision makes one
        self._plan = None if known is None else known.clone()
        self.projected = int(state["projected"])
        self.history = [(int(e[0]), float(e[1]), float(e[2]), float(e[3])) for e in state["history"]]
        self.score.load_state_dict(state["score"])

    def due(self, step: float) -> dict[str, float]:
        """The shares that may be left at a step."""
        return {kind: due_share(self.window, self.run, step, limit) for kind, limit in self.controller.limits.items()}

    def _act(self, binding: Binding, step: int) -> None:
        # The score looks after the step: before it there is no gradient where a closure computes it, as Lightning's does.
        if self.frozen or step < self.first:
            if not self.frozen:
                self.score.update()
            super()._act(binding, step)
            return
        norms = norms_beside(self.groups, self.score.update)
        if (step - self.first) % self.every == 0 or self._weights is None:
            self._decide(step, binding, norms)
        self._shrink(binding, norms)
        if self._met or step + 1 >= self.last:
            self._project(binding)

    def _penalise(self, binding: Binding, strength: float) -> None:
        raise AssertionError("a budget acts by itself")

    def _decide(self, step: int, binding: Binding, norms: Tensor) -> None:
        if self._weights is None:  # what was zero before the window is gone already
            self.dead |= ~self.groups.alive().cpu() & ~self.controller.rules.fixed
            self.gone[self.dead] = step
        saving = self._saving(self.dead).double().clamp_min(0)
        scores = self.score.values().double().cpu()
        keys = torch.where(saving > 0, scores / saving.clamp_min(1e-300) ** self.cost_exponent, torch.inf)
        self.keys = torch.where(self.dead, self.keys, keys)
        if not bool(norms.isfinite().all()):
            group = self.groups.describe(int((~norms.isfinite()).nonzero()[0]))
            raise SlimError(
                f"{group}: its weights are not finite at optimizer step {step}, so nothing can be chosen: training has "
                "diverged. Lower the learning rate, clip gradients, or go on from an earlier checkpoint"
            )
        if self._measure is not None and self._due_for_measuring(step):
            self._plan = self.dead | plan(self.controller, self.keys, self.dead, self._excess, self._plan)
        ahead = min(self._ahead, max(1, self.last - step))
        rates, due = ahead * _rate(binding), self.due(step + ahead)
        choice = self.controller.choose(self.keys, norms, self.dead, due, rates, self.strength, self._plan)
        self._take(choice)
        self._note(step)

    def _due_for_measuring(self, step: int) -> bool:
        """It is time to measure, or all is gone that was to go."""
        length = self.last - self.first
        due = (step - self.first) % max(1, length // MEASUREMENTS) < self.every
        return due or self._plan is None or torch.equal(self._plan, self.dead)

    def _note(self, step: int) -> None:
        kind, limit = next(iter(self.controller.limits.items()))
        left = self.controller.excess(self.dead, {kind: 0.0})
        self.history.append((step, due_share(self.window, self.run, step, limit), left, self.strength))

    def _take(self, choice: Choice) -> None:
        self.strength, self._weights = choice.strength, choice.weights

    def _shrink(self, binding: Binding, norms: Tensor) -> None:
        assert self._weights is not None
        rate = binding.learning_rates()
        rate = _rate(binding) if rate is None else rate
        size = self._weights.to(norms) * self.strength * rate
        factor = torch.where(size > 0, shrink_factor(norms, size), 1.0)
        dead = self.dead.to(factor.device)
        dying = (factor == 0) & ~dead
        if bool(dying.any()):
            if self._plan is None:
                admitted = self.controller.admit(dying, self.keys, self.dead)
            else:
                admitted = dying.cpu() & self._plan
            factor[dying & ~admitted.to(dying.device)] = 1
            self._remove(admitted, binding)
        factor[self.dead.to(factor.device)] = 0
        self.groups.scale_(factor)

    def _excess(self, dead: Tensor) -> float:
        """By how much the network without the dead groups is above its limit, measured; it is left as it was."""
        assert self._measure is not None
        if self._seen is None or not torch.equal(self._seen[0], dead):
            with at_zero(self.groups, dead):  # those that are gone too: the step just made may have moved them
                measured = self._measure(dead)
            self._seen = dead.clone(), self.controller.excess(dead, measured=measured)
        return self._seen[1]

    @property
    def over(self) -> float | None:
        """By how much the network was measured above its limit; None where it was not measured as it is."""
        known = self._seen is not None and torch.equal(self._seen[0], self.dead)
        return self._seen[1] if known and self._seen is not None else None

    @property
    def _met(self) -> bool:
        """The network has its size; no estimate decides that where it can be measured."""
        if self.over is None and self.controller.excess(self.dead) > 0:
            return False
        return (self.controller.excess(self.dead) if self._measure is None else self._excess(self.dead)) <= 0

    def _remove(self, groups: Tensor, binding: Binding) -> None:
        self.dead |= groups
        self.gone[groups] = self.step_count
        clear_state(self.groups, binding.optimizer, groups)

    def _project(self, binding: Binding) -> None:
        pushed = None if self._weights is None else self._weights == 1
        if self._measure is None:
            chosen = self.controller.project(self.keys, self.dead, pushed)
        else:
            chosen = fit(self.controller, self.keys, self.dead, self._excess, first=pushed)
        self.projected += int(chosen.sum())
        self._remove(chosen, binding)
        self.groups.scale_((~self.dead).to(self.groups.dtype))
        if self._measure is not None:
            self.unmet = unmet(self.controller, self._excess(self.dead), self._stated)
            if self.unmet:
                warnings.warn(self.unmet, stacklevel=2)
        self.freeze()
        self.strength = 0.0
        self._note(self.step_count)


def _rate(binding: Binding) -> float:
    return max(float(settings["lr"]) for settings in binding.settings())
