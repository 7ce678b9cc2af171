"""Slimming: constants, liveness, plan, cut, proof, repair; and files of plan and tensors."""

from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.outcome.slim_file import load_slim, save_slim
from ssl_prune.slimming.outcome.slim_report import SlimReport
from ssl_prune.slimming.plan.plan import SlimPlan

__all__ = ["SlimPlan", "SlimReport", "SlimResult", "load_slim", "save_slim"]
