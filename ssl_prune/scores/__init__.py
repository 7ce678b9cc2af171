"""Scores: which groups matter least. One file an idea; a new one needs `values`, and `update` if it remembers steps."""

from ssl_prune.scores.base import EMAScore, Score, Sum
from ssl_prune.scores.context import ScoreContext
from ssl_prune.scores.gradient import Gradient
from ssl_prune.scores.initial import InitialMagnitude, Movement
from ssl_prune.scores.layerwise_rank import LayerwiseRank
from ssl_prune.scores.magnitude import Magnitude
from ssl_prune.scores.random import Random
from ssl_prune.scores.second_order import SecondOrder
from ssl_prune.scores.taylor import TaylorGate, TaylorGroup, TaylorWeight

__all__ = [
    "EMAScore",
    "Gradient",
    "InitialMagnitude",
    "LayerwiseRank",
    "Magnitude",
    "Movement",
    "Random",
    "Score",
    "ScoreContext",
    "SecondOrder",
    "Sum",
    "TaylorGate",
    "TaylorGroup",
    "TaylorWeight",
]
