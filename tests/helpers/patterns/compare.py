"""Whether two networks compute the same outputs: on inputs and batch sizes that neither was made with."""

import copy
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["difference", "parameters", "run", "tolerance"]


def parameters(model: nn.Module) -> int:
    """Entries of all parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference that rounding explains."""
    return 1e-9 if dtype == torch.float64 else 1e-5


def run(model: nn.Module, inputs: Any, *, training: bool = False, calls: int = 2) -> list[Any]:
    """Leaves of what a copy of the model returns on copies of the inputs, over some calls in a row.

    Copies, because a forward may write into both; calls in a row, because buffers may change from one to the next.
    """
    model, found = copy.deepcopy(model).train(training), []
    with torch.no_grad():
        for _ in range(calls):
            own = pytree.tree_map_only(Tensor, torch.clone, inputs)
            if isinstance(own, dict):
                found += pytree.tree_leaves(model(**own))
            else:
                found += pytree.tree_leaves(model(*(own if isinstance(own, tuple) else (own,))))
    return found


def difference(expected: nn.Module, got: nn.Module, inputs: Any) -> float:
    r"""Largest max|f(x) − g(x)| / max|f(x)| over outputs and over inputs that `expected` takes.

    The inputs are the example, fresh ones, large ones, other batch sizes, and other lengths or image sizes.

    Returns:
        The difference; inf where the shapes or which entries are finite differ.

    Raises:
        Exception: whatever `got` raises where `expected` does not.
    """
    worst = 0.0
    for trial, must in _trials(inputs):
        try:
            wanted = run(expected, trial)
        except Exception:
            if must:
                raise
            continue  # a network of one batch size only
        for a, b in zip(wanted, run(got, trial), strict=True):
            worst = max(worst, _relative(a, b) if isinstance(a, Tensor) else float(a != b))
    return worst


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if not a.numel():
        return 0.0
    gap, scale = (
        (a - b if a.is_floating_point() or a.is_complex() else (a != b).double()).abs().max().item(),
        a.abs().max().item(),
    )
    if not math.isfinite(gap):
        return math.inf
    return gap / scale if scale else gap


def _trials(inputs: Any) -> Iterator[tuple[Any, bool]]:
    """Inputs of the same kind, and whether every network must take them."""
    yield inputs, True
    first = next((leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), None)
    size = 0 if first is None else len(first)
    same: tuple[int, ...] = ()
    # Rows, axes that get longer (whether they hold positions or channels, the network will say), size of the noise.
    variations = [(size, same, 1.5), (size, same, 100.0), (size + 3, same, 1.0), (1, same, 1.0), (7, same, 1.0)]
    variations += [(size, axes, 1.0) for axes in ((1,), (2,), (2, 3), (2, 3, 4))]
    for seed, (rows, longer, scale) in enumerate(variations):
        draw = functools.partial(_draw, size, rows, longer, scale, torch.Generator().manual_seed(seed))
        yield pytree.tree_map_only(Tensor, draw, inputs), seed < 2


def _draw(
    size: int, rows: int, longer: tuple[int, ...], scale: float, generator: torch.Generator, tensor: Tensor
) -> Tensor:
    shape = [n + 2 * (axis in longer) for axis, n in enumerate(tensor.shape)]
    if shape and shape[0] == size:
        shape[0] = rows
    if tensor.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=tensor.dtype) * scale + 0.2
    low, high = (0, 1) if tensor.dtype == torch.bool else (int(tensor.min()), int(tensor.max()))
    return torch.randint(low, high + 1, shape, generator=generator).to(tensor.dtype)
