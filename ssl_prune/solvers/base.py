"""What the solvers share: counting steps, the strength of the moment, freezing zeros, state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ssl_prune.groups import Partition
from ssl_prune.groups.shards import on_shards
from ssl_prune.penalties import Penalty
from ssl_prune.schedules import Constant, Schedule
from ssl_prune.solvers.binding import Binding, bind
from ssl_prune.solvers.freezing import Held, clear_state, fitting, read_again, zero_masks
from ssl_prune.timing import RunLength


class Solver(ABC):
    """Acts after each step of the attached optimizers; see the subclasses."""

    def __init__(
        self,
        groups: Partition,
        penalty: Penalty,
        strength: float,
        schedule: Schedule | None = None,
        *,
        freeze_at: int | None = None,
        target_groups: int | None = None,
        run: RunLength | None = None,
    ) -> None:
        if freeze_at is not None and freeze_at < 0:
            raise ValueError(f"freeze_at must be an optimizer step >= 0 or None, got {freeze_at}")
        if target_groups is not None and target_groups < 0:
            raise ValueError(f"target_groups must be a number of groups >= 0 or None, got {target_groups}")
        self.groups = on_shards(groups)
        self.penalty = penalty
        self.strength = strength
        self.schedule = schedule or Constant()
        self.freeze_at = freeze_at
        self.target_groups = target_groups
        self.run = run or RunLength()
        self._bindings: list[Binding] = []
        self._optimizers: tuple[Optimizer, ...] = ()
        self._handles: list[RemovableHandle] = []
        self._counts: list[int] = []
        self._masks: list[Tensor] | None = None
        self._left: int | None = None

    @property
    def strength(self) -> float:
        """The strength before the schedule's factor; may be changed between steps."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        if not isfinite(strength) or strength < 0:
            raise ValueError(f"strength must be a finite number >= 0, got {strength}")
        self._strength = float(strength)

    @property
    def step_count(self) -> int:
        """Steps taken since the first `attach`; of several optimizers the most."""
        return max(self._counts, default=0)

    @property
    def current_strength(self) -> float:
        """Strength times schedule at the coming step; 0 once frozen."""
        return self._strength_at(self.step_count)

    @property
    def frozen(self) -> bool:
        """Whether the zeros are held and the penalty is off."""
        return self._masks is not None

    @property
    def masks(self) -> list[Tensor] | None:
        """Of the frozen zeros: 0 where they are and 1 elsewhere, a tensor a member that broadcasts to it; None before."""
        return self._masks

    def attach(self, *optimizers: Optimizer) -> None:
        """Act after every step of these optimizers, until `detach`.

        Raises:
            RuntimeError: already attached.
            TypeError: something is not a torch optimizer.
            ValueError: a grouped parameter is in none of them, or a group spans two.
        """
        if self._handles:
            raise RuntimeError("this solver is attached already: call detach() first")
        self._bindings = bind(self.groups, optimizers)
        self._optimizers = optimizers
        self._counts += [0] * (len(optimizers) - len(self._counts))
        self._handles = [o.register_step_post_hook(self._after_step) for o in optimizers]
        self._freeze_when_due()

    def detach(self) -> None:
        """Remove the hooks; counts, strength and frozen zeros stay."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._bindings, self._optimizers = [], [], ()

    def rebind(self, groups: Partition, masks: list[Tensor] | None = None) -> None:
        """Go on with another partition of the same network, as after its layers were cut.

        Counts and strength stay. Attached optimizers stay attached and must hold the new parameters.

        Args:
            groups: the partition.
            masks: the frozen zeros on its members, see `masks`; None: they are read again from the parameters.
        """
        optimizers, frozen = self._optimizers, self.frozen
        self.detach()
        self.groups, self._masks = on_shards(groups), None
        if frozen:
            self._hold()
            self._masks = self._masks if masks is None else masks
        if optimizers:
            self.attach(*optimizers)

    @torch.no_grad()
    def freeze(self) -> None:
        """Hold what is zero now at zero from here on, and turn the penalty off, so that the rest can recover.

        Groups whose entries are all zero are held as groups; if the penalty kills single entries, these too. Their
        momentum and other optimizer state is cleared. The size of what is left is no longer biased towards zero.
        """
        if self.frozen:
            return
        masks = self._hold()
        for binding in self._bindings:
            for i in binding.positions:
                clear_state(binding.optimizer, self.groups.members[i], masks[i])

    def state_dict(self) -> dict[str, Any]:
        """Counts, strength and frozen zeros: numbers, lists and tensors only.

        The same in all processes: where parameters are sharded the masks are left out, and read from the zeros again.
        """
        masks = None if self._masks is None or self.groups.is_sharded else [mask.clone() for mask in self._masks]
        return {"step_counts": list(self._counts), "strength": self.strength, "masks": masks, "alive": self._left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, before or after `attach`.

        With sharded parameters, then or now, frozen zeros are read from the parameters: load these first.

        Raises:
            ValueError: the frozen zeros are those of another partition, or not in the parameters.
        """
        masks, alive = state["masks"], state.get("alive")
        if masks is not None and not self.groups.is_sharded:
            masks = fitting(masks, self.groups)
        elif masks is not None or alive is not None:
            masks, alive = read_again(self.groups, self.penalty, alive)
        self._counts = list(state["step_counts"])
        self._counts += [0] * (len(self._optimizers) - len(self._counts))
        self.strength = state["strength"]
        self._masks, self._left = masks, alive

    @torch.no_grad()
    def _hold(self) -> list[Tensor]:
        self._masks = zero_masks(self.groups, self.penalty)
        self._left = int(self.groups.total(self.groups.alive()))
        return self._masks

    @abstractmethod
    def _penalise(self, binding: Binding, strength: float) -> None:
        """Do what the penalty asks for after a step; the strength is not 0."""

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        position = next(i for i, o in enumerate(self._optimizers) if o is optimizer)
        binding = next((b for b in self._bindings if b.optimizer is optimizer), None)
        if binding is None or not binding.skipped():
            if binding is not None:
                with torch.no_grad():
                    self._act(binding, self._strength_at(self._counts[position]))
            self._counts[position] += 1
            self._freeze_when_due()

    def _act(self, binding: Binding, strength: float) -> None:
        if self._masks is not None:
            self._hold_zeros(binding, self._masks)
        elif strength > 0:
            self._penalise(binding, strength)

    def _hold_zeros(self, binding: Binding, masks: list[Tensor]) -> None:
        device = binding.groups.members[0].values.device
        if binding.held is None or binding.held.masks is not masks or binding.held.device != device:
            binding.held = Held(masks, device, binding.groups.members, binding.positions)
        binding.held.apply()

    def _strength_at(self, step: int) -> float:
        return 0.0 if self.frozen else self.strength * self.schedule.value(step, self.run)

    def _freeze_when_due(self) -> None:
        if self.frozen:
            return
        if (self.freeze_at is not None and self.step_count >= self.freeze_at) or self._few_enough():
            self.freeze()

    def _few_enough(self) -> bool:
        return self.target_groups is not None and self.groups.at_most(self.target_groups)
