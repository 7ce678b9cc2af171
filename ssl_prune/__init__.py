"""Train whole structures of a network to exactly zero, cut them out, and prove that nothing changed."""

from ssl_prune.costs import cost
from ssl_prune.errors import GraphError, SlimError
from ssl_prune.pipeline import slim
from ssl_prune.slimming import SlimPlan, SlimReport, SlimResult, load_slim, save_slim

__all__ = [
    "GraphError",
    "SlimError",
    "SlimPlan",
    "SlimReport",
    "SlimResult",
    "cost",
    "load_slim",
    "save_slim",
    "slim",
]
