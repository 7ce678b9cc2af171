"""Penalties: what being non-zero costs. One file a penalty, the pure mathematics in `functional`."""

from ssl_prune.penalties.base import Penalty
from ssl_prune.penalties.group_lasso import GroupLasso
from ssl_prune.penalties.group_mcp import GroupMCP
from ssl_prune.penalties.group_norm import GroupNormPenalty, SizeNorm
from ssl_prune.penalties.group_scad import GroupSCAD
from ssl_prune.penalties.l1 import L1
from ssl_prune.penalties.sparse_group_lasso import SparseGroupLasso

__all__ = [
    "L1",
    "GroupLasso",
    "GroupMCP",
    "GroupNormPenalty",
    "GroupSCAD",
    "Penalty",
    "SizeNorm",
    "SparseGroupLasso",
]
