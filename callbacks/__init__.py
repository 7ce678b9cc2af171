"""The Lightning side: add these to a `Trainer`."""

from ssl_prune.callbacks.budget import Budget
from ssl_prune.callbacks.distill import Distill
from ssl_prune.callbacks.group_lasso import GroupLasso
from ssl_prune.callbacks.l1 import L1
from ssl_prune.callbacks.monitor import SparsityMonitor
from ssl_prune.callbacks.penalise import Penalise
from ssl_prune.callbacks.shrink import Shrink
from ssl_prune.callbacks.slim import Slim

__all__ = ["L1", "Budget", "Distill", "GroupLasso", "Penalise", "Shrink", "Slim", "SparsityMonitor"]
