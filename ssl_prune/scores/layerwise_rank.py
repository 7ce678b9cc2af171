"""Another score within each layer, and the same for all layers between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssl_prune.groups import Partition
from ssl_prune.scores.base import Score
from ssl_prune.scores.context import ScoreContext
from ssl_prune.scores.taylor import TaylorGate

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["LayerwiseRank"]


class LayerwiseRank(Score):
    r"""``s_g = (#{h in the layer of g: t_h < t_g} + ½) / n``, with another score t and n groups in that layer.

    Which channels of a layer go is decided by that score, how many of each layer by what a channel saves alone
    (`Budget(cost_exponent=...)`; with 0 all layers keep the same share). That is for a window at the very start of a run, where
    scores do not tell yet how wide each layer should be.

    Args:
        score: t; default `TaylorGate()`.

    Raises:
        TypeError: `score` is no score.

    Example:
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.scores import Magnitude
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[10.0, 20.0], [10.0, 20.0]]))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[4.0, 3.0], [1.0, 0.0]]))
        >>> score = LayerwiseRank(Magnitude())
        >>> score.bind(partition(net, "neuron"))
        >>> score.values()
        tensor([0.2500, 0.7500, 0.7500, 0.2500])
    """

    def __init__(self, score: Score | None = None) -> None:
        if score is not None and not isinstance(score, Score):
            raise TypeError(
                f"LayerwiseRank: score must be a score of ssl_prune.scores, such as TaylorGate(), got {score!r}"
            )
        self.score = TaylorGate() if score is None else score

    @property
    def needs(self) -> tuple[str, ...]:
        """What the other score needs."""
        return self.score.needs

    def bind(self, groups: Partition, *, context: ScoreContext | None = None) -> None:
        """Start anew on these groups."""
        self.score.bind(groups, context=context)
        super().rebind(groups)

    def rebind(
        self, groups: Partition, *, context: ScoreContext | None = None, origin: Mapping[str, Source] | None = None
    ) -> None:
        """Go on with what is left of the members, in the other score too."""
        super().rebind(groups)
        self.score.rebind(groups, context=context, origin=origin)

    def update(self) -> None:
        """Have the other score look."""
        self.score.update()

    def values(self) -> Tensor:
        """The shares; equal scores count in the order of the groups."""
        scores = self.score.values()
        layer = self.groups.layer.to(scores.device)
        order = scores.argsort(stable=True)
        order = order[layer[order].argsort(stable=True)]  # layer by layer, small scores first
        counts = torch.bincount(layer)
        place = torch.arange(len(order), device=scores.device) - (counts.cumsum(0) - counts)[layer[order]]
        shares = torch.empty_like(scores)
        shares[order] = ((place + 0.5) / counts[layer[order]]).to(scores)
        return shares

    def state_dict(self) -> dict[str, Any]:
        """What the other score keeps."""
        return self.score.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        self.score.load_state_dict(state)
