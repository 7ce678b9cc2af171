"""Solvers: how a penalty enters training, as a hook after any torch optimizer's step."""

from ssl_prune.solvers.base import Solver
from ssl_prune.solvers.gating import GatedSolver
from ssl_prune.solvers.proximal import ProximalSolver
from ssl_prune.solvers.subgradient import SubgradientSolver

__all__ = ["GatedSolver", "ProximalSolver", "Solver", "SubgradientSolver"]
