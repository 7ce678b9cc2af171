"""Taint masks in little memory: what is the same along an axis is computed and kept once.

In most networks a whole channel depends on the input or none of it, so a mask as large as its value says the same thing
at every position. Masks are stride-0 views along such axes; the functions here work on what is left of them, and look
at values only where the mask leaves a question. At borders, where fewer weights meet the input, they are as exact as a
convolution of the whole mask.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_prune.graph.labels.broadcast import base, collapse

__all__ = ["any_along", "busy", "convolved", "multiplied", "reached", "uneven", "uniform"]

_CHUNK = 1 << 24  # weights that are compared with zero at once


def busy(value: Tensor, varies: Tensor) -> Tensor:
    """Where a value varies or is not zero, as a mask that broadcasts against it."""
    return base(varies) | _where_still(value, varies, lambda part: base(collapse(part != 0)))


def uniform(values: Tensor, dims: Any, keep: bool = False) -> Tensor:
    """Whether numbers are one and the same along some axes, up to the rounding of sums at different positions."""
    if values.is_complex():
        return uniform(values.real, dims, keep) & uniform(values.imag, dims, keep)
    if not values.numel():
        return values.sum(dims, keep) == 0
    high, low = values.amax(dims, keep), values.amin(dims, keep)
    if values.dtype not in (torch.float32, torch.float64):  # in half precision rounding is no small difference
        return high == low
    return high - low <= 16 * torch.finfo(values.dtype).eps * torch.minimum(high.abs(), low.abs())


def uneven(value: Tensor, varies: Tensor, dims: Sequence[int]) -> Tensor:
    """Where numbers that do not vary differ along `dims`, which are kept with size 1.

    Where all of them vary the answer may be False.
    """
    along = tuple(dims)
    return _where_still(value, varies, lambda part: ~uniform(part, along, True), along)


def _where_still(value: Tensor, varies: Tensor, look: Callable[[Tensor], Tensor], dims: Sequence[int] = ()) -> Tensor:
    """`look` at the slices of a value that do not vary, where whole slices do; False elsewhere."""
    small = base(varies)
    if bool(small.all()):
        return torch.zeros_like(small)
    moving = [axis for axis in range(small.dim()) if small.shape[axis] > 1]
    if len(moving) != 1 or moving[0] in [dim % value.dim() for dim in dims] or not bool(small.any()):
        return look(value)
    axis = moving[0]
    still = (~small).flatten().nonzero().flatten()
    found = look(value.index_select(axis, still))
    shape = list(found.shape)
    shape[axis] = small.shape[axis]
    full = torch.zeros(shape, dtype=torch.bool, device=found.device)
    return full.index_copy_(axis, still, found.expand(*shape[:axis], len(still), *shape[axis + 1 :]))


def any_along(mask: Tensor, axis: int) -> Tensor:
    """`mask.any(axis)`: the largest byte is found many times faster than a true one."""
    return mask.view(torch.uint8).amax(axis) > 0 if mask.shape[axis] else mask.any(axis)


def reached(weight: Tensor, varies: Tensor) -> Tensor:
    """Rows of a weight, and positions of its kernel, that some varying channel meets with a weight that is not zero.

    Args:
        weight: (groups, rows, channels, *kernel).
        varies: (groups, channels).

    Returns:
        (groups, rows, *kernel).
    """
    on = varies.view(varies.shape[0], 1, -1, *[1] * (weight.dim() - 3))
    every, found = bool(varies.all()), []
    rows = max(1, _CHUNK // max(1, weight[:, :1].numel()))
    for part in weight.split(rows, 1):
        met = part != 0 if every else (part != 0) & on
        found.append(any_along(met, 2))
    return torch.cat(found, 1)


def multiplied(varies: Tensor, weight: Tensor) -> Tensor:
    """Mask of x @ Wᵀ, weight ``(O, I)``, of x with a mask (..., I)."""
    small = base(varies)
    small = small.expand(*small.shape[:-1], weight.shape[1])
    rows, place = small.reshape(-1, weight.shape[1]).unique(dim=0, return_inverse=True)
    if len(rows) > 8:
        found = rows.float() @ (weight != 0).float().t() > 0.5
    else:
        found = torch.stack([reached(weight[None], row[None])[0] for row in rows])
    mask: Tensor = found[place].view(*small.shape[:-1], -1)
    return mask.expand(*varies.shape[:-1], -1)


def convolved(target: Any, varies: Tensor, weight: Tensor, args: Sequence[Any], groups: int) -> Tensor | None:
    """Mask of a convolution whose input's mask is the same at all positions; None for another one.

    Args:
        target: the operator.
        varies: ``(N, I, *size)`` mask of the input.
        weight: (O, I / groups, *kernel).
        args: stride, padding and dilation, as far as they are given.
        groups: of the convolution.

    Returns:
        A mask that broadcasts against the result.
    """
    small = base(varies)
    if varies.dim() != weight.dim() or small.numel() != small.shape[1]:
        return None
    channels = small.flatten().expand(varies.shape[1]).view(groups, -1)
    taps = reached(weight.unflatten(0, (groups, -1)), channels).flatten(0, 1)
    if len(args) < 2 or args[1] == "valid" or not any(args[1]):
        return taps.flatten(1).any(1).view(1, -1, *[1] * (weight.dim() - 2))
    # Outside the image nothing varies: at a border the kernel's inner positions decide.
    patterns, place = taps.flatten(1).unique(dim=0, return_inverse=True)
    image = torch.ones(1, 1, *varies.shape[2:], device=weight.device)
    kernels = patterns.view(-1, 1, *weight.shape[2:]).float()
    maps = base(collapse((target(image, kernels, None, *args) > 0.5)[0]))
    return maps.expand(len(patterns), *maps.shape[1:])[place][None]
