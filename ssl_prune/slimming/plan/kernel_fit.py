"""Whether a kernel that a plan crops reads the input where it read it before."""

import reprlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.modules.cropped_conv import margins
from ssl_prune.slimming.plan.attributes import numbers

__all__ = ["KERNEL", "check_kernel", "check_positions", "refuse"]

KERNEL = ("kernel_size", "dilation", "padding", "_reversed_padding_repeated_twice", "frame")


def check_kernel(name: str, owner: Any, plan: Any) -> None:
    """Refuse sizes, dilations, paddings and frames that are not those which the cut of a kernel leaves.

    Args:
        name: of the convolution, for the message.
        owner: the convolution.
        plan: its `ModulePlan`.

    Raises:
        SlimError: names the entry.
    """
    kept, around = plan.keep.get("weight", {}), margins(owner)
    axes, becomes = len(around), plan.becomes if (plan.becomes or {}).get("kind") == "Cropped" else None
    if isinstance(plan.attributes.get("padding", owner.padding), str):
        padding = [min(pair) for pair in around]
        frame: Any = [[low - p, high - p] for p, (low, high) in zip(padding, around, strict=True)]
    else:
        padding = _row(name, owner, plan, "padding", axes)
        frame = plan.attributes.get("frame", getattr(owner, "frame", [[0, 0]] * axes))
    frame = becomes["frame"] if becomes else frame
    if not isinstance(frame, (list, tuple)) or len(frame) != axes or not all(map(_is_pair, frame)):
        refuse(name, "frame", frame, f"two whole numbers for each of {axes} axes")
    sizes, dilations = _row(name, owner, plan, "kernel_size", axes), _row(name, owner, plan, "dilation", axes)
    for axis, (before, after) in enumerate(around):
        size, old = owner.kernel_size[axis], owner.dilation[axis]
        places = kept.get(axis + 2, range(size))
        steps = {b - a for a, b in pairwise(places)} or {1}
        left = [before - places[0] * old, after - (size - 1 - places[-1]) * old]
        several = len(places) > 1
        for key, has, needed in (
            ("kernel_size", sizes[axis], len(places)),
            ("dilation", dilations[axis] if several else 1, min(steps) * old if several else 1),
            ("padding", [padding[axis] + n for n in frame[axis]], left),
        ):
            if has != needed or len(steps) > 1 or padding[axis] < 0 or dilations[axis] < 1:
                refuse(name, f"attributes[{key!r}]", has, f"{needed}, along axis {axis} of the cropped kernel")
    framed = any(n for pair in frame for n in pair)
    mode = getattr(owner, "frame_mode", "constant") if owner.padding_mode == "zeros" else owner.padding_mode
    twice = "_reversed_padding_repeated_twice"  # what other paddings than zeros are made of
    if owner.padding_mode != "zeros" and becomes is None and {"padding", twice} & plan.attributes.keys():
        got, needed = (
            plan.attributes.get(twice, getattr(owner, twice)),
            [p for p in reversed(padding) for _ in range(2)],
        )
        if numbers(got) != needed:
            refuse(name, f"attributes[{twice!r}]", got, str(needed))
    if becomes and framed and (becomes["mode"] != mode or (mode != "constant" and any(padding))):
        refuse(name, "becomes.mode", becomes["mode"], f"{mode}, and no padding beside a frame that is not of zeros")
    if becomes and becomes["channels"] is not None:
        check_positions(name, "becomes.channels", becomes["channels"], owner.in_channels)


def check_positions(name: str, where: str, kept: Sequence[int], size: int) -> None:
    """Refuse positions that do not ascend, or are not those of an axis.

    Args:
        name: of the module.
        where: the entry.
        kept: the positions.
        size: of the axis.

    Raises:
        SlimError: names the entry.
    """
    if kept and not (kept[0] >= 0 and kept[-1] < size and all(a < b for a, b in pairwise(kept))):
        refuse(name, where, kept, f"ascending positions below {size}")


def refuse(name: str, where: str, got: Any, expected: str) -> NoReturn:
    """Raise the error for an entry of the plan of a module.

    Raises:
        SlimError: always.
    """
    raise SlimError(
        f"{name or 'the network'}: {where} of its plan: got {reprlib.repr(got)}, expected {expected}; the plan is damaged, "
        "or made for another network"
    )


def _row(name: str, owner: Any, plan: Any, key: str, axes: int) -> list[int]:
    value = plan.attributes.get(key, getattr(owner, key))
    row = numbers(value)
    if row is None or isinstance(value, int) or len(row) != axes:
        refuse(name, f"attributes[{key!r}]", value, f"a whole number for each of {axes} axes")
    return row


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, (list, tuple)) and len(numbers(pair) or ()) == 2
