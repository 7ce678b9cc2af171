"""Everything between a stated size and a choice of groups, for one network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from ssl_prune.budget.controller import Controller
from ssl_prune.budget.indivisible import IndivisibleGroups, indivisible
from ssl_prune.budget.limits import Limits
from ssl_prune.budget.measure import at_zero, latency_left
from ssl_prune.graph import ChannelGraph
from ssl_prune.groups import Partition
from ssl_prune.latency import latency, without_zeros
from ssl_prune.sizes.latency_model import LatencyModel
from ssl_prune.sizes.model import SizeModel
from ssl_prune.utils.inputs import Inputs, uncompiled

__all__ = ["BudgetProblem", "make_problem"]

# Of a layer's channels, and how much smaller than the limits the network could become with it, so that there is a choice
# left. Scores look at one channel at a time: where each of many does what others do as well all score low, and the last
# layer of a VGG-16-BN was cut to two of its 512 channels. Times fall in steps, for which layers may have to go further.
FLOOR, ROOM = 0.1, 2.0


@dataclass(frozen=True)
class BudgetProblem:
    """A network's groups, what each costs, and what may go.

    Args:
        parts: the groups.
        sizes: multiply-accumulates and parameters without some units.
        times: seconds without some units, where the latency is limited.
        controller: the limits.
    """

    parts: IndivisibleGroups
    sizes: SizeModel
    times: LatencyModel | None
    controller: Controller

    def saving(self, dead: Tensor) -> Tensor:
        """``(A,)`` the share that each group saves where the `dead` ones are gone, of all that is limited together."""
        units = self.parts.dead_units(dead)
        each = self.sizes.savings(units)
        if self.times is not None:
            each["latency"] = self.times.savings(units)
        return torch.stack([self.parts.sum(each[kind]) / self.dense[kind] for kind in self.controller.limits]).sum(0)

    @property
    def dense(self) -> dict[str, float]:
        """What the dense network costs."""
        return self.sizes.dense if self.times is None else {**self.sizes.dense, "latency": self.times.dense}

    def left(self, dead: Tensor) -> dict[str, float]:
        """The share of each limited kind without the dead groups."""
        return self._shares(dead)

    def update_latency_limit(self, limits: Limits, reference: nn.Module, inputs: Inputs) -> None:
        """Go over to another batch, of which a limit in milliseconds is another share.

        Args:
            limits: as they were stated.
            reference: the dense network, of which no channel is at zero.
            inputs: the batch that is timed from now on.
        """
        if limits.latency_ms is not None:
            with uncompiled():
                seconds = latency(reference, inputs)
            self.controller.limits.update(limits.shares({**self.dense, "latency": seconds}))

    def measure(
        self, graph: ChannelGraph, network: nn.Module, reference: nn.Module, inputs: Inputs, dead: Tensor
    ) -> dict[str, float]:
        """Measure what is an estimate else, which is corrected by it.

        Args:
            graph: of the network.
            network: with the dead groups at zero.
            reference: the dense network, of which no channel is at zero.
            inputs: the batch that is timed.
            dead: ``(A,)`` groups that are at zero.

        Returns:
            kind -> the share that is left.
        """
        if self.times is None:
            return {}
        share = latency_left(graph, network, reference, inputs, self.times.dense)
        self.times.correct(self.parts.dead_units(dead), self.times.dense * share)
        return {"latency": share}

    def _shares(self, dead: Tensor) -> dict[str, float]:
        return _shares(self.parts, self.sizes, self.times, dead, self.controller.limits)


def _shares(
    parts: IndivisibleGroups, sizes: SizeModel, times: LatencyModel | None, dead: Tensor, kinds: Collection[str]
) -> dict[str, float]:
    units = parts.dead_units(dead)
    found = {kind: left / sizes.dense[kind] for kind, left in sizes(units, kinds=kinds).items()}
    if times is not None and "latency" in kinds:
        found["latency"] = times(units) / times.dense
    return found


def make_problem(
    graph: ChannelGraph,
    model: nn.Module,
    groups: Partition,
    limits: Limits,
    *,
    inputs: Inputs | None = None,
    min_keep_ratio: float | None = None,
    round_to: int = 1,
    kept: Tensor | None = None,
) -> BudgetProblem:
    """What it takes to bring a network to a stated size.

    Args:
        graph: channel graph of the network.
        model: the network.
        groups: the coupled groups that may go.
        limits: the stated size.
        inputs: for a limit on the latency, the batch that is timed.
        min_keep_ratio: share of each layer's groups that stay, one at least; None: a tenth, where the limits are at least twice as
            large as what is left with it, else one; one with a limit on the latency.
        round_to: have widths go by so many channels.
        kept: ``(U,)`` units that stay in any case, as a proof keeps them.

    Raises:
        ValueError: the size is met already, or cannot be reached; the message has the smallest that can. Or the network
            was followed by the second tracer only.

    Example:
        >>> from ssl_prune.graph import trace
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = trace(net, torch.zeros(1, 4))
        >>> problem = make_problem(graph, net, partition(net, "coupled", graph=graph), Limits(macs=0.5))
        >>> problem.left(torch.arange(8) < 4)
        {'macs': 0.5}
    """
    if graph.refusal is not None:
        raise ValueError(
            f"Budget: what {type(model).__name__} costs without some channels is known only where torch.export follows the "
            f"network, and it refused: {graph.refusal}. Give GroupLasso a strength instead"
        )
    parts, sizes = indivisible(graph, groups, kept), SizeModel(graph, model, round_to)
    times = None
    if "latency" in limits.kinds:
        if inputs is None:
            raise ValueError("Budget: a limit on the latency needs the batch that is timed")
        times = LatencyModel(graph, model, inputs)
    dense = sizes.dense if times is None else {**sizes.dense, "latency": times.dense}
    shares = limits.shares(dense)

    def size(dead: Tensor) -> dict[str, float]:
        return _shares(parts, sizes, times, dead, shares)  # asked for a hundred times a decision

    def text(sizes: Mapping[str, float]) -> str:
        return limits.text({kind: sizes[kind] for kind in shares}, shares)

    none = torch.zeros(parts.groups.num_groups, dtype=torch.bool)
    now, least = size(none), {}
    if all(now[kind] <= share for kind, share in shares.items()):
        raise ValueError(f"Budget: {limits.text(shares, shares)} is met already: the network is at {text(now)}")
    floors = (
        [(min_keep_ratio or 0.0, 1.0)]
        if min_keep_ratio is not None or times is not None
        else [(FLOOR, ROOM), (0.0, 1.0)]
    )
    for least_share, room in floors:
        controller = Controller(
            size, shares, parts.groups.layer, min_keep_ratio=least_share, fixed=parts.fixed,
            block=_blocks(parts, graph.num_units, round_to), stepped=times is not None,
        )  # fmt: skip
        least = size(controller.smallest())
        if times is not None and inputs is not None:  # which no estimate decides
            with at_zero(parts.groups, controller.smallest()):
                least["latency"] = latency_left(graph, model, without_zeros(model), inputs, times.dense)
        if all(room * least[kind] <= share for kind, share in shares.items()):
            break
    else:
        proof = "" if kept is None or not bool(kept.any()) else f", and {int(kept.sum())} channels that the proof keeps"
        raise ValueError(
            f"Budget: {limits.text(shares, shares)} cannot be reached: with what has to stay of each layer (min_keep_ratio={min_keep_ratio or 0.0}, "
            f"round_to={round_to}{proof}) the network is at {text(least)}. State a larger size, a lower min_keep_ratio or "
            "round_to, or exclude fewer layers"
        )
    return BudgetProblem(parts, sizes, times, controller)


def _blocks(parts: IndivisibleGroups, num_units: int, round_to: int) -> Tensor:
    """``(L,)`` how many groups of each layer make a multiple of `round_to` units."""
    units = parts.sum(torch.ones(num_units, dtype=torch.long))
    most = torch.zeros(int(parts.groups.layer.max()) + 1, dtype=torch.long)
    most.scatter_reduce_(0, parts.groups.layer.cpu(), units, "amax")
    return torch.tensor([round_to // gcd(round_to, n) for n in most.tolist()])
