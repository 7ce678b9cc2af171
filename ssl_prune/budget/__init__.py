"""From a stated size to a strength: limits, the size of what is left, what goes together, and the controller."""

from ssl_prune.budget.atoms import Atoms, atoms, units_of
from ssl_prune.budget.controller import Choice, Controller, Window
from ssl_prune.budget.limits import Limits
from ssl_prune.budget.sizes import SizeModel

__all__ = ["Atoms", "Choice", "Controller", "Limits", "SizeModel", "Window", "atoms", "units_of"]
