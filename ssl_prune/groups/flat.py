"""All entries of a partition in one row of memory: a few large kernels instead of several small ones a parameter.

On an accelerator it takes longer to launch a kernel on a layer of a usual size than to run it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_prune.groups.member import Member

__all__ = ["LIMIT", "Flat", "launching_costs"]

LIMIT = 2**24  # entries: the two tables take 8 bytes each, and kernels on larger parameters take longer than a launch


def launching_costs(device: torch.device) -> bool:
    """Whether a kernel on a few thousand entries takes longer to launch than to run."""
    return device.type not in ("cpu", "meta")


class Flat:
    """The group of each entry, in the order in which parameters lie in memory.

    Args:
        members: the parameters, each dense in memory in one order of its dimensions or another.
        num_groups: G.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
        >>> flat = Flat([Member("fc.weight", w, torch.tensor([[0, 1]]))], 2)
        >>> flat.sum([w.detach().square()], torch.float32)
        tensor([25.,  1.])
    """

    def __init__(self, members: Sequence[Member], num_groups: int) -> None:
        self._strides = [m.values.stride() for m in members]
        self._lengths = [m.values.numel() for m in members]
        rows, device = [], members[0].values.device
        for member in members:
            assert member.index is not None
            whole = member.index.to(device, torch.int32).expand(member.values.shape)
            rows.append(whole.permute(_order(member.values.stride())).reshape(-1))
        # Where the parameters are: sorting ten million entries takes a second elsewhere, and follows every cut.
        entries = torch.cat(rows)
        self._group = torch.where(entries < 0, num_groups, entries)
        self._first = entries.argsort(stable=True)[int((entries < 0).sum()) :].int()
        self._counts = torch.bincount(entries[entries >= 0], minlength=num_groups)

    @staticmethod
    def suits(members: Sequence[Member]) -> bool:
        """Whether the parameters are few enough and dense in memory."""
        values = [m.values for m in members]
        return sum(v.numel() for v in values) <= LIMIT and all(
            v.permute(_order(v.stride())).is_contiguous() for v in values
        )

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors lie in memory as the parameters did when the tables were made."""
        return all(t.stride() == s for t, s in zip(tensors, self._strides, strict=True))

    def gather(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """``(N,)`` all entries of tensors laid out as the parameters are."""
        return torch.cat(self._rows(tensors)).to(dtype)

    def spread(self, values: Tensor, fill: float = 1.0) -> Tensor:
        """``(N,)`` for each entry the value ``(G,)`` of its group; `fill` where ungrouped."""
        return torch.cat([values, values.new_full((1,), fill)]).index_select(0, self._group)

    def per_group(self, entries: Tensor) -> Tensor:
        """``(G,)`` the sums of each group's entries ``(N,)``, added up in a fixed order."""
        return torch.segment_reduce(entries.index_select(0, self._first), "sum", lengths=self._counts, unsafe=True)

    def sum(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """``(G,)`` the sum of each group's entries in tensors laid out as the parameters are."""
        return self.per_group(self.gather(tensors, dtype))

    def norms(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """``(G,)`` the root of the sum of squares."""
        return self.per_group(self.gather(tensors, dtype).square()).sqrt_()

    def multiply_(self, tensors: Sequence[Tensor], factors: Tensor) -> None:
        """Multiply each entry in place by its factor ``(N,)``, of the tensors' own dtype."""
        torch._foreach_mul_(self._rows(tensors), factors.split(self._lengths))

    def add_(self, tensors: Sequence[Tensor], others: Sequence[Tensor], factors: Tensor, strength: float) -> None:
        """Add to each entry in place that of `others` times its factor ``(N,)`` and the strength, all of one dtype."""
        torch._foreach_addcmul_(self._rows(tensors), self._rows(others), factors.split(self._lengths), value=strength)

    def _rows(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [t.as_strided((n,), (1,)) for t, n in zip(tensors, self._lengths, strict=True)]


def _order(strides: Sequence[int]) -> list[int]:
    """Dimensions from the one with the largest steps in memory to that with the smallest."""
    return sorted(range(len(strides)), key=lambda d: -strides[d])
