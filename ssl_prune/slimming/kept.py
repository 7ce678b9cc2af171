"""The record of zeros that stay."""

from dataclasses import dataclass

__all__ = ["Kept"]


@dataclass(frozen=True)
class Kept:
    """Zero structures that stay: how many, in which layer, and why."""

    layer: str
    count: int
    reason: str
