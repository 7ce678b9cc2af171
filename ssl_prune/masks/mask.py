"""A mask: which groups of a partition are alive, and what follows for weights, gradients and optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssl_prune.groups import Partition
from ssl_prune.groups.flat import LIMIT, launching_costs
from ssl_prune.masks import state as states
from ssl_prune.masks.optimizer_state import clear_state, multiply_state
from ssl_prune.masks.zeros import entries_alive

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["Mask", "Storage"]

Storage = Literal["zero", "dense"]
Bits = Sequence[Tensor | None]


class Mask:
    """A partition and the groups of it that are alive; all other entries are dead, entries of no group are alive.

    ``w_i ← w_i · m_i`` after each step (`apply`), ``∂_i ← ∂_i · m_i`` before it (`mask_gradients`), with ``m_i = 1`` where
    entry i is alive. Parameters hold the masked weights between steps, so that every forward pass, evaluation and
    checkpoint sees the sparse network. Each of the three roles is switched for itself:

    | | lasso, frozen | RigL, SET, SNIP, tickets | dynamic surgery | dense phase of hard thresholding |
    |---|---|---|---|---|
    | `forward` | True | True | True | False |
    | `gradient` | False | True | False | False |
    | `storage` | "zero" | "zero" | "dense" | "zero" |

    Args:
        groups: the partition; of single entries with the granularity "weight".
        alive: ``(G,)`` bool.
        entries: for each member a bool tensor of its shape, False for single entries that are dead inside living groups, or
            None where there are none.
        forward: `apply` sets what is dead to zero.
        gradient: `mask_gradients` keeps what is dead from being moved; else gradients are left as they are.
        storage: "zero": what is dead is forgotten. "dense": it keeps its value behind the mask, where the optimizer's steps
            go on moving it, and has it again when it comes back to life.

    Raises:
        ValueError: `alive` or `entries` do not fit the partition, or an unknown storage.

    Example:
        >>> from ssl_prune.groups import partition
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        >>> mask = Mask(partition(torch.nn.Sequential(layer), "weight"), torch.tensor([True, False, True]), storage="dense")
        >>> mask.apply()
        >>> layer.weight.data, mask.masks, round(mask.sparsity, 4)
        (tensor([[1., 0., 3.]]), {'0.weight': tensor([[ True, False,  True]])}, 0.3333)
        >>> died, born = mask.update(torch.tensor([False, True, True]))
        >>> layer.weight.data, died, born
        (tensor([[0., 2., 3.]]), tensor([ True, False, False]), tensor([False,  True, False]))
    """

    def __init__(
        self,
        groups: Partition,
        alive: Tensor,
        *,
        entries: Bits | None = None,
        forward: bool = True,
        gradient: bool = False,
        storage: Storage = "zero",
    ) -> None:
        if storage not in ("zero", "dense"):
            raise ValueError(f'storage must be "zero" or "dense", got {storage!r}')
        self.groups, self.gradient, self.storage = groups, gradient, storage
        self._forward = forward
        self._hidden = [torch.zeros_like(m.values) for m in groups.members] if storage == "dense" else None
        self._set(alive, entries)

    @classmethod
    def of_zeros(cls, groups: Partition, entrywise: bool = False) -> Self:
        """What is zero now is dead: groups as a whole, and `entrywise` single entries of weights.

        Single entries of vectors are alive, because a shift that happens to be 0 (as it is at the start) must be free to
        move.

        Args:
            groups: the partition.
            entrywise: single zeros of weights in living groups are dead too.
        """
        return cls(groups, groups.alive(), entries=entries_alive(groups) if entrywise else None)

    @classmethod
    def from_state(cls, groups: Partition, state: Mapping[str, Any]) -> Self:
        """A mask of the `groups` from a `state` that `state_dict` returned."""
        mask = cls(groups, torch.ones(groups.num_groups, dtype=torch.bool))
        mask.load_state_dict(state)
        return mask

    @classmethod
    def from_tensors(cls, groups: Partition, masks: Sequence[Tensor]) -> Self:
        """A mask from `masks`, a tensor a member that broadcasts to it, 0 where it is dead, as earlier checkpoints have them."""
        alive, entries = states.taken_over(masks, groups)
        return cls(groups, alive, entries=entries)

    @property
    def alive(self) -> Tensor:
        """``(G,)`` bool: the groups that are alive; `update` changes them."""
        return self._alive

    @property
    def entries(self) -> Bits | None:
        """Single entries that are alive, a tensor a member or None."""
        return self._entries

    @property
    def forward(self) -> bool:
        """Whether the forward pass sees zeros; turned off, weights kept behind the mask come back at once."""
        return self._forward

    @forward.setter
    def forward(self, forward: bool) -> None:
        if not forward:
            self._reveal()
        self._forward = forward

    @property
    def present(self) -> list[Tensor]:
        """A bool tensor a member that broadcasts to it: True where entries are alive or in no group."""
        alive = self.groups.expand(self._alive, fill=True)
        entries = self._entries or [None] * len(alive)
        return [a if e is None else a & e.to(a.device) for a, e in zip(alive, entries, strict=True)]

    @property
    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> bool tensor of its shape; of sharded parameters the part that this process holds."""
        pairs = zip(self.groups.members, self.present, strict=True)
        return {m.name: here.expand(m.values.shape).clone(memory_format=torch.contiguous_format) for m, here in pairs}

    @property
    def sparsity(self) -> float:
        """The dead entries as a share of all of the masked parameters together, counted in whole numbers."""
        dead, every = 0, 0
        for member, here in zip(self.groups.members, self.present, strict=True):
            if getattr(member, "counts", True):  # of replicas only the first
                each = member.values.numel() // max(1, here.numel())
                dead, every = dead + (here.numel() - int(here.sum())) * each, every + member.values.numel()
        counts = self.groups.over_processes(torch.tensor([dead, every]))
        return int(counts[0]) / int(counts[1])

    def update(self, alive: Tensor, entries: Bits | None = None) -> tuple[Tensor, Tensor]:
        """Other groups are alive from now on; what is dead is zero at once.

        Optimizer state is left as it is, see `clear_state`.

        Args:
            alive: ``(G,)`` bool.
            entries: single entries that are alive; None: all those of living groups.

        Returns:
            ``(G,)`` bool of the groups that died, and of those that came to life.
        """
        before = self._alive
        self._reveal()
        self._set(alive, entries)
        self.apply()
        before = before.to(self._alive.device)
        return before & ~self._alive, self._alive & ~before

    @torch.no_grad()
    def apply(self, positions: Sequence[int] | None = None) -> None:
        """Set what is dead to zero, after a step; "dense" storage takes in how the step has moved it.

        Args:
            positions: of the members that were stepped; None: all.
        """
        if not self._forward:
            return
        chosen = self._chosen(positions)
        if not chosen:
            return
        values = [self.groups.members[i].values for i, _ in chosen]
        masks = [mask for _, mask in chosen]
        if self._hidden is not None:
            hidden = [self._hidden[i] for i, _ in chosen]
            torch._foreach_add_(hidden, values)
            torch._foreach_mul_(hidden, [self._behind[i] for i, _ in chosen])
        torch._foreach_mul_(values, masks)

    @torch.no_grad()
    def mask_gradients(self, positions: Sequence[int] | None = None) -> None:
        """Set the gradient of what is dead to zero, once before a step of the members at `positions` (default all), if it has that role."""
        if not self.gradient:
            return
        found = [(self.groups.members[i].grad, mask) for i, mask in self._chosen(positions)]
        grads = [(grad, mask) for grad, mask in found if grad is not None]
        if grads:
            torch._foreach_mul_([grad for grad, _ in grads], [mask.to(grad.dtype) for grad, mask in grads])

    def clear_state(self, optimizer: Optimizer, chosen: Tensor | None = None) -> None:
        """Set momentum and other state of `optimizer` to zero: of the `chosen` groups ``(G,)``, such as those born, or of all that is dead."""
        if chosen is not None:
            clear_state(self.groups, optimizer, chosen)
        else:
            multiply_state(self.groups, optimizer, self._multipliers())

    @torch.no_grad()
    def dense(self) -> list[Tensor]:
        """A tensor a member: its weights with those that are kept behind the mask."""
        self._multipliers()  # which follow the parameters to another device
        values = [m.values for m in self.groups.members]
        return values if self._hidden is None else list(torch._foreach_add(values, self._hidden))

    def remap(self, groups: Partition, origin: Mapping[str, Source]) -> Mask:
        """The mask of what is left after a cut.

        Args:
            groups: the partition after the cut, see `ssl_prune.shrinking.carry`.
            origin: where the entries of each parameter stood before.
        """
        places = {m.name: i for i, m in enumerate(self.groups.members)}

        def left(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
            taken = []
            for member in groups.members:
                source = origin[member.name]
                tensor = tensors[places[source.name]]
                taken.append(None if tensor is None else source.take(tensor))
            return taken

        alive, entries = self._alive, None if self._entries is None else left(self._entries)
        if groups.is_entrywise:  # single entries are numbered anew
            alive = torch.cat([here.reshape(-1) for here in left(self.present) if here is not None])
        new = Mask(groups, alive, entries=entries, forward=self.forward, gradient=self.gradient, storage=self.storage)
        if self._hidden is not None:
            new._hidden = [hidden for hidden in left(self._hidden) if hidden is not None]
        return new

    def state_dict(self) -> dict[str, Any]:
        """Flags, packed bits, and what is kept behind the mask: plain tensors, numbers and strings.

        Raises:
            ValueError: of sharded parameters, of which each process holds another part.
        """
        return states.saved(self, self._hidden)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; parameters are left as they are.

        Raises:
            ValueError: it is of another partition.
        """
        alive, entries, hidden = states.fitting(state, self.groups)
        self._set(alive, entries)
        self._forward, self.gradient, self.storage = state["forward"], state["gradient"], state["storage"]
        self._hidden = hidden

    def _set(self, alive: Tensor, entries: Bits | None) -> None:
        states.check_bits(alive, (self.groups.num_groups,), f"{self.groups}: alive")
        states.check_entries(entries, self.groups)
        self._alive = alive.to(self.groups.members[0].values.device, copy=True)
        self._entries = None if entries is None else list(entries)
        self._laid: list[Tensor | None] | None = None
        self._device: torch.device | None = None

    @torch.no_grad()
    def _reveal(self) -> None:
        """Put the weights behind the mask back."""
        if self._hidden is not None and self._forward:
            self._multipliers()  # which follow the parameters to another device
            torch._foreach_add_([m.values for m in self.groups.members], self._hidden)
            torch._foreach_zero_(self._hidden)

    def _chosen(self, positions: Sequence[int] | None) -> list[tuple[int, Tensor]]:
        laid = self._multipliers()
        every = range(len(laid)) if positions is None else positions
        return [(i, mask) for i in every if (mask := laid[i]) is not None]

    def _multipliers(self) -> list[Tensor | None]:
        """1 for what lives and 0 for what is dead, in the members' dtypes; None for members without anything dead."""
        members = self.groups.members
        device = members[0].values.device
        if self._laid is None or self._device != device:
            present = [here.to(device) for here in self.present]
            some = torch.stack([here.logical_not().any() for here in present]).tolist()
            cut = [i for i, dead in enumerate(some) if dead]
            laid = {i: present[i].to(members[i].values.dtype) for i in cut}
            if launching_costs(device) and sum(members[i].values.numel() for i in cut) <= LIMIT:
                # Of equal shapes all are multiplied by one kernel.
                laid = {i: torch.empty_like(members[i].values, dtype=m.dtype).copy_(m) for i, m in laid.items()}
            self._laid, self._device = [laid.get(i) for i in range(len(members))], device
            self._hidden = None if self._hidden is None else [hidden.to(device) for hidden in self._hidden]
            self._behind = {} if self._hidden is None else {i: 1 - mask for i, mask in laid.items()}
        return self._laid
