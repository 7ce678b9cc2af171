"""Cutting a network while it trains: in place, with its optimizers, and with the way back to the dense form."""

from ssl_prune.shrinking.checkpoint_widths import follow_checkpoints
from ssl_prune.shrinking.history import Lineage, dense_form, lineage_of
from ssl_prune.shrinking.index_maps import Source
from ssl_prune.shrinking.inplace_cut import check_optimizers, graft
from ssl_prune.shrinking.remap import carry
from ssl_prune.shrinking.training_cut import training_cut, what_may_go

__all__ = [
    "Lineage",
    "Source",
    "carry",
    "check_optimizers",
    "dense_form",
    "follow_checkpoints",
    "graft",
    "lineage_of",
    "training_cut",
    "what_may_go",
]
