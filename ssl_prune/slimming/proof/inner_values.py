"""The inner proof: value by value, the cut program computes what survives of the dense one."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from ssl_prune.errors import GraphError
from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.graph.export.program import export, module_of
from ssl_prune.graph.rules import has_rule
from ssl_prune.slimming.proof.differences import same
from ssl_prune.slimming.proof.lockstep import beside
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import evaluation, full_precision
from ssl_prune.utils.tensors import named_tensors

__all__ = ["InnerDifferenceError", "inner_difference"]


class InnerDifferenceError(Exception):
    """The first value that is not what survives of the dense network's; `node` is the dense program's."""

    def __init__(self, node: fx.Node, what: str) -> None:
        self.node = node
        super().__init__(f"{module_of(node) or 'the network'}: {what} at {node.target}")


def inner_difference(
    subject: Subject, cut: nn.Module, dead: Tensor, needed: Tensor, tolerance: float
) -> InnerDifferenceError | None:
    """Run both programs side by side and compare every value, relative to its own size.

    Outputs alone do not show a difference that a small scale, a rare branch or a larger neighbour hides: code that
    divides by its width, counts its channels, or reads a fixed slice of them.

    Args:
        subject: the dense network with its zeros.
        cut: the same after a cut that changes no module for another.
        dead: ``(U,)`` units that were removed.
        needed: ``(U,)`` units whose values matter; others may be kept for the shape alone.
        tolerance: allowed difference relative to the largest entry of each value.

    The cut network itself is run. Where it runs other operators than the dense program, it is traced and its program run:
    a network that writes into parts of its tensors is the same only in that form.

    Returns:
        The first difference, or None. Also None where the cut network is a program of other operators: then there is
        nothing to compare.
    """
    graph, inputs = subject.graph, subject.inputs
    stays, matters = (torch.cat([m, torch.ones(1, dtype=torch.bool)]) for m in (~dead, needed))
    found: list[InnerDifferenceError] = []

    def compare(node: fx.Node, wanted: Tensor, got: Tensor) -> None:
        if not found:
            what = _compare(wanted, got, graph.boxes.get(node), stays, matters, tolerance)
            found.extend([] if what is None else [InnerDifferenceError(node, what)])

    with full_precision(), evaluation(subject.model), evaluation(cut):
        if beside(Execution(graph.program, subject.tensors, inputs), cut, inputs, compare):
            return found[0] if found else None
        found.clear()
        _side_by_side(subject, cut, compare)
    return found[0] if found else None


def _side_by_side(subject: Subject, cut: nn.Module, compare: Callable[[fx.Node, Tensor, Tensor], None]) -> None:
    """Run both programs, where they have the same operators."""
    graph, inputs = subject.graph, subject.inputs
    try:
        program = export(cut, inputs, has_rule)
    except GraphError:
        return  # it was run: the outputs are compared elsewhere
    pairs = list(zip(graph.program.graph.nodes, program.graph.nodes, strict=False))
    if len(graph.program.graph.nodes) != len(program.graph.nodes) or any(
        a.target != b.target for a, b in pairs if a.op == "call_function"
    ):
        return
    dense, slim = Execution(graph.program, subject.tensors, inputs), Execution(program, named_tensors(cut), inputs)
    with torch.no_grad():
        for before, after in pairs:
            if before.op == "output":
                break
            wanted, got = dense.step(before), slim.step(after)
            if before.op == "call_function" and isinstance(wanted, Tensor) and isinstance(got, Tensor):
                compare(before, wanted, got)


def _compare(
    wanted: Tensor, got: Tensor, units: Tensor | None, stays: Tensor, matters: Tensor, tolerance: float
) -> str | None:
    if units is not None and not bool(matters[units].all()):
        mask = stays[units]
        shapes = {axis: _surviving_shape(wanted, mask, axis) for axis in _level_axes(mask)}
        fits = [axis for axis, shape in shapes.items() if shape == list(got.shape)]
        if not fits:
            return f"a value of shape {tuple(got.shape)} where {tuple(next(iter(shapes.values())))} survives"
        last = fits[0]
        here, compared = _order(mask, last), _order(matters[units], last)
        wanted = _chosen(wanted, units, last, here & compared)
        got = _chosen(got, units, last, compared[here])
    elif wanted.shape != got.shape:
        return None  # computed from parameters: what reads it shows whether it is right
    if wanted.is_complex():
        wanted, got = (torch.view_as_real(t.to(wanted.dtype).resolve_conj()) for t in (wanted, got))
    if not wanted.is_floating_point() or not wanted.numel():
        return None
    scale, error = _size(wanted), _size(wanted - got)
    if not (math.isfinite(scale) and math.isfinite(error)):
        finite = wanted.isfinite()
        if not same(wanted[~finite], got[~finite]):
            return "a value is infinite or NaN in other places"
        scale, error = (_size(t[finite]) for t in (wanted, wanted - got))
    if not error <= tolerance * scale:
        return f"a value differs by {error / scale if scale else error:.1e} of its size"
    return None


def _size(value: Tensor) -> float:
    """The largest absolute entry; NaN if there is one among them, 0 of nothing."""
    if not value.numel():
        return 0.0
    low, high = torch.aminmax(value)  # no copy of the value, as its absolute numbers would be
    return float(torch.maximum(high, -low))


def _level_axes(mask: Tensor) -> list[int]:
    """The moving axes along which every fibre that stays keeps equally many, the last ones first."""
    moving = [d for d in reversed(range(mask.dim())) if mask.shape[d] > 1]
    level = [axis for axis in moving if len((counts := mask.sum(axis))[counts > 0].unique()) <= 1]
    return level or moving[:1]


def _rows(value: Tensor, units: Tensor, last: int) -> Tensor:
    """The value as (positions of its channels, the rest), the `last` of the channel axes running fastest."""
    moving = [d for d in range(units.dim()) if units.shape[d] > 1 and d != last] + [last]
    moved = value.movedim(moving, list(range(len(moving))))
    return moved.reshape(moved.shape[: len(moving)].numel(), moved.shape[len(moving) :].numel())


def _chosen(value: Tensor, units: Tensor, last: int, mask: Tensor) -> Tensor:
    """Those rows of `_rows` that the mask tells; of one axis the value itself is indexed, and not moved first."""
    places = mask.nonzero().flatten().to(value.device)
    if sum(size > 1 for size in units.shape) > 1:
        return _rows(value, units, last).index_select(0, places)
    if len(places) == value.shape[last]:
        return value
    return value.index_select(last, places)


def _order(mask: Tensor, last: int) -> Tensor:
    moving = [d for d in range(mask.dim()) if mask.shape[d] > 1 and d != last] + [last]
    return mask.movedim(moving, list(range(len(moving)))).reshape(-1)


def _surviving_shape(value: Tensor, mask: Tensor, last: int) -> list[int]:
    shape = list(value.shape)
    for axis in range(mask.dim()):
        if mask.shape[axis] > 1:
            along = mask.sum(axis).max() if axis == last else mask.movedim(axis, 0).flatten(1).any(1).sum()
            shape[axis] = int(along)
    return shape
