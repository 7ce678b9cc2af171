"""Zero structures of a network: rows, columns, scales, entries of vectors and tables, wherever they stand."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_prune.graph import Reader
from ssl_prune.slimming.analysis.dependence_masks import any_along
from ssl_prune.slimming.subject import Subject

__all__ = ["Zeros", "zero_structures"]


@dataclass(frozen=True)
class Zeros:
    """Positions of one axis of a parameter at which nothing that stays is other than zero.

    Args:
        name: of the parameter or buffer.
        axis: of it.
        positions: ``(n,)`` where on the axis; of a stack of matrices, once for each matrix that is zero there; on the second
            axis of a weight of several groups, counted through all of them.
        units: ``(n,)`` unit of each, -1 for none.
    """

    name: str
    axis: int
    positions: Tensor
    units: Tensor

    @property
    def layer(self) -> str:
        """The module that holds the parameter; the parameter itself where it is the network's own."""
        owner = f".{self.name}".rpartition(".")[0].partition(".parametrizations.")[0]
        return owner.removeprefix(".") or self.name


def zero_structures(
    subject: Subject, dead: Tensor, gone: Collection[str], computed: Iterable[tuple[str, Tensor]] = ()
) -> list[Zeros]:
    """Every zero structure that stays when the `dead` units go.

    A shift of zero is none; nor are positions of kernels, which belong to no channel.

    Args:
        subject: the network before the cut.
        dead: ``(U,)`` units that go.
        gone: modules that go as a whole.
        computed: matrices that the forward computes, see `computed_weights`.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net, x = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), torch.randn(1, 4)
        >>> with torch.no_grad():
        ...     _ = net[0].weight[1].zero_()
        >>> found = zero_structures(Subject(trace(net, x), net, x), torch.zeros(0, dtype=torch.bool), ())
        >>> [(z.layer, z.name, z.axis, z.positions.tolist()) for z in found]
        [('0', '0.weight', 0, [1])]
    """
    found = list(_own(subject, dead, gone))
    told = {zeros.name for zeros in found if len(zeros.positions)}
    for name, nonzero in computed:
        if name not in told and name.rpartition(".")[0] not in gone:
            found += _matrix(name, nonzero, [torch.full((n,), -1) for n in nonzero.shape], dead)
    return [zeros for zeros in found if len(zeros.positions)]


def _own(subject: Subject, dead: Tensor, gone: Collection[str]) -> Iterator[Zeros]:
    graph, model, modules = subject.graph, subject.model, subject.modules
    readers = {each.weight: each for each in reversed(graph.readers) if each.weight is not None}
    axes = {(axis.name, axis.axis): axis for axis in (*graph.axes, *graph.buffers)}
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in readers}
    # One piece of memory for all: many large ones after each other leave gaps that the process keeps.
    scratch = torch.empty(max((t.numel() for t in tensors.values()), default=0), dtype=torch.bool)
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        if owner in gone or not tensor.numel() or isinstance(modules.get(owner), nn.PReLU):
            continue  # a slope of zero is no channel without a signal
        units = [
            axes[name, axis].units if (name, axis) in axes else torch.full((size,), -1)
            for axis, size in enumerate(tensor.shape or (1,))
        ]
        nonzero = scratch[: tensor.numel()].view(tensor.shape)
        if tensor.device == scratch.device:
            torch.ne(tensor.detach(), 0, out=nonzero)
        else:
            nonzero.copy_(tensor.detach() != 0)
        if tensor.dim() < 2:
            first = axes.get((name, 0))
            if "bias" not in leaf and (first is None or first.role != "writer"):
                yield _along(name, 0, ~nonzero.reshape(-1), units[0], dead)
            continue
        reader, writes = readers.get(name), 0
        if isinstance(modules.get(owner), nn.modules.conv._ConvNd) or (reader and "conv" in str(reader.node.target)):
            nonzero, units = any_along(nonzero.flatten(2), 2) if nonzero.dim() > 2 else nonzero, units[:2]
        if reader is not None:
            writes = 1 if reader.in_axis == 0 and not reader.depthwise else 0
        if reader is not None and reader.grouped:
            yield from _in_groups(reader, name, nonzero, dead)
        else:
            yield from _matrix(name, nonzero, units, dead, writes)


def _along(name: str, axis: int, zero: Tensor, units: Tensor, dead: Tensor) -> Zeros:
    """Of (..., n) flags along the axis those that stay."""
    positions = zero.reshape(-1, zero.shape[-1]).nonzero()[:, 1]
    own = units[positions]
    stays = _stays(dead)[own]
    return Zeros(name, axis, positions[stays], own[stays])


def _matrix(name: str, nonzero: Tensor, units: list[Tensor], dead: Tensor, writes: int = 0) -> Iterator[Zeros]:
    """Rows and columns of a matrix, or of each in a stack of matrices, and whole matrices; what is zero counts once.

    `nonzero` is written into.
    """
    for axis, own in enumerate(units):
        view = [1] * nonzero.dim()
        view[axis] = len(own)
        nonzero &= _stays(dead)[own].view(view)
    last, whole = nonzero.dim() - 1, nonzero
    for axis in range(last - 1):
        other = any_along(nonzero.movedim(axis, 0).flatten(1), 1)
        if len(other) > 1 and bool(nonzero.any()):
            yield _along(name, axis, ~other, units[axis], dead)
    matrices = any_along(whole.flatten(-2), -1)
    if not bool(matrices.any()):
        axis = writes if nonzero.dim() == 2 else max(range(nonzero.dim()), key=lambda i: nonzero.shape[i])
        yield _along(name, axis, torch.ones(nonzero.shape[axis], dtype=torch.bool), units[axis], dead)
        return
    for axis, across in ((last - 1, last), (last, last - 1)):
        if nonzero.shape[axis] > 1:
            yield _along(name, axis, ~any_along(nonzero, across) & matrices[..., None], units[axis], dead)


def _in_groups(reader: Reader, name: str, nonzero: Tensor, dead: Tensor) -> Iterator[Zeros]:
    """Rows of all groups of a convolution, and the columns of each."""
    first, second = (reader.written, reader.read) if reader.in_axis == 1 else (reader.read, reader.written)
    stays = _stays(dead)
    each = nonzero.view(reader.groups, -1, nonzero.shape[1])
    each = each & stays[first].view(reader.groups, -1, 1) & stays[second].view(reader.groups, 1, -1)
    yield _along(name, 0, ~any_along(each, 2).flatten(), first, dead)
    if bool(each.any()):
        yield _along(name, 1, ~any_along(each, 1).flatten(), second, dead)


def _stays(dead: Tensor) -> Tensor:
    return torch.cat([~dead, torch.ones(1, dtype=torch.bool)])  # unit -1 always stays
