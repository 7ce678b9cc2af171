"""Solvers: how a penalty enters training, as a hook after any torch optimizer's step."""

from ssl_prune.solvers.base import Solver
from ssl_prune.solvers.gating import GatedSolver
from ssl_prune.solvers.proximal import ProximalSolver
from ssl_prune.solvers.step_hook import StepHook
from ssl_prune.solvers.subgradient import SubgradientSolver

__all__ = ["GatedSolver", "ProximalSolver", "Solver", "StepHook", "SubgradientSolver"]
