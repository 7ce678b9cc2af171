"""Why positions of parameters can never be removed, looked up position by position when someone asks."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from ssl_prune.graph.labels.union_find import PINNED, UnionFind

__all__ = ["Causes"]

_UNKNOWN = "they belong to a value that no layer writes"


class Causes:
    """What a label pass leaves behind to say which rule pinned a position, at no cost to networks that never ask.

    Args:
        sets: its labels.
        axes: (parameter, axis) -> labels of the positions.
        silent: those of `axes` that no rule spoke for.
        met: (parameter, axis) -> why those of its labels are pinned that are no parameter's.
    """

    def __init__(
        self,
        sets: UnionFind,
        axes: Mapping[tuple[str, int], Tensor],
        silent: Mapping[tuple[str, int], Tensor],
        met: Mapping[tuple[str, int], str],
    ) -> None:
        self._sets, self._axes, self._silent, self._met = sets, axes, silent, met

    def of(self, name: str, axis: int, positions: Tensor) -> list[str]:
        """The first reason for each position of an axis that nothing can remove.

        Args:
            name: of a parameter or buffer.
            axis: of it.
            positions: ``(n,)`` where on the axis.
        """
        if (name, axis) not in self._axes:
            return ["the forward does not use it"] * len(positions)
        labels = self._axes[name, axis]
        labels = labels[positions % len(labels)]  # columns of several groups are counted through all of them
        roots = self._sets.find(labels)
        found = ["no layer writes them"] * len(labels)
        for place, root in enumerate(roots.tolist()):
            if root in self._unspoken:
                other, along = self._unspoken[root]
                found[place] = f"axis {along} of {other} is used in a way that no rule speaks for"
        pinned = roots == PINNED
        which = self._first(labels[pinned])
        for place, reason in zip(pinned.nonzero().flatten().tolist(), which.tolist(), strict=True):
            known = self._sets.pinned[reason][2] if reason >= 0 else self._met.get((name, axis))
            found[place] = str(known or _UNKNOWN)
        return found

    @cached_property
    def _unspoken(self) -> dict[int, tuple[str, int]]:
        """Root -> an axis that no rule spoke for."""
        return {root: axis for axis, ids in self._silent.items() for root in self._sets.find(ids).unique().tolist()}

    @cached_property
    def _events(self) -> tuple[Tensor, Tensor]:
        """For each label the event that pinned it as a root (-1: none), and the label that it met there."""
        event = torch.full((len(self._sets),), -1)
        met = torch.zeros(len(self._sets), dtype=torch.long)
        for place in reversed(range(len(self._sets.pinned))):  # the first one counts
            roots, others, _ = self._sets.pinned[place]
            event[roots], met[roots] = place, others
        return event, met

    def _first(self, labels: Tensor) -> Tensor:
        """The event behind each pinned label, back over all the sets that passed it on."""
        event, met = self._events
        while True:
            tops = self._sets.before_pinned(labels)
            on = (met[tops] != PINNED) & (tops != PINNED)
            if not bool(on.any()):
                return event[tops]
            labels = torch.where(on, met[tops], tops)
