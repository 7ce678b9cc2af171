"""Scores: which groups matter least. One file an idea; a new one needs `update` and `values`."""

from ssl_prune.scores.base import Moving, Score
from ssl_prune.scores.magnitude import Magnitude
from ssl_prune.scores.random import Random
from ssl_prune.scores.ranks import Ranks
from ssl_prune.scores.taylor import FirstOrder, TaylorRows, TaylorScale

__all__ = ["FirstOrder", "Magnitude", "Moving", "Random", "Ranks", "Score", "TaylorRows", "TaylorScale"]
