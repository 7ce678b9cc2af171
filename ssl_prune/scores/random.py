"""Scores that say nothing: what every other one has to beat."""

import torch
from torch import Tensor

from ssl_prune.groups import Partition
from ssl_prune.scores.base import Score
from ssl_prune.scores.context import ScoreContext

__all__ = ["Random"]


class Random(Score):
    """Uniform numbers that stay the same for the whole run, on every process.

    Args:
        seed: of the numbers.

    Example:
        >>> from ssl_prune.groups import partition
        >>> score = Random(seed=1)
        >>> score.bind(partition(torch.nn.Sequential(torch.nn.Linear(2, 3)), "neuron"))
        >>> torch.equal(score.values(), score.values())
        True
    """

    def __init__(self, seed: int = 0) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"Random: seed must be a whole number, got {seed!r}")
        self.seed = seed

    def bind(self, groups: Partition, *, context: ScoreContext | None = None) -> None:
        """Draw the numbers."""
        super().bind(groups, context=context)
        self._drawn = torch.rand(groups.num_groups, generator=torch.Generator().manual_seed(self.seed))

    def values(self) -> Tensor:
        """The numbers."""
        return self._drawn.to(self.groups.members[0].param.device)
