"""From labels to units: the classes of labels that can be removed are numbered, everything else is said in numbers."""

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_prune.graph.channel_graph import ChannelGraph, ParameterAxis, Reader
from ssl_prune.graph.export.module_kinds import attention_modules
from ssl_prune.graph.export.response_norms import response_norms
from ssl_prune.graph.labels.label_pass import LabelPass
from ssl_prune.graph.labels.label_types import Contraction
from ssl_prune.graph.labels.pin_reasons import Causes
from ssl_prune.graph.labels.union_find import PINNED

__all__ = ["resolved"]

KEPT = -1


def resolved(done: LabelPass) -> ChannelGraph:
    """Number the removable classes of a pass that has run, and translate its labels into units."""
    program, labels = done.program, done.labels
    used = {key: labels.sets.find(ids) for key, ids in labels.axes.items() if key in labels.roles}
    written = {key: roots for key, roots in used.items() if labels.roles[key] == "writer"}
    # An axis that no rule spoke for (a parameter used in an unknown way) keeps what it is tied to.
    unspoken = {key: ids for key, ids in labels.axes.items() if key not in labels.roles}
    silent = [labels.sets.find(ids) for ids in unspoken.values()]
    starts = [*written.values(), *(labels.sets.find(ids) for ids in labels.virtual)]
    removable = torch.cat(starts).unique() if starts else torch.zeros(0, dtype=torch.long)
    removable = removable[removable > PINNED]
    if silent:
        removable = removable[~torch.isin(removable, torch.cat(silent))]

    def units(ids: Tensor) -> Tensor:
        roots = labels.sets.find(ids).contiguous()
        if not len(removable):
            return torch.full_like(roots, KEPT)
        place = torch.searchsorted(removable, roots).clamp(max=len(removable) - 1)
        return torch.where(removable[place] == roots, place, KEPT)

    axes = tuple(
        ParameterAxis(name, axis, labels.roles[name, axis], units(ids))
        for (name, axis), ids in labels.axes.items()
        if (name, axis) in labels.roles
    )
    readers = tuple(_reader(contraction, units) for contraction in labels.contractions)
    pinned = tuple(
        (reason, len(torch.cat(ids).unique())) for reason, ids in labels.pins.items() if torch.cat(ids).numel()
    )
    kept = [axis for axis in axes if bool((axis.units >= 0).any())]
    parameters = tuple(axis for axis in kept if axis.name in program.parameters)
    buffers = tuple(axis for axis in kept if axis.name not in program.parameters)
    boxes = {node: found for node, ids in done.boxes.items() if bool(((found := units(ids)) >= 0).any())}
    equal = tuple((found, vanish) for ids, vanish in labels.equals if bool(((found := units(ids)) >= 0).any()))
    level = tuple(found for ids in labels.levels if bool(((found := units(ids)) >= 0).any()))
    alike = tuple((units(a), units(b)) for a, b in labels.alikes)
    alike = tuple((a, b) for a, b in alike if bool((a >= 0).any() | (b >= 0).any()))
    shared = tuple((units(plane), units(many)) for plane, many in labels.shared)
    others, packed = attention_modules(program)
    return ChannelGraph(
        program,
        len(removable),
        parameters,
        buffers,
        readers,
        pinned,
        boxes,
        equal,
        alike,
        level,
        done.unreached,
        (*others, *(found.module for found in response_norms(program))),
        packed,
        _causes(done, unspoken),
        shared=shared,
        straight={node: axes for node, axes in labels.whole_slices.items() if node in boxes},
    )


def _causes(done: LabelPass, silent: dict[tuple[str, int], Tensor]) -> Causes:
    """Why what stays does; the second axis of a weight of several groups runs over other channels in each."""
    labels = done.labels
    axes, met = dict(labels.axes), dict[tuple[str, int], str]()
    for c in labels.contractions:
        if c.weight is not None and 1 < c.groups < len(c.read):
            axes[c.weight, 1] = c.read if c.in_axis == 1 else c.written
            if c.source in done.origin:
                met[c.weight, 1] = done.origin[c.source]
    return Causes(labels.sets, axes, silent, met)


def _reader(c: Contraction, units: Callable[[Tensor], Tensor]) -> Reader:
    return Reader(
        c.node, c.module, c.weight, c.source, c.source_axes, units(c.read), units(c.written), c.in_axis, c.rows,
        c.columns, c.groups, c.padded, c.other, c.other_axes, c.state, None if c.stacked is None else units(c.stacked),
    )  # fmt: skip
