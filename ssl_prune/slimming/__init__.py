"""Slimming: values, liveness, plan, apply, verify, repair; and files of plan and tensors."""

from ssl_prune.slimming.files import load_slim, save_slim
from ssl_prune.slimming.plan import SlimPlan
from ssl_prune.slimming.report import SlimReport
from ssl_prune.slimming.slim import SlimResult, slim

__all__ = ["SlimPlan", "SlimReport", "SlimResult", "load_slim", "save_slim", "slim"]
