"""What ties a partition to one optimizer: which members it steps, and with which learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_prune.groups import Partition


@dataclass(eq=False)
class Binding:
    """One optimizer and the members of the partition that it steps.

    Args:
        optimizer: the optimizer.
        groups: the partition restricted to its members (the partition itself if it steps all).
        positions: the members' positions in the whole partition.
        param_groups: for each member, the position in ``optimizer.param_groups`` of its settings.
        spread: ``(G,)`` for each group the same position; None if a group spans several.
    """

    optimizer: Optimizer
    groups: Partition
    positions: list[int]
    param_groups: list[int]
    spread: Tensor | None

    def settings(self) -> list[dict[str, Any]]:
        """For each member its entry of ``optimizer.param_groups``, as it is now."""
        return [self.optimizer.param_groups[i] for i in self.param_groups]

    def learning_rates(self) -> float | Tensor | None:
        """The current lr: one for all, ``(G,)`` if they differ between groups, None if they differ inside a group."""
        rates = {i: self.optimizer.param_groups[i]["lr"] for i in set(self.param_groups)}
        first = next(iter(rates.values()))
        # A tensor lr is not looked at unless there are several: comparing it would wait for the device.
        if len(rates) == 1 or all(rate is first or float(rate) == float(first) for rate in rates.values()):
            return first  # type: ignore[no-any-return]
        if self.spread is None:
            return None
        sizes = self.groups.sizes
        table = torch.zeros(len(self.optimizer.param_groups), dtype=sizes.dtype)
        for i, rate in rates.items():
            table[i] = float(rate)
        return table.to(sizes.device)[self.spread.to(sizes.device)]


def skipped(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler told a fused optimizer to leave this step out."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def refuse_fused(optimizers: Sequence[Optimizer], why: str) -> None:
    """Refuse fused optimizers under a gradient scaler: they unscale inside their step; `why` that is too late.

    Raises:
        RuntimeError: one of them is fused.
    """
    for optimizer in optimizers:
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            raise RuntimeError(
                f"{type(optimizer).__name__}(fused=True) under a gradient scaler keeps its gradients scaled until its step, "
                f"{why}: use fused=False, bf16, or the proximal solver"
            )


def bind(groups: Partition, optimizers: Sequence[Optimizer]) -> list[Binding]:
    """Divide a partition between optimizers.

    Raises:
        TypeError: something is not a torch optimizer.
        ValueError: a parameter is in none or in several of the optimizers, or a group spans two.
    """
    homes: dict[int, tuple[int, int]] = {}
    for o, optimizer in enumerate(optimizers):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected torch optimizers, got {type(optimizer).__name__}")
        for g, settings in enumerate(optimizer.param_groups):
            for param in settings["params"]:
                if homes.setdefault(id(param), (o, g))[0] != o:
                    raise ValueError(f"a parameter of shape {tuple(param.shape)} is in two of the attached optimizers")
    for member in groups.members:
        if id(member.param) not in homes:
            raise ValueError(
                f"{member.name} is in none of the attached optimizers: attach the one that trains it, or leave the "
                "layer out with exclude"
            )
    bindings = []
    for o, optimizer in enumerate(optimizers):
        own = [i for i, m in enumerate(groups.members) if homes[id(m.param)][0] == o]
        if own:
            part = groups if len(own) == len(groups.members) else groups.restrict(own)
            places = [homes[id(groups.members[i].param)][1] for i in own]
            bindings.append(Binding(optimizer, part, own, places, _spread(part, places)))
    _refuse_spanning(groups, bindings)
    return bindings


def _spread(part: Partition, places: Sequence[int]) -> Tensor | None:
    """``(G,)`` the one value in `places` that a group's members have; None if some group has two."""
    if len(set(places)) == 1:
        return torch.full((1,), places[0]).expand(part.num_groups)
    params = [m.param for m in part.members]
    least = torch.full((part.num_groups,), places[0])
    seen = torch.zeros(part.num_groups, dtype=torch.bool)
    for place in sorted(set(places)):
        here = _touched(part, [p for p, q in zip(params, places, strict=True) if q == place])
        if bool((here & seen).any()):
            return None
        least[here], seen = place, seen | here
    return least


def _touched(part: Partition, params: Sequence[nn.Parameter]) -> Tensor:
    """``(G,)`` bool: the group has an entry in one of the parameters."""
    chosen = {id(p) for p in params}
    marks = [(torch.ones_like if id(m.param) in chosen else torch.zeros_like)(m.values) for m in part.members]
    return part.sum(marks).cpu() > 0


def _refuse_spanning(groups: Partition, bindings: Sequence[Binding]) -> None:
    if len(bindings) < 2:
        return
    touched = [_touched(groups, [m.param for m in b.groups.members]) for b in bindings]
    shared = torch.stack(touched).sum(0) > 1
    if bool(shared.any()):
        g = int(shared.nonzero()[0])
        raise ValueError(
            f"{groups.describe(g)} spans two of the attached optimizers: its members must take one step together; "
            "put them into one optimizer or leave the layer out with exclude"
        )
