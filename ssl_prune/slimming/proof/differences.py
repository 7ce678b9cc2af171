"""How far two tensors are apart, relative to their size."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["all_finite", "finite_error", "largest", "relative_error", "same"]


def relative_error(expected: Tensor, got: Tensor) -> float:
    r"""max|f(x) − g(x)| / max|f(x)|, computed in float64 or complex128.

    Returns:
        The error; 0 for two empty or all-zero tensors, inf where only one is finite.

    Example:
        >>> relative_error(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 3.0]))
        0.25
    """
    if not expected.numel():
        return 0.0
    expected, got = (t.to(torch.promote_types(t.dtype, torch.float64)) for t in (expected, got))
    difference, scale = (expected - got).abs().max().item(), expected.abs().max().item()
    if not math.isfinite(difference):
        return math.inf
    return difference / scale if scale else (0.0 if difference == 0 else math.inf)


def largest(errors: Iterable[float]) -> float:
    """The largest of some errors: 0 of none, NaN where one is NaN, which Python's `max` may pass over.

    Example:
        >>> largest([0.5, float("nan"), 0.25])
        nan
    """
    return float(torch.tensor([0.0, *errors], dtype=torch.float64).max())


def same(first: Tensor, second: Tensor) -> bool:
    """Every entry is equal, or NaN in both.

    Example:
        >>> same(torch.tensor([torch.nan, torch.inf]), torch.tensor([torch.nan, 5.0]))
        False
    """
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


def finite_error(expected: Tensor, got: Tensor) -> float:
    """`relative_error` of the finite part; inf where the rest, or any integer, is not the same.

    Example:
        >>> finite_error(torch.tensor([4.0, -torch.inf]), torch.tensor([3.0, -torch.inf]))
        0.25
    """
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, got) else math.inf
    finite = expected.isfinite()
    if not same(expected[~finite], got[~finite]):
        return math.inf
    return relative_error(expected[finite], got[finite])


def all_finite(outputs: Iterable[Tensor]) -> bool:
    """No NaN and no infinity among them."""
    return all(bool(t.isfinite().all()) for t in outputs)
