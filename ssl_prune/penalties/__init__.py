"""Penalties: what being non-zero costs. One file a penalty, the pure mathematics in `functional`."""

from ssl_prune.penalties.base import Penalty
from ssl_prune.penalties.group_lasso import GroupLasso, SizeNorm
from ssl_prune.penalties.l1 import L1
from ssl_prune.penalties.sparse_group_lasso import SparseGroupLasso

__all__ = ["L1", "GroupLasso", "Penalty", "SizeNorm", "SparseGroupLasso"]
