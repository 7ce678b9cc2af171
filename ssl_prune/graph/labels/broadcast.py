"""Tensors that are the same along most axes, as views that take no memory for it."""

from torch import Tensor

__all__ = ["base", "collapse"]


def collapse(labels: Tensor) -> Tensor:
    """`labels` with every axis along which they are constant turned into a stride-0 view, of no more memory than that."""
    small = base(labels)
    for axis in range(labels.dim()):
        if small.shape[axis] > 1:
            first = small.narrow(axis, 0, 1)
            # Most axes that are not constant show it within their first two positions.
            if bool((small.narrow(axis, 1, 1) == first).all()) and bool((small == first).all()):
                small = first
    if small.numel() < small.untyped_storage().nbytes() // small.element_size():
        small = small.clone()  # a view would keep what it is a view of
    return small.expand(labels.shape)


def base(labels: Tensor) -> Tensor:
    """`labels` with each constant (stride-0) axis narrowed to size 1."""
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels
