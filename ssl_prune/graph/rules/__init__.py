"""Operator rules of the label pass, one family a file. A rule takes the labels, the node and the arguments' labels.

Adding an operator is adding a function under `@rule(...)`. An operator without a rule pins what it reads: its channels
are kept, and the report names it.
"""

from ssl_prune.graph.labels.rule_registry import has_rule, rule
from ssl_prune.graph.rules import (
    contraction,
    indexing,
    layer_product,
    movement,
    norm,
    pointwise,
    pooling,
    product,
    recurrent,
    reduction,
)

__all__ = [
    "contraction",
    "has_rule",
    "indexing",
    "layer_product",
    "movement",
    "norm",
    "pointwise",
    "pooling",
    "product",
    "recurrent",
    "reduction",
    "rule",
]
