"""Rules of the taint mask, one family of operators a file: which elements of a result depend on the input.

Adding an operator is adding a function under `@rule(...)`. Of an operator without a rule all of the result does.
"""

from ssl_prune.slimming.analysis.dependence_rules import (
    contraction,
    indexing,
    movement,
    norm,
    pointwise,
    pooling,
    product,
    recurrent,
    reduction,
)
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, rule_for

__all__ = [
    "Call",
    "contraction",
    "indexing",
    "movement",
    "norm",
    "pointwise",
    "pooling",
    "product",
    "recurrent",
    "reduction",
    "rule_for",
]
