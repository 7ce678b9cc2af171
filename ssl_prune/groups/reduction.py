"""Sums over the processes of a mesh, several of them in one all-reduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Reduction"]


class Reduction:
    """Adds up what each process has of a sum; all of them must make the same calls.

    Args:
        mesh: of the processes.

    Attributes:
        waits: a sum that goes along with the next one of its dtype, in place; None once it has gone.
        off: while true, sums are left as each process has them.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self.waits: Tensor | None = None
        self.off = False

    def __call__(self, sums: Tensor) -> Tensor:
        """The sums of all processes, in place or as a new tensor."""
        if self.off:
            return sums
        waits = self.waits
        if waits is None or waits.dtype != sums.dtype:
            return self._all(sums)
        both = self._all(torch.cat([waits, sums.flatten()]))
        waits.copy_(both[: len(waits)])
        self.waits = None
        return both[len(waits) :].view_as(sums)

    def _all(self, sums: Tensor) -> Tensor:
        # From the last dimension to the first, which holds the replicas: they only pass the first one's sums on, so that
        # all get the same bits.
        for dim in reversed(range(self._mesh.ndim)):
            torch.distributed.all_reduce(sums, group=self._mesh.get_group(dim))
        return sums
