"""A step hook: one object attached to torch optimizers that acts after each of their steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ssl_prune.groups import Partition
from ssl_prune.groups.shards import on_shards
from ssl_prune.masks import Mask
from ssl_prune.solvers.binding import Binding, bind, skipped
from ssl_prune.utils.checks import check_state

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["StepHook"]


class StepHook:
    """Acts after each step of the attached optimizers: right under accumulation, clipping and steps that are skipped.

    Subclasses say in `_act` what is done to the members that an optimizer has just stepped, and in `_settle` what follows
    once the step is counted. With a `mask` and nothing else, the mask is applied after each step, and gradients are masked
    before it if it has that role.

    Args:
        groups: the partition.
        mask: of these groups; it follows a cut and is saved with the rest.

    Attributes:
        groups: the partition; of sharded parameters a `ShardedPartition`.
        mask: None where nothing is masked.

    Raises:
        ValueError: the mask is that of another partition, which would be masked in place of this one or in part.

    Example:
        >>> from ssl_prune.groups import partition
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> groups = partition(torch.nn.Sequential(layer), "weight")
        >>> hook = StepHook(groups, Mask(groups, torch.tensor([True, False])))
        >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> hook.attach(sgd)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> sgd.step()
        >>> layer.weight.data[0, 1].item(), hook.step_count
        (0.0, 1)
    """

    def __init__(self, groups: Partition, mask: Mask | None = None) -> None:
        self.groups = on_shards(groups)
        if mask is not None and not _same_members(mask.groups, self.groups):
            raise ValueError(
                f"{type(self).__name__}: the mask is of {mask.groups}, expected one of {self.groups}: make the mask of "
                "the groups that it is given with"
            )
        self.mask = mask
        self._bindings: list[Binding] = []
        self._optimizers: tuple[Optimizer, ...] = ()
        self._handles: list[RemovableHandle] = []
        self._counts: list[int] = []

    @property
    def step_count(self) -> int:
        """Steps taken since the first `attach`; of several optimizers the most."""
        return max(self._counts, default=0)

    def attach(self, *optimizers: Optimizer) -> None:
        """Act after every step of these optimizers, until `detach`.

        Raises:
            RuntimeError: already attached.
            TypeError: something is not a torch optimizer.
            ValueError: a grouped parameter is in none of them, or a group spans two.
        """
        if self._handles:
            raise RuntimeError(f"this {type(self).__name__} is attached already: call detach() first")
        self._bindings = bind(self.groups, optimizers)
        self._optimizers = optimizers
        self._counts += [0] * (len(optimizers) - len(self._counts))
        self._handles = [o.register_step_post_hook(self._after_step) for o in optimizers]
        self._handles += [o.register_step_pre_hook(self._at_step) for o in optimizers]
        self._settle()

    def detach(self) -> None:
        """Remove the hooks; counts and mask stay."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._bindings, self._optimizers = [], [], ()

    def rebind(self, groups: Partition, origin: Mapping[str, Source] | None = None) -> None:
        """Go on with another partition of the same network, as after its layers were cut.

        Counts stay. Attached optimizers stay attached and must hold the new parameters.

        Args:
            groups: the partition.
            origin: where the entries of each parameter stood before, which the mask follows; None: it is read again from
                the zeros of the parameters.
        """
        optimizers = self._optimizers
        self.detach()
        self.groups = on_shards(groups)
        if self.mask is not None:
            self.mask = self._mask_of_zeros() if origin is None else self.mask.remap(self.groups, origin)
        if optimizers:
            self.attach(*optimizers)

    def before_step(self, optimizer: Optimizer | None = None) -> None:
        """Mask the gradients, once a step: after backward and unscaling, before clipping.

        An optimizer that is stepped without a closure calls it by itself, after clipping; with a closure, as Lightning's
        are, there is no gradient yet when its step begins.

        Args:
            optimizer: the one about to step, if several are attached and step in turn; None: all.
        """
        if self.mask is None or not self.mask.gradient:
            return
        for binding in self._bindings:
            if optimizer is None or binding.optimizer is optimizer:
                self.mask.mask_gradients(binding.positions)

    def state_dict(self) -> dict[str, Any]:
        """Counts and mask: numbers, lists, strings and tensors only."""
        return {"step_counts": list(self._counts), "mask": None if self.mask is None else self.mask.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, before or after `attach`.

        Raises:
            ValueError: it is no such state, or the mask is that of another partition.
        """
        check_state(state, ["step_counts"], type(self).__name__)
        mask = self._mask_of(state)
        self._counts = list(state["step_counts"])
        self._counts += [0] * (len(self._optimizers) - len(self._counts))
        self.mask = mask

    def _mask_of(self, state: Mapping[str, Any]) -> Mask | None:
        """The mask of a state, which may be in the form of earlier checkpoints."""
        if state.get("mask") is not None:
            return Mask.from_state(self.groups, state["mask"])
        return None if state.get("masks") is None else Mask.from_tensors(self.groups, state["masks"])

    def _mask_of_zeros(self) -> Mask:
        """The mask where no other source of it is left."""
        raise ValueError(
            f"{type(self).__name__}: its mask cannot be read from the zeros of the parameters, as groups that live may be "
            "zero: give rebind() the origin of what is left"
        )

    def _act(self, binding: Binding, step: int) -> None:
        """What is done to the members of one optimizer after its step of this number, counted from 0."""
        if self.mask is not None:
            self.mask.apply(binding.positions)

    def _settle(self) -> None:
        """What follows once a step is counted, and at `attach`."""
        return

    def _at_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is None:  # the first one is the optimizer
            self.before_step(optimizer)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if skipped(optimizer):
            return
        position = next(i for i, o in enumerate(self._optimizers) if o is optimizer)
        binding = next((b for b in self._bindings if b.optimizer is optimizer), None)
        if binding is not None:
            with torch.no_grad():
                self._act(binding, self._counts[position])
        self._counts[position] += 1
        self._settle()


def _same_members(first: Partition, second: Partition) -> bool:
    """Whether both number the same groups of the same parameters."""
    pairs = zip(first.members, second.members, strict=False)
    counts = (first.num_groups, len(first.members)) == (second.num_groups, len(second.members))
    return counts and all(one.param is other.param for one, other in pairs)
