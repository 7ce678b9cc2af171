"""Widths that one number of a module's code states: what stays of them is made equally long."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from ssl_prune.graph import ChannelGraph
from ssl_prune.graph.export.program import modules_of
from ssl_prune.slimming.analysis.rectangular import lengthened

__all__ = ["evened"]

Place = tuple[Tensor, int]  # units of a value, and one of its axes


def evened(graph: ChannelGraph, stays: Tensor) -> Tensor:
    """``(U,)`` more units, so that a first group of axes of one size becomes equally long again; none where all are.

    They are axes of values that the code of one module handles, all of which lose something: the dimensions of heads,
    which are often one number for queries, keys and values.

    Args:
        graph: the channel graph.
        stays: ``(U,)`` what stays.
    """
    found = torch.zeros(len(stays) + 1, dtype=torch.bool)
    whole = torch.cat([stays, torch.ones(1, dtype=torch.bool)])
    # Heads and their dimensions come before the one axis that they lie on: its length follows.
    for places in sorted(_of_one_size(graph), key=lambda each: -max(_moving(units) for units, _ in each)):
        lengths = [int(whole[units].sum(axis).max()) for units, axis in places]
        shorter = [n for n, (units, axis) in zip(lengths, places, strict=True) if n < units.shape[axis]]
        longest = max(shorter, default=0)
        for left, (units, axis) in zip(lengths, places, strict=True):
            if 0 < left < longest:
                mask = whole[units].movedim(axis, -1)
                rows = mask.reshape(-1, mask.shape[-1])
                grown = lengthened(rows, rows.any(1), longest).view(mask.shape) & ~mask
                found[units.movedim(axis, -1)[grown]] = True
        if bool(found[:-1].any()):
            break
    return found[:-1]


def _of_one_size(graph: ChannelGraph) -> Iterator[list[Place]]:
    """Places of one size in the code of one module."""
    found: dict[tuple[str, int, bool], list[Place]] = {}
    for node, units in graph.boxes.items():
        if not isinstance(node.meta["val"], Tensor):
            continue
        several = _moving(units) > 1
        for scope in {_scope(near) for near in (node, *node.users)}:
            for axis, size in enumerate(units.shape):
                if size > 1:
                    found.setdefault((scope, size, several), []).append((units, axis))
    yield from found.values()


def _scope(node: fx.Node) -> str:
    return (modules_of(node) or ("",))[-1]


def _moving(units: Tensor) -> int:
    return sum(size > 1 for size in units.shape)
