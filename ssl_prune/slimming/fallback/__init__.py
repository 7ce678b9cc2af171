"""Slimming of networks that only the second tracer follows."""
