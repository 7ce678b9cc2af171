"""How many stay, and where: exactly k with seeded ties, shares of layers, and the order that floors and blocks allow."""

from ssl_prune.selection.counts import kept, rounded
from ssl_prune.selection.densities import DISTRIBUTIONS, densities
from ssl_prune.selection.largest import largest
from ssl_prune.selection.removal_order import KeepRules, RemovalOrder
from ssl_prune.selection.select import select

__all__ = ["DISTRIBUTIONS", "KeepRules", "RemovalOrder", "densities", "kept", "largest", "rounded", "select"]
