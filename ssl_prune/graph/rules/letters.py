"""Axes of values named by letters, as in einsum."""

from typing import Any

from torch import Tensor

__all__ = ["laid", "moving"]


def moving(value: Tensor) -> list[int]:
    """Axes along which the labels change."""
    return [d for d in range(value.dim()) if value.shape[d] > 1 and value.stride(d) != 0]


def laid(value: Tensor, names: str, out: str, shape: Any) -> Tensor:
    """Labels of one operand laid over the result."""
    index: list[Any] = [slice(None) if letter in out else 0 for letter in names]
    kept = [letter for letter in names if letter in out]
    picked = value[tuple(index)].permute(sorted(range(len(kept)), key=lambda i: out.index(kept[i])))
    order = sorted(kept, key=out.index)
    sizes = iter(picked.shape)
    view = [next(sizes) if letter in order else 1 for letter in out]
    return picked.reshape(view).expand(shape)
