"""Along which axes a network takes other sizes than its example's, as tracing it with them tells."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.utils.inputs import Inputs, as_call, call, map_tensors

__all__ = ["grown", "tracing_call"]


def tracing_call(
    model: nn.Module, inputs: Inputs, every: bool
) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], Any, list[list[int]]] | None:
    """Arguments, dynamic shapes and the free axes of each input, where the network can be traced with them.

    Args:
        model: the network.
        inputs: the example.
        every: try all axes; else the batch axis alone, which then must be free.
    """
    args, kwargs = as_call(inputs)
    if not all(isinstance(a, Tensor) and a.dim() for a in [*args, *kwargs.values()]):
        return None
    # Tracing takes a size of 1 for a constant, so the batch is doubled.
    doubled = tuple(torch.cat([a, a]) for a in args), {name: torch.cat([a, a]) for name, a in kwargs.items()}
    tensors: list[Tensor] = [*args, *kwargs.values()]

    def form(axes: list[list[int]]) -> Any:
        free = [dict.fromkeys(own, torch.export.Dim.AUTO) for own in axes]
        return dict(zip(kwargs, free, strict=True)) if kwargs else tuple(free)

    asked = [list(range(a.dim() if every else 1)) for a in tensors]
    try:
        traced = torch.export.export(model, *doubled, dynamic_shapes=form(asked), strict=False)
    except Exception:  # sizes that the forward fixes
        return None
    names = traced.graph_signature.user_inputs
    values = [node.meta["val"] for node in traced.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != len(tensors):
        return None
    # What is not a symbol by now was silently fixed.
    axes = [[i for i in own if _is_free(value.shape[i])] for own, value in zip(asked, values, strict=True)]
    enough = any(axis for own in axes for axis in own) if every else all(axes)
    if not enough or (every and not _takes(model, inputs, axes)):
        return None
    return doubled, form(axes), axes


def _takes(model: nn.Module, inputs: Inputs, axes: Sequence[Sequence[int]]) -> bool:
    """Whether the network itself runs on other sizes; a symbol may still be bound to one."""
    each = iter(axes)
    try:
        call(model, map_tensors(lambda t: grown(t, next(each)), inputs))
    except Exception:  # whatever a forward says of a size
        return False
    return True


def _is_free(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def grown(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """Three times the batch, twice each other of the axes.

    Args:
        tensor: an input.
        axes: its free axes.
    """
    for axis in axes:
        tensor = torch.cat([tensor] * (2 if axis else 3), axis)
    return tensor
