"""Why zeros stay: for each zero structure that a cut leaves, the layer and the reason."""

from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.program import embeddings
from ssl_prune.slimming.analysis.computed_weights import computed_weights
from ssl_prune.slimming.analysis.dependence_masks import any_along
from ssl_prune.slimming.analysis.liveness import Liveness, Obstacle, connected
from ssl_prune.slimming.analysis.zero_structures import zero_structures
from ssl_prune.slimming.kept import Kept
from ssl_prune.slimming.plan.planner import removable

__all__ = ["explain_kept"]

_UNPROVEN = "the proof did not hold without it"
_EVEN = "a layer that stays keeps one channel, and groups, heads and equal pieces stay equally long"


def explain_kept(
    live: Liveness,
    dead: Tensor,
    gone: Collection[str],
    widths: Mapping[int, str],
) -> tuple[Kept, ...]:
    """Every zero structure that stays, and every unit that is not needed and stays.

    Args:
        live: the network before the cut, and what is needed.
        dead: ``(U,)`` units that went.
        gone: modules that went as a whole.
        widths: units that are kept for a layer's width, with the reason.
    """
    graph = live.subject.graph
    structures = zero_structures(live.subject, dead, gone, computed_weights(live.subject))
    wanted = removable(live, branches=False)
    zero = torch.zeros(graph.num_units + 1, dtype=torch.bool)
    idle = (wanted | ~live.alive) & ~dead
    for found in structures:
        zero[found.units] = True
    zero = zero[:-1]
    reasons = _reasons(live, wanted, zero | idle, ~dead)
    counts: Counter[tuple[str, str]] = Counter()
    told: set[tuple[str, int]] = set()
    for unit in sorted(widths):  # on purpose, so once for all layers that handle it
        counts[graph.unit_layer[unit], widths[unit]] += 1
    for unit in (idle & ~zero).nonzero().flatten().tolist():
        if unit not in widths:
            counts[graph.unit_layer[unit], reasons[unit]] += 1
    for found in structures:
        for unit in found.units[found.units >= 0].tolist():
            if unit not in widths and (found.layer, unit) not in told:
                told.add((found.layer, unit))
                counts[found.layer, reasons[unit]] += 1
        fixed = found.positions[found.units < 0]
        if len(fixed):
            assert graph.causes is not None
            for why in graph.causes.of(found.name, found.axis, fixed):
                counts[found.layer, f"its channels can never be removed: {why}"] += 1
    for layer, count in _chosen(live, dead).items():
        counts[layer, "zero in all rows of the table that the example chooses, but not in others"] += count
    return tuple(Kept(layer, count, reason) for (layer, reason), count in counts.items())


def _chosen(live: Liveness, dead: Tensor) -> Counter[str]:
    """Embedding -> channels that are zero in the example, and yet stay because other tokens have something there."""
    graph, counts = live.subject.graph, Counter[str]()
    units = {(axis.name, axis.axis): axis.units for axis in graph.axes}
    for node, name in embeddings(graph.program):
        zero = live.values.channels[node, (node.meta["val"].dim() - 1,)].varies.cpu() & live.values.silent[node]
        if (name, 1) in units:
            zero &= torch.cat([~dead, torch.ones(1, dtype=torch.bool)])[units[name, 1]]
        if bool(zero.any()):
            counts[name.rpartition(".")[0] or name] += int(zero.sum())
    return counts


def _reasons(live: Liveness, wanted: Tensor, asked: Tensor, stays: Tensor) -> dict[int, str]:
    """Unit -> why it stays, for those that are `asked` for; `stays` are all that do."""
    found = dict.fromkeys((asked & wanted).nonzero().flatten().tolist(), _UNPROVEN)
    left = torch.cat([asked & ~wanted, torch.zeros(1, dtype=torch.bool)])
    written = torch.cat([stays, torch.ones(1, dtype=torch.bool)])
    writers = _writers(live, left[:-1])
    for obstacle in live.obstacles:
        reader = obstacle.reader
        here = left[reader.read]
        if reader.depthwise or not bool(here.any()):
            continue
        if reader.weight is not None:
            here = here & connected(reader, live.weights[reader.weight], written[reader.written], here)
        for place in here.nonzero().flatten().tolist():
            unit = int(reader.read[place])
            why = _reason(obstacle, place, bool(live.alive[unit]), writers.get(unit), live.values.failed)
            if why is not None and unit not in found:
                found[unit] = why
                left[unit] = False
    for unit in left.nonzero().flatten().tolist():
        found[unit] = _UNPROVEN if bool(live.alive[unit]) else _EVEN
    return found


def _reason(
    obstacle: Obstacle, place: int, alive: bool, writer: str | None, failed: Mapping[fx.Node, str]
) -> str | None:
    """Why a reader needs what it finds at one of its channels; None if it does not."""
    reader = obstacle.reader
    name = reader.module or reader.weight or "a product"
    if alive and bool(obstacle.varies[place]):
        if not writer and reader.source is not None and reader.source in failed:
            return f"nothing proves that {name} reads no signal there: {failed[reader.source]}"
        source = f"which {writer} writes" if writer else "from a layer or a shift that is not zero"
        return f"{name} still reads a signal there, {source}"
    if bool((obstacle.unfoldable | obstacle.absorbable)[place]):
        if not bool(obstacle.seen.uniform[place]):
            return f"it carries a constant that differs by position into {name}"
        how = "pads its input with zeros" if reader.padded else "cannot take it into its bias"
        return f"it carries the constant {obstacle.seen.constant[place].item():.3g} into {name}, which {how}"
    return None


def _writers(live: Liveness, asked: Tensor) -> dict[int, str]:
    """Unit -> a layer that writes it with a row that is not zero, into no norm whose scale is."""
    graph, found = live.subject.graph, dict[int, str]()
    scales = {axis.name.rpartition(".")[0]: axis for axis in graph.axes if axis.role in ("scale", "shift")}
    for axis in graph.axes:
        wanted = axis.units[asked[axis.units] & (axis.units >= 0)]
        weight = live.weights[axis.name]
        if axis.role != "writer" or weight.dim() < 2 or not len(wanted):
            continue
        owner = axis.name.rpartition(".")[0]
        loud = any_along(weight.detach().movedim(axis.axis, 0).flatten(1) != 0, 1).cpu()
        for norm in graph.followers.get(owner, ()):
            scale = live.weights.get(f"{norm}.weight")
            if norm in scales and scale is not None and torch.equal(scales[norm].units, axis.units):
                loud &= (scale.detach() != 0).cpu()
        for unit in axis.units[loud & (axis.units >= 0)].tolist():
            if bool(asked[unit]):
                found.setdefault(unit, owner or axis.name)
    return found
