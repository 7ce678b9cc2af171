"""Operator rules of the label pass, one family a file. A rule takes the pass, the node and the arguments' labels.

Adding an operator is adding a function under `@rule(...)`. An operator without a rule pins what it reads: its channels
are kept, and the report names it.
"""

from ssl_prune.graph.rules import contraction, movement, norm, pointwise, pooling, product, recurrent, reduction
from ssl_prune.graph.rules.registry import follow, rule, rule_for, unknown

__all__ = [
    "contraction",
    "follow",
    "movement",
    "norm",
    "pointwise",
    "pooling",
    "product",
    "recurrent",
    "reduction",
    "rule",
    "rule_for",
    "unknown",
]
