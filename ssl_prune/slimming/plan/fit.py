"""Whether the plan of a module fits that module: positions within its tensors, attributes that say what the cut leaves."""

import reprlib
from typing import Any

from torch import Tensor, nn

from ssl_prune.slimming.modules.pruned_attention import attention_plan
from ssl_prune.slimming.plan.attributes import layer_attributes, numbers
from ssl_prune.slimming.plan.kernel_fit import KERNEL, check_kernel, check_positions, refuse

__all__ = ["check_fit"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FIXED = ("stride", "padding_mode", "output_padding", "transposed")
_ALONE = ("num_features",)  # of a norm without tensors by which its width is known
_PARTS: dict[str, type | tuple[type, ...]] = {
    "Uneven": nn.RNNBase,
    "Attention": nn.MultiheadAttention,
    "Columns": (nn.Linear, *_CONVOLUTIONS),
    "Cropped": _CONVOLUTIONS,
}


def check_fit(name: str, owner: nn.Module, plan: Any) -> None:
    """Refuse what would change `owner` into anything but a smaller form of itself.

    Args:
        name: of the module, for the message.
        owner: the module.
        plan: its `ModulePlan`.

    Raises:
        SlimError: names the entry.
    """
    kind = None if plan.becomes is None else plan.becomes.get("kind")
    if kind is not None and not name:
        refuse(name, "becomes", kind, "the network itself to stay")
    if kind in _PARTS and not isinstance(owner, _PARTS[kind]):
        refuse(name, "becomes", kind, f"another kind for a {type(owner).__name__}")
    if plan.fold is not None or plan.grouped is not None:
        _check_weight(name, owner, plan)
    for leaf, order in (plan.ordered or {}).items():
        _check_order(name, owner, leaf, order)
    for leaf, axes in plan.keep.items():
        _check_kept(name, owner, leaf, axes, plan)
    convolution = isinstance(owner, _CONVOLUTIONS)
    of_torch = type(owner).__module__.startswith("torch.nn.") and kind not in ("Uneven", "Attention")
    known = layer_attributes(owner, plan.keep, plan.grouped) if of_torch else {}
    for key, value in plan.attributes.items():
        if of_torch and key not in (*known, *(KERNEL if convolution else ()), *_ALONE):
            refuse(name, f"attributes[{key!r}]", value, f"only {', '.join(known) or 'nothing'}")
        if not (convolution and key in KERNEL):
            _check_attribute(name, owner, key, value)
    for key, value in known.items():
        got = plan.attributes.get(key, getattr(owner, key))
        if got != value:
            refuse(name, f"attributes[{key!r}]", got, f"{value}, which is what the cut leaves")
    if convolution:
        check_kernel(name, owner, plan)
    if kind == "Columns":
        _check_columns(name, owner, plan)
    if kind == "ResponseNorm":
        _check_response_norm(name, owner, plan.becomes)
    if kind == "Attention":
        own = attention_plan(owner, plan.keep)
        if own is not None and own != plan.becomes:
            refuse(name, "becomes", plan.becomes, f"{own}, which is what the cut leaves")


def _check_order(name: str, owner: nn.Module, leaf: str, order: dict[str, Any]) -> None:
    tensor = owner._parameters[leaf] if leaf in owner._parameters else owner._buffers.get(leaf)
    if tensor is None or tensor.dim() <= order["axis"]:
        refuse(name, f"ordered[{leaf!r}]", order["axis"], "an axis of a tensor behind its first one")
    positions = list(range(tensor.shape[order["axis"]]))
    if len(order["rows"]) != len(tensor) or any(sorted(row) != positions for row in order["rows"]):
        refuse(
            name, f"ordered[{leaf!r}]", order["rows"], f"the positions below {len(positions)} in {len(tensor)} orders"
        )


def _check_response_norm(name: str, owner: nn.Module, becomes: dict[str, Any]) -> None:
    """Its two vectors are all that the module has, and as long as the mean is wide."""
    own = {leaf: parameter.numel() for leaf, parameter in owner.named_parameters()}
    if own != {becomes["scale"]: becomes["width"], becomes["shift"]: becomes["width"]} or list(owner.children()):
        refuse(name, "becomes", becomes["scale"], f"a module with a scale and a shift of {becomes['width']} numbers")
    if len(becomes["eps"]) != 1 or becomes["channel"] in becomes["axes"] or not becomes["axes"]:
        refuse(name, "becomes", becomes["axes"], "axes of positions beside that of the channels, and one number eps")


def _check_weight(name: str, owner: Any, plan: Any) -> None:
    """Of constants that go into a bias, and of groups that keep columns of their own."""
    weight, groups = getattr(owner, "weight", None), getattr(owner, "groups", 1)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not hasattr(owner, "bias"):
        refuse(name, "fold" if plan.fold is not None else "grouped", type(owner).__name__, "a layer with a weight")
    if plan.grouped is not None:
        if plan.grouped["groups"] != groups:
            refuse(name, "grouped.groups", plan.grouped["groups"], str(groups))
        for columns in plan.grouped["columns"]:
            check_positions(name, "grouped.columns", columns, weight.shape[1])
    if plan.fold is not None:
        into, width = plan.fold.into, weight.shape[1]
        check_positions(name, "fold.channels", plan.fold.channels, width * (groups if into is None else 1))
        if into is not None and not 0 <= into < width:
            refuse(name, "fold.into", into, f"one of {width} channels")


def _check_kept(name: str, owner: Any, leaf: str, axes: dict[int, list[int]], plan: Any) -> None:
    tensor = owner._parameters[leaf] if leaf in owner._parameters else owner._buffers.get(leaf)
    made = leaf == "bias" and tensor is None and plan.fold is not None and plan.fold.into is None
    shape = list(owner.weight.shape[:1] if made else () if tensor is None else tensor.shape)
    if tensor is None and not made:
        refuse(name, f"keep[{leaf!r}]", leaf, f"a tensor of this {type(owner).__name__}")
    if leaf == "weight" and plan.grouped is not None:
        shape[1] = max(map(len, plan.grouped["columns"]))
    for axis, kept in axes.items():
        if not 0 <= axis < len(shape):
            refuse(name, f"keep[{leaf!r}]", axis, f"one of {len(shape)} axes")
        check_positions(name, f"keep[{leaf!r}][{axis}]", kept, shape[axis])


def _check_attribute(name: str, owner: nn.Module, key: str, value: Any) -> None:
    """A number that states a width may become smaller, and nothing else may change."""
    where, old = f"attributes[{key!r}]", vars(owner).get(key)
    if key in _FIXED:
        refuse(name, where, value, "only widths")
    before, after = numbers(old), numbers(value)
    if before is None or after is None or isinstance(old, int) != isinstance(value, int) or len(before) != len(after):
        refuse(name, where, value, f"what fits {reprlib.repr(old)}, as this {type(owner).__name__} has it")
    if any(not 0 <= new <= was for was, new in zip(before, after, strict=True)):
        refuse(name, where, value, f"no more than {old}")


def _check_columns(name: str, owner: Any, plan: Any) -> None:
    columns, kept = plan.becomes["columns"], plan.keep.get("weight", {})
    sizes = [len(kept.get(axis, range(size))) for axis, size in enumerate(owner.weight.shape)][1:]
    places = [[place] if isinstance(place, int) else place for place in columns]
    if getattr(owner, "groups", 1) != 1:
        refuse(name, "becomes", "Columns", f"a convolution of one group, which {name} is not")
    if any(len(p) != len(sizes) or any(not 0 <= i < n for i, n in zip(p, sizes, strict=True)) for p in places):
        refuse(name, "becomes.columns", columns, f"positions within {tuple(sizes)}")
