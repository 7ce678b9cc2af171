"""Dead-code elimination over channels: which units some output still needs.

A unit is asked for at its readers. It is needed where a reader finds in it something that depends on the input (or a
constant that cannot move into the bias) and reads it with a non-zero weight into a unit that is itself needed. Starting
from what reaches the outputs, need grows backward until it stops; the rest is dead. Constants that dead units still
carry are folded into the biases of their readers.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph import Reader
from ssl_prune.graph.export.program import embeddings
from ssl_prune.graph.labels.hidden_state import State
from ssl_prune.slimming.analysis.constants import ChannelValues, ValuePass
from ssl_prune.slimming.analysis.dependence_masks import any_along
from ssl_prune.slimming.analysis.resting_units import resting
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import evaluation

__all__ = ["Liveness", "Obstacle", "connected", "liveness", "needed", "read_by_needed", "with_kept"]

_BIASED = {torch.ops.aten.linear, torch.ops.aten.conv1d, torch.ops.aten.conv2d, torch.ops.aten.conv3d}


@dataclass(frozen=True)
class Obstacle:
    """Why some reader needs a channel: what it finds there, and ``(I,)`` masks over its input channels.

    Args:
        reader: the reader.
        seen: what it finds.
        varies: a signal that depends on the input.
        unfoldable: a constant that has no place to go.
        absorbable: a constant that cannot go into the bias, because of padding, but into the weights of another channel
            that carries a constant too.
    """

    reader: Reader
    seen: ChannelValues
    varies: Tensor
    unfoldable: Tensor
    absorbable: Tensor

    @property
    def matters(self) -> Tensor:
        """``(I,)`` channels that cannot be dropped by value."""
        return self.varies | self.unfoldable

    @property
    def steady(self) -> Tensor:
        """``(I,)`` channels of one constant that is not zero."""
        return ~self.varies & self.seen.uniform.cpu() & (self.seen.constant.cpu() != 0)


@dataclass(frozen=True)
class Liveness:
    """What is needed, and what readers would have to absorb.

    Args:
        subject: the network that was looked at.
        alive: ``(U,)`` units that must stay.
        obstacles: per reader, which of its channels cannot be dropped by value.
        values: the value pass, for constants and folds.
    """

    subject: Subject
    alive: Tensor
    obstacles: tuple[Obstacle, ...]
    values: ValuePass

    @property
    def weights(self) -> dict[str, Tensor]:
        """Name -> parameter or buffer, as looked at."""
        return self.subject.tensors


def liveness(subject: Subject) -> Liveness:
    """Greatest fixed point of "dead" in evaluation mode: start with nothing needed and grow."""
    graph = subject.graph
    watched = [(r.source, r.source_axes) for r in graph.readers if r.source is not None]
    watched += [(r.other, r.other_axes) for r in graph.readers if r.other is not None]
    watched += [pair for reader in graph.readers for state in reader.state for pair in state.watched]
    watched += [(node, (node.meta["val"].dim() - 1,)) for node, _ in embeddings(graph.program)]
    with evaluation(subject.model):
        values = ValuePass(subject, watched)
        obstacles = _obstacles(subject, values)
    nothing = torch.zeros(graph.num_units, dtype=torch.bool)
    return Liveness(subject, _grow(nothing, nothing, obstacles, subject.tensors), obstacles, values)


def with_kept(live: Liveness, kept: Tensor) -> Tensor:
    """``(U,)`` what is needed when dead units are kept all the same, because their layer must not be empty.

    A kept unit needs its own inputs only where something needed reads it: elsewhere its value does not matter.

    Args:
        live: what is needed without them.
        kept: ``(U,)`` units that are kept.
    """
    return _grow(live.alive, kept, live.obstacles, live.weights) | kept


def needed(live: Liveness, dead: Tensor) -> Tensor:
    """``(U,)`` units whose values matter when the `dead` ones go; the others that stay are there for the shape alone."""
    return _grow(live.alive, ~dead & ~live.alive, live.obstacles, live.weights)


def read_by_needed(live: Liveness) -> Tensor:
    """(U + 1,) units that something needed reads with a weight that is not zero, whatever they carry; the last is -1."""
    alive = torch.cat([live.alive, torch.ones(1, dtype=torch.bool)])
    read = torch.zeros_like(alive)
    for obstacle in live.obstacles:
        reader = obstacle.reader
        if reader.weight is not None and not reader.depthwise:
            read[reader.read[connected(reader, live.weights[reader.weight], alive[reader.written])]] = True
    return read


def _grow(alive: Tensor, kept: Tensor, obstacles: tuple[Obstacle, ...], weights: dict[str, Tensor]) -> Tensor:
    """What needed units read, and so on: through every weight that is not zero, where the value read matters or is kept.

    Each row of a weight is looked at once, when the channel it writes turns out to be needed.
    """
    alive = torch.cat([alive, torch.ones(1, dtype=torch.bool)])  # unit -1 stands for all that is never removed
    kept = torch.cat([kept, torch.zeros(1, dtype=torch.bool)])
    links = [o for o in reversed(obstacles) if not o.reader.depthwise]
    seen = [torch.zeros(len(o.reader.written), dtype=torch.bool) for o in links]
    before = -1
    while before != (before := int(alive.sum())):
        for obstacle, done in zip(links, seen, strict=True):
            reader = obstacle.reader
            fresh = alive[reader.written] & ~done
            if not bool(fresh.any()):
                continue
            done |= fresh
            open_ = (obstacle.matters | kept[reader.read]) & ~alive[reader.read]
            if bool(open_.any()):
                needed = fresh if reader.weight is None else connected(reader, weights[reader.weight], fresh, open_)
                alive[reader.read[needed & open_]] = True
    return alive[:-1]


def connected(reader: Reader, weight: Tensor, written: Tensor, asked: Tensor | None = None) -> Tensor:
    """``(I,)`` channels read with a weight that is not zero into one of those `written`.

    Args:
        reader: where the channels are read.
        weight: its weight.
        written: ``(O,)`` which of the channels that it writes count.
        asked: ``(I,)`` the channels to look at; None: all. What is returned for others means nothing.
    """
    assert reader.rows is not None
    assert reader.columns is not None
    matrix = weight.detach().movedim(reader.in_axis, 1)
    chosen = written.nonzero().flatten()
    rows = reader.rows[chosen].to(weight.device)
    if len(rows) < len(matrix) or not torch.equal(rows, torch.arange(len(matrix), device=rows.device)):
        matrix = matrix.index_select(0, rows)
    wide = matrix.shape[1]
    places = torch.arange(wide)
    if asked is not None:
        # Where each group has columns of its own, those that any of them asks for.
        places = (reader.columns if reader.groups == 1 else torch.arange(len(asked)) % wide)[asked].unique()
    if 2 * len(places) < wide:
        matrix = matrix.index_select(1, places.to(weight.device))
    else:
        places = torch.arange(wide)
    found = any_along((matrix != 0).flatten(2), 2) if matrix.dim() > 2 else matrix != 0
    if reader.groups == 1:
        return _spread(any_along(found, 0), places, wide)[reader.columns]
    width = len(reader.read) // reader.groups
    needed = torch.zeros(reader.groups, width, dtype=torch.bool)
    group = chosen // (len(reader.written) // reader.groups)
    for g in group.unique().tolist():
        here = _spread(any_along(found[(group == g).to(found.device)], 0), places, wide)
        # A transposed convolution has the inputs of all groups on one axis.
        needed[g] = here if len(here) == width else here[g * width : (g + 1) * width]
    return needed.flatten()


def _spread(flags: Tensor, places: Tensor, size: int) -> Tensor:
    """Flags at their places among `size`."""
    return torch.zeros(size, dtype=torch.bool).index_copy_(0, places, flags.cpu())


def _obstacles(subject: Subject, values: ValuePass) -> tuple[Obstacle, ...]:
    readers, modules = subject.graph.readers, subject.modules
    calls = Counter(reader.weight for reader in readers)
    found = []
    for reader in readers:
        seen = _seen(reader, values, subject.tensors)
        zero = seen.uniform & (seen.constant == 0)
        # A layer that runs twice may meet two constants, and a computed bias cannot take one in.
        taken = seen.uniform & (calls[reader.weight] == 1) & _takes_bias(modules, reader)
        constant = ~seen.varies & ~zero
        absorbable = constant & taken & reader.padded & (reader.groups == 1) & _pads_with_zeros(modules, reader)
        unfoldable = constant & ~absorbable & ~(taken & (not reader.padded))
        found.append(Obstacle(reader, seen, seen.varies.cpu(), unfoldable.cpu(), absorbable.cpu()))
    return tuple(found)


def _seen(reader: Reader, values: ValuePass, weights: dict[str, Tensor]) -> ChannelValues:
    """What the reader finds in its channels."""
    if reader.source is None:
        varies = torch.ones(len(reader.read), dtype=torch.bool)
        if reader.state:
            varies = torch.cat([_busy(state, values, weights) for state in reader.state])
        return ChannelValues(varies, ~varies, torch.zeros(len(varies), dtype=torch.float64))
    seen = values.channels[reader.source, reader.source_axes]
    if reader.other is not None:
        factor = values.channels[reader.other, reader.other_axes]
        # A product is zero where one of its factors is; anything else it may be is not looked into.
        nothing = [~v.varies & v.uniform & (v.constant == 0) for v in (seen, factor)]
        if len(nothing[0]) > len(nothing[1]) > 1:
            nothing[1] = _shared(nothing[1], reader.other, reader.other_axes, len(nothing[0]))
        varies = ~torch.logical_or(*torch.broadcast_tensors(*nothing))
        return ChannelValues(varies, ~varies, torch.zeros(len(varies), dtype=torch.float64))
    return seen


def _shared(flags: Tensor, node: fx.Node, axes: tuple[int, ...], count: int) -> Tensor:
    """Flags of the channels of `node`, whose heads each serve several of the other factor's, once for each of these."""
    shape = node.meta["val"].shape
    heads = axes.index(len(shape) - 3)
    return flags.view([shape[axis] for axis in axes]).repeat_interleave(count // len(flags), heads).flatten()


def _busy(state: State, values: ValuePass, weights: dict[str, Tensor]) -> Tensor:
    """Hidden units that are not zero at all times."""
    busy = ~resting([weights[name] for name in state.parameters], state.rows)
    for place in state.watched:
        start = values.channels[place]
        other = (start.varies | ~start.uniform | (start.constant != 0)).cpu()
        busy |= other.view(-1, len(busy))[state.cell]
    return busy


def _pads_with_zeros(modules: dict[str, nn.Module], reader: Reader) -> bool:
    assert reader.weight is not None or not reader.padded
    layer = modules.get((reader.weight or "").rpartition(".")[0])
    return getattr(layer, "padding_mode", None) == "zeros"


def _takes_bias(modules: dict[str, nn.Module], reader: Reader) -> bool:
    if reader.weight is None or reader.rows is None:
        return False
    owner, _, leaf = reader.weight.rpartition(".")
    layer = modules.get(owner)
    # A part of a weight (one of three projections in one matrix) or a transposed one is not what `Fold` adds to.
    weight = getattr(layer, "weight", None)
    whole = isinstance(weight, Tensor) and len(reader.rows) == weight.shape[0]
    standard = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and reader.in_axis == 1
    if getattr(reader.node.target, "overloadpacket", None) not in _BIASED:
        return False  # a product written otherwise, which adds no bias
    given = len(reader.node.args) > 2 and reader.node.args[2] is not None
    if not given and (getattr(layer, "bias", None) is not None or reader.module != owner):
        return False  # code of the user's own, which leaves the layer's bias out
    return leaf == "weight" and standard and whole and not reader.depthwise and hasattr(layer, "bias")
