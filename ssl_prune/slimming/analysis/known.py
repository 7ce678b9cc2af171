"""A value on its way through a program, with which of its elements depend on the input."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ssl_prune.graph.labels.broadcast import base

__all__ = ["Known", "still"]


@dataclass(frozen=True)
class Known:
    """A value and, of the same shape, which of its elements depend on the input.

    The mask is a stride-0 view along axes where it is the same. `free` says that its shape does not depend on the input
    either: it is computed from parameters alone.
    """

    value: Tensor
    varies: Tensor
    free: bool = False


def still(known: Iterable[Known]) -> bool:
    """Nothing in any of the values depends on the input."""
    return not any(bool(base(k.varies).any()) for k in known)
