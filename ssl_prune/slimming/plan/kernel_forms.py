"""Kernel shapes: positions and columns that a cut layer does not read become smaller kernels and dense products.

Positions of a kernel that are zero over a whole layer are cropped away, and padding follows. Other all-zero columns can
be left out by gathering the rest, which is faster for some shapes and slower for others: `fastest` measures it.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.graph.export.program import module_of
from ssl_prune.latency import compare_latency
from ssl_prune.slimming.analysis.dependence_masks import any_along
from ssl_prune.slimming.analysis.liveness import Liveness
from ssl_prune.slimming.modules.cropped_conv import CroppedConv, CroppedConv1d, CroppedConv2d, CroppedConv3d, margins
from ssl_prune.slimming.plan.constant_folding import gathered
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import Inputs, evaluation
from ssl_prune.utils.tensors import run_aside

__all__ = ["Choice", "Form", "cropped", "fastest", "forms", "kernel_forms", "smallest"]

_CROPPED = (CroppedConv1d, CroppedConv2d, CroppedConv3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_CROPPED)

# A crop that is not the same on both sides costs a call more and, often, a copy of the input. In measurements on a CPU
# it paid from about this many weights a group on, each of them a multiplication at every position.
_WORTH_A_FRAME = 256

# Measured times scatter by some per cent, and the simpler layer wins a draw.
_CLEARLY_FASTER = 0.95


@dataclass(frozen=True)
class Form:
    """One way to write a layer: its plan, and how many weights that leaves."""

    plan: ModulePlan
    weights: int


Choice = Callable[[SlimPlan, Mapping[str, list[Form]]], dict[str, ModulePlan]]


@dataclass(frozen=True)
class _Crop:
    """What stays of a kernel along one axis: positions `low`, `low + step`, ... and the margins of the input then."""

    positions: tuple[int, ...]
    step: int
    margin: tuple[int, int]

    @property
    def size(self) -> int:
        return len(self.positions)

    @property
    def plain(self) -> bool:
        return self.margin[0] == self.margin[1] >= 0


def forms(live: Liveness, plans: Mapping[str, ModulePlan]) -> dict[str, list[Form]]:
    """Module -> the ways to write it, for convolutions and linear layers with all-zero columns or positions.

    The first form is as fast as the layer or faster: the kernel cropped where that is an ordinary convolution, or where
    it saves much. The others leave out more and pay for it: the tightest crop (a regular comb of positions becomes
    dilation), chosen channels before a cropped kernel, chosen columns in a dense product.

    Args:
        live: the network, and the weights as looked at.
        plans: the cut so far; columns count where they are zero in the rows that stay.
    """
    found = {}
    for name, layer in _layers(live.subject):
        plan = plans.get(name, ModulePlan())
        if plan.becomes is not None:
            continue  # its zeros are not those of the dense layer
        read = live.weights[f"{name}.weight"].detach() != 0
        if plan.grouped is not None:
            read = gathered(read, plan.grouped)
        if plan.fold is not None and plan.fold.into is not None:
            read[:, plan.fold.into] |= read[:, plan.fold.channels].any(1)
        for axis, kept in plan.keep.get("weight", {}).items():
            read = read.index_select(axis, torch.tensor(kept, device=read.device))
        used = any_along(read, 0).cpu()
        if bool(used.all()):
            continue
        if not bool(used.any()):
            used.view(-1)[0] = True  # a layer needs one weight
        write = _linear if isinstance(layer, nn.Linear) else kernel_forms
        several = list(write(layer, plan, used, len(read)))
        if len(several) > 1 or several[0].plan is not plan:
            found[name] = several
    return found


def cropped(plan: SlimPlan, several: Mapping[str, list[Form]]) -> dict[str, ModulePlan]:
    """The form of each module that is never slower: what `slim` does without `columns`."""
    return {name: found[0].plan for name, found in several.items()}


def smallest(plan: SlimPlan, several: Mapping[str, list[Form]]) -> dict[str, ModulePlan]:
    """The form of each module with the fewest weights; of equals the simplest."""
    return {name: min(found, key=lambda form: form.weights).plan for name, found in several.items()}


def fastest(
    subject: Subject, plan: SlimPlan, several: Mapping[str, list[Form]], rounds: int = 30
) -> dict[str, ModulePlan]:
    """The form of each module that runs fastest here, at the sizes and in the batch that the example brings to it.

    The forms are timed in turns, and one is preferred to the first where its median is clearly smaller.

    Args:
        subject: the network; the example as large a batch as it will be used with.
        plan: the cut without forms.
        several: forms of each module.
        rounds: measured calls of each form.
    """
    chosen = cropped(plan, several)
    longest = max((len(found) for found in several.values()), default=0)
    networks = []
    for i in range(longest):
        plans = {name: found[min(i, len(found) - 1)].plan for name, found in several.items()}
        networks.append(replace(plan, modules={**plan.modules, **plans}).apply(subject.model))
    calls = _calls(networks[0], subject.inputs, list(several)) if networks else {}
    for name, found in several.items():
        if not calls[name]:  # never run as a module
            continue
        best = _CLEARLY_FASTER
        for form, network in zip(found[1:], networks[1:], strict=False):
            times = [
                compare_latency(networks[0].get_submodule(name), network.get_submodule(name), (x,), rounds=rounds)
                for x in calls[name]
            ]
            share = sum(other for _, other in times) / sum(first for first, _ in times)
            if share < best:
                best, chosen[name] = share, form.plan
    return chosen


def _calls(network: nn.Module, inputs: Inputs, names: Sequence[str]) -> dict[str, list[Tensor]]:
    """One input of every shape that each module meets."""
    found: dict[str, dict[torch.Size, Tensor]] = {name: {} for name in names}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args:
                found[name].setdefault(args[0].shape, args[0].detach().clone())

        return hook

    hooks = [network.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        with evaluation(network):
            run_aside(network, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: list(shapes.values()) for name, shapes in found.items()}


def _layers(subject: Subject) -> Iterator[tuple[str, nn.Module]]:
    """Convolutions and linear layers that nothing but their own forward looks into: they can be rewritten."""
    names: dict[nn.Module, list[str]] = {}
    owners: dict[Tensor, int] = {}
    graph = subject.graph
    for name, module in subject.model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for module in names:
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[parameter] = owners.get(parameter, 0) + 1
    placeholders = {graph.program.tensors.get(node.name): node for node in graph.program.graph.nodes}
    contractions = {reader.node: reader for reader in graph.readers}
    for module, (name, *others) in names.items():
        if others or type(module) not in (nn.Linear, *_CONVOLUTIONS) or getattr(module, "channels", None) is not None:
            continue
        weight = module._parameters.get("weight")
        node = placeholders.get(f"{name}.weight")
        if weight is None or node is None or owners[weight] > 1 or module._forward_hooks or module._forward_pre_hooks:
            continue
        if all(
            user in contractions and contractions[user].weight == f"{name}.weight" and module_of(user) == name
            for user in node.users
        ):
            yield name, module


def _linear(layer: nn.Module, plan: ModulePlan, used: Tensor, rows: int) -> Iterator[Form]:
    yield Form(plan, rows * len(used))
    columns = used.nonzero().flatten().tolist()
    yield Form(replace(plan, becomes={"kind": "Columns", "columns": columns}), rows * len(columns))


def kernel_forms(layer: Any, plan: ModulePlan, used: Tensor, rows: int) -> Iterator[Form]:
    """Forms of a convolution whose ``(I, *kernel)`` columns are `used`."""
    around, groups = margins(layer), plan.attributes.get("groups", layer.groups)
    axes = range(1, used.dim())
    alive = [used.movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist() for axis in axes]
    every = [list(_crops(*each)) for each in zip(used.shape[1:], alive, layer.dilation, around, strict=True)]
    boxes = [[crop for crop in crops if crop.step == 1] for crops in every]
    plain = [
        min((c for c in crops if c.plain or c.margin == margin), key=_order)
        for crops, margin in zip(boxes, around, strict=True)
    ]
    tight = [min(crops, key=_order) for crops in boxes]
    saved = (_positions(plain) - _positions(tight)) * len(used) * rows // groups
    first = tight if saved >= _WORTH_A_FRAME else plain
    if groups > 1 and _positions(first) == 1:  # torch runs grouped convolutions of one position slowly
        first = [*first[:-1], _Crop(tuple(range(used.shape[-1])), 1, around[-1])]
    tight = [min(crops, key=_order) for crops in every]
    yield _cropped(layer, plan, first, used, rows)
    if tight != first:
        yield _cropped(layer, plan, tight, used, rows)
    if groups > 1:
        return
    channels = used.flatten(1).any(1).nonzero().flatten().tolist()
    if len(channels) < len(used):
        yield _cropped(layer, plan, tight, used, rows, channels)
    if getattr(layer, "frame_mode", "constant") == "constant" and layer.padding_mode == "zeros":
        columns = used.nonzero().tolist()
        becomes = {"kind": "Columns", "columns": columns}
        yield Form(replace(plan, becomes=becomes), rows * len(columns))


def _order(crop: _Crop) -> tuple[int, bool]:
    return crop.size, not crop.plain


def _positions(crops: Sequence[_Crop]) -> int:
    return math.prod(crop.size for crop in crops)


def _crops(size: int, alive: list[int], dilation: int, margin: tuple[int, int]) -> Iterator[_Crop]:
    """Every way to keep the positions `alive` of a kernel with one start, end and step."""
    for low, high in itertools.product(range(alive[0] + 1), range(alive[-1], size)):
        beyond = (margin[0] - low * dilation, margin[1] - (size - 1 - high) * dilation)
        step = math.gcd(*(place - low for place in (*alive, high)))
        for between in {1, max(step, 1)}:
            yield _Crop(tuple(range(low, high + 1, between)), between, beyond)


def _cropped(
    layer: Any,
    plan: ModulePlan,
    crops: Sequence[_Crop],
    used: Tensor,
    rows: int,
    channels: list[int] | None = None,
) -> Form:
    """The plan of a layer with its kernel cropped."""
    sizes = [crop.size for crop in crops]
    weights = rows * math.prod(sizes) * (len(used) if channels is None else len(channels))
    if sizes == list(used.shape[1:]) and channels is None:
        return Form(plan, weights)
    cut = dict(plan.keep.get("weight", {}))
    for axis, crop in enumerate(crops, 2):
        if crop.size < used.shape[axis - 1]:
            kept = cut.get(axis, range(used.shape[axis - 1]))
            cut[axis] = [kept[place] for place in crop.positions]
    inside = [min(crop.margin) if min(crop.margin) >= 0 else 0 for crop in crops]
    frame = [[low - p, high - p] for p, (low, high) in zip(inside, (crop.margin for crop in crops), strict=True)]
    mode = getattr(layer, "frame_mode", "constant")
    framed = any(n for pair in frame for n in pair)
    if layer.padding_mode != "zeros" and (framed or channels is not None):  # reflections and the like are made outside
        frame, inside, mode = [list(crop.margin) for crop in crops], [0] * len(crops), layer.padding_mode
    elif mode != "constant":
        frame, inside = [list(crop.margin) for crop in crops], [0] * len(crops)
    attributes = {
        **plan.attributes,
        "kernel_size": sizes,
        "dilation": [crop.step * d if n > 1 else 1 for crop, d, n in zip(crops, layer.dilation, sizes, strict=True)],
        "padding": inside,
    }
    if layer.padding_mode != "zeros":
        attributes["_reversed_padding_repeated_twice"] = [p for p in reversed(inside) for _ in range(2)]
    becomes: dict[str, Any] | None = None
    if channels is not None:
        kept = cut.get(1, range(len(used)))
        cut[1] = [kept[channel] for channel in channels]
        attributes["in_channels"] = len(channels)
    if isinstance(layer, CroppedConv) and channels is None:
        attributes["frame"] = frame
    elif framed or channels is not None:
        becomes = {"kind": "Cropped", "frame": frame, "mode": mode, "channels": channels}
    keep = {**plan.keep, "weight": cut}
    return Form(replace(plan, keep=keep, attributes=attributes, becomes=becomes), weights)
