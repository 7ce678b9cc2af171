"""Scores: which groups matter least. One file an idea; a new one needs `update` and `values`."""

from ssl_prune.scores.base import EMAScore, Score
from ssl_prune.scores.layerwise_rank import LayerwiseRank
from ssl_prune.scores.magnitude import Magnitude
from ssl_prune.scores.random import Random
from ssl_prune.scores.taylor import TaylorGate, TaylorGroup, TaylorWeight

__all__ = ["EMAScore", "LayerwiseRank", "Magnitude", "Random", "Score", "TaylorGate", "TaylorGroup", "TaylorWeight"]
