"""Slimming: values, liveness, plan, apply, verify, repair; and files of plan and tensors."""

from ssl_prune.slimming.compiler import SlimResult, slim
from ssl_prune.slimming.outcome.slim_file import load_slim, save_slim
from ssl_prune.slimming.outcome.slim_report import SlimReport
from ssl_prune.slimming.plan.plan import SlimPlan

__all__ = ["SlimPlan", "SlimReport", "SlimResult", "load_slim", "save_slim", "slim"]
