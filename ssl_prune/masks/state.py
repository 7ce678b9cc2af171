"""Masks as plain data, in this form and in that of earlier checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssl_prune.groups import Partition
from ssl_prune.utils.bits import packed, unpacked
from ssl_prune.utils.checks import check_state

if TYPE_CHECKING:
    from ssl_prune.masks.mask import Mask

__all__ = ["check_bits", "check_entries", "fitting", "saved", "taken_over"]


def saved(mask: Mask, hidden: Sequence[Tensor] | None) -> dict[str, Any]:
    """See `Mask.state_dict`."""
    if mask.groups.is_sharded:
        raise ValueError(
            f"{mask.groups.members[0].name} is sharded (a DTensor), expected whole parameters: each process holds the mask of "
            "its own part; read the mask from the zeros again with Mask.of_zeros"
        )
    entries = mask.entries
    return {
        "groups": mask.groups.num_groups,
        "alive": packed(mask.alive),
        "entries": None if entries is None else [None if bits is None else packed(bits) for bits in entries],
        "hidden": None if hidden is None else [values.clone() for values in hidden],
        "forward": mask.forward,
        "gradient": mask.gradient,
        "storage": mask.storage,
    }


def fitting(
    state: Mapping[str, Any], groups: Partition
) -> tuple[Tensor, list[Tensor | None] | None, list[Tensor] | None]:
    """Living groups, living entries and hidden weights of a state.

    Raises:
        ValueError: they are those of another partition.
    """
    check_state(state, ["groups", "alive", "entries", "hidden", "forward", "gradient", "storage"], "Mask")
    members, entries, hidden = groups.members, state["entries"], state["hidden"]
    try:
        if state["groups"] != groups.num_groups:
            raise ValueError(f"it has {state['groups']} groups")
        alive = unpacked(state["alive"], (groups.num_groups,))
        bits = None
        if entries is not None:
            pairs = zip(entries, members, strict=True)
            bits = [None if e is None else unpacked(e, m.values.shape).to(m.values.device) for e, m in pairs]
        if hidden is not None:
            if [h.shape for h in hidden] != [m.values.shape for m in members]:
                raise ValueError(f"it keeps weights of shapes {[tuple(h.shape) for h in hidden]}")
            hidden = [h.to(m.values, copy=True) for h, m in zip(hidden, members, strict=True)]
    except ValueError as error:
        raise ValueError(f"the state's mask does not fit {groups}: {error}; it belongs to another network") from error
    return alive, bits, hidden


def taken_over(masks: Sequence[Tensor], groups: Partition) -> tuple[Tensor, list[Tensor | None]]:
    """Living groups and entries of a mask in the form of earlier checkpoints: a tensor a member that broadcasts to it.

    Raises:
        ValueError: they are those of another partition.
    """
    got = [tuple(mask.shape) for mask in masks]
    if len(got) != len(groups.members) or any(
        len(g) != m.param.ndim or any(i not in (1, p) for i, p in zip(g, m.param.shape, strict=True))
        for g, m in zip(got, groups.members, strict=True)
    ):
        wanted = [tuple(m.param.shape) for m in groups.members]
        raise ValueError(f"the state's masks {got} do not fit this partition's parameters {wanted}")
    here = [m.to(n.values.device).expand(n.values.shape) != 0 for m, n in zip(masks, groups.members, strict=True)]
    alive = groups.sum(here) > 0
    laid = groups.expand(alive, fill=True)
    entries = [None if bool((a == h).all()) else h.contiguous() for a, h in zip(laid, here, strict=True)]
    return alive, entries


def check_entries(entries: Sequence[Tensor | None] | None, groups: Partition) -> None:
    """Refuse entries that do not fit the members.

    Raises:
        ValueError: they do not; the message names the parameter.
    """
    if entries is None:
        return
    if len(entries) != len(groups.members):
        raise ValueError(f"entries must be one tensor or None a member: {len(groups.members)}, got {len(entries)}")
    for bits, member in zip(entries, groups.members, strict=True):
        if bits is not None:
            check_bits(bits, tuple(member.values.shape), f"{member.name}: entries")


def check_bits(bits: object, shape: tuple[int, ...], name: str) -> None:
    """Refuse what is no bool tensor of this shape.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(bits, Tensor):
        raise ValueError(f"{name} must be a bool tensor of shape {shape}, got {bits!r}")
    if bits.dtype != torch.bool or bits.shape != shape:
        raise ValueError(f"{name} must be {shape} bool, got {tuple(bits.shape)} {bits.dtype}")
