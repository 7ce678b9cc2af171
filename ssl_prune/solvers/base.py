"""What the solvers share: the strength of the moment, and freezing zeros."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypedDict

import torch

from ssl_prune.groups import Partition
from ssl_prune.masks import Mask
from ssl_prune.penalties import Penalty
from ssl_prune.schedules import Constant, Schedule
from ssl_prune.solvers.binding import Binding
from ssl_prune.solvers.step_hook import StepHook
from ssl_prune.timing import RunLength, Time, TimeLike
from ssl_prune.utils.checks import check_number, check_state, check_whole


class SolverOptions(TypedDict, total=False):
    """What every solver takes by name, see `Solver`."""

    freeze_at: int | TimeLike | None
    target_groups: int | None
    run: RunLength | None


class Solver(StepHook, ABC):
    """A step hook with a penalty, a strength, and a mask of its zeros once these are frozen; see the subclasses.

    Args:
        groups: what the penalty acts on.
        penalty: for strength 1.
        strength: weight of the penalty in the objective; multiplied by the learning rate of each step.
        schedule: a factor on it over time; default 1 throughout.
        freeze_at: the optimizer step, counted from 0, from which on the zeros are frozen and the strength is 0, or a time
            such as "0.5" or "5ep" in `run`; default never.
        target_groups: freeze as soon as no more than this many groups are alive; default never.
        run: how long the run is, for times of the schedule; default no known end.

    Raises:
        TypeError: a penalty or a schedule that is none.
        ValueError: a strength, step or number of groups below 0.
    """

    def __init__(
        self,
        groups: Partition,
        penalty: Penalty,
        strength: float,
        schedule: Schedule | None = None,
        *,
        freeze_at: int | TimeLike | None = None,
        target_groups: int | None = None,
        run: RunLength | None = None,
    ) -> None:
        if target_groups is not None:
            check_whole(target_groups, "target_groups", 0, "groups")
        if not isinstance(penalty, Penalty):
            raise TypeError(f"penalty must be an object of ssl_prune.penalties, such as GroupLasso(), got {penalty!r}")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise TypeError(
                f'schedule must be an object of ssl_prune.schedules, such as Linear(end="5ep"), or None, got {schedule!r}'
            )
        super().__init__(groups)
        self.penalty = penalty
        self.strength = strength
        self.schedule = schedule or Constant()
        self.run = run or RunLength()
        self.freeze_at = None if freeze_at is None else _step(freeze_at, self.run)
        self.target_groups = target_groups
        self._left: int | None = None

    @property
    def strength(self) -> float:
        """The strength before the schedule's factor; may be changed between steps."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        check_number(strength, "strength", low=0)
        double = all(member.param.dtype == torch.float64 for member in self.groups.members)
        largest = torch.finfo(torch.float64 if double else torch.float32).max
        if strength > largest:
            raise ValueError(
                f"strength must be at most {largest:.3g}, the largest number of its parameters, got {strength!r}"
            )
        self._strength = float(strength)

    @property
    def current_strength(self) -> float:
        """Strength times schedule at the coming step; 0 once frozen."""
        return self._strength_at(self.step_count)

    @property
    def frozen(self) -> bool:
        """Whether the zeros are held and the penalty is off."""
        return self.mask is not None

    @torch.no_grad()
    def freeze(self) -> None:
        """Hold what is zero now at zero from here on, and turn the penalty off, so that the rest can recover.

        Groups whose entries are all zero are held as groups; if the penalty kills single entries, these too. Their
        momentum and other optimizer state is cleared. The size of what is left is no longer biased towards zero.
        """
        if self.frozen:
            return
        self.mask = self._mask_of_zeros()
        for optimizer in self._optimizers:
            self.mask.clear_state(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Counts, strength and frozen zeros: numbers, strings, lists and tensors only.

        The same in all processes: where parameters are sharded the mask is left out, and read from the zeros again.
        """
        mask = self.mask.state_dict() if self.mask is not None and not self.groups.is_sharded else None
        return {"step_counts": list(self._counts), "mask": mask, "strength": self.strength, "alive": self._left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, before or after `attach`.

        With sharded parameters, then or now, frozen zeros are read from the parameters: load these first.

        Raises:
            ValueError: the frozen zeros are those of another partition, or not in the parameters.
        """
        check_state(state, ["step_counts", "strength"], type(self).__name__)
        super().load_state_dict(state)
        self.strength = state["strength"]
        if self.mask is None or not self._only_in_zeros(state):
            self._left = state.get("alive")

    @abstractmethod
    def _penalise(self, binding: Binding, strength: float) -> None:
        """Do what the penalty asks for after a step; the strength is not 0."""

    def _act(self, binding: Binding, step: int) -> None:
        strength = self._strength_at(step)
        if strength > 0:
            self._penalise(binding, strength)
        super()._act(binding, step)

    def _mask_of_zeros(self) -> Mask:
        mask = Mask.of_zeros(self.groups, self.penalty.entrywise)
        self._left = int(self.groups.total(mask.alive))
        return mask

    def _mask_of(self, state: Mapping[str, Any]) -> Mask | None:
        alive = state.get("alive")
        if not self._only_in_zeros(state) or all(state.get(key) is None for key in ("mask", "masks", "alive")):
            return super()._mask_of(state)
        left = int(self.groups.total(self.groups.alive()))
        if alive is not None and left > alive:
            raise ValueError(
                f"the state has frozen all but {alive} groups, but {left} are not zero: with sharded parameters load the "
                "network's weights before the solver's state"
            )
        return self._mask_of_zeros()

    def _only_in_zeros(self, state: Mapping[str, Any]) -> bool:
        return self.groups.is_sharded or (state.get("mask") is None and state.get("masks") is None)

    def _strength_at(self, step: int) -> float:
        return 0.0 if self.frozen else self.strength * self.schedule.value(step, self.run)

    def _settle(self) -> None:
        if self.frozen:
            return
        if (self.freeze_at is not None and self.step_count >= self.freeze_at) or self._few_enough():
            self.freeze()

    def _few_enough(self) -> bool:
        return self.target_groups is not None and self.groups.at_most(self.target_groups)


def _step(freeze_at: int | TimeLike, run: RunLength) -> int:
    """The optimizer step of `freeze_at`, which is one or a time."""
    if isinstance(freeze_at, int):
        check_whole(freeze_at, "freeze_at", 0, "optimizer steps")
        return freeze_at
    return Time.of(freeze_at, "freeze_at").first_step(run, "freeze_at")
