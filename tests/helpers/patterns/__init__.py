"""Small networks, one structural pattern each, with zeros as training leaves them: what removal has to get right."""

from patterns import (
    attention,
    branches,
    chains,
    code,
    experts,
    grouped,
    heads,
    hidden,
    indexing,
    movement,
    norms,
    order,
    parameters,
    recurrent,
)
from patterns.registry import PATTERNS, Pattern

__all__ = [
    "PATTERNS",
    "Pattern",
    "attention",
    "branches",
    "chains",
    "code",
    "experts",
    "grouped",
    "heads",
    "hidden",
    "indexing",
    "movement",
    "norms",
    "order",
    "parameters",
    "recurrent",
]
