"""Which groups of a network are alive, and what that means for its weights, gradients and optimizers."""

from ssl_prune.masks.agreement import check_agreement
from ssl_prune.masks.mask import Mask
from ssl_prune.masks.optimizer_state import clear_state

__all__ = ["Mask", "check_agreement", "clear_state"]
