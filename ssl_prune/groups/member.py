"""One parameter of a partition, and the group of each of its entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

__all__ = ["NORMALISATION", "WRITING", "Member", "Role", "written_by"]

Role = Literal["row", "column", "bias", "scale", "shift", "other"]
NORMALISATION: tuple[Role, ...] = ("scale", "shift")
WRITING: tuple[Role, ...] = ("row", "column", "bias")


@dataclass(frozen=True, eq=False)
class Member:
    """One parameter of a partition and the group of each of its entries.

    Args:
        name: the parameter's name in the model, such as ``"conv1.weight"``.
        param: the parameter.
        index: group numbers in ``[-1, G)``, as many dimensions as ``param``, of size 1 in the dimensions that a group
            spans; -1 = in no group. ``None``: every entry is a group of its own, numbered in order across members
            (no index tensor is stored).
        role: what its entries are to their groups: weight rows that write the group's unit ("row", also single weights),
            weight columns that read it ("column"), what is added to it ("bias"), "scale" and "shift" of a normalisation,
            or "other", such as the slopes of a PReLU.

    Example:
        >>> import torch
        >>> weight = nn.Parameter(torch.ones(3, 2))
        >>> Member("fc.weight", weight, torch.tensor([[0], [1], [-1]]), role="row").dims
        (1,)
    """

    name: str
    param: nn.Parameter
    index: Tensor | None
    role: Role = field(default="other", kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of per-group values laid over the parameter: 1 in the dimensions that a group spans."""
        return tuple((self.values if self.index is None else self.index).shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions that a group spans."""
        return tuple(d for d, size in enumerate(self.shape) if size == 1 and self.values.shape[d] != 1)

    @property
    def values(self) -> Tensor:
        """The parameter's entries that this process holds: all of them, unless it is sharded."""
        return self.param

    @property
    def grad(self) -> Tensor | None:
        """The gradient of `values`."""
        return self.param.grad

    def local(self, tensor: Tensor) -> Tensor:
        """What this process holds of a tensor laid out as the parameter is, such as a momentum."""
        return tensor


def written_by(role: str, param: Tensor) -> Role:
    """The role of a parameter of which the channel graph says `role`: "writer", "scale", "shift", "bias" or another.

    Example:
        >>> import torch
        >>> written_by("writer", torch.empty(3, 2)), written_by("writer", torch.empty(3)), written_by("statistic", torch.empty(3))
        ('row', 'bias', 'other')
    """
    if role == "writer":
        return "row" if param.ndim > 1 else "bias"
    roles: dict[str, Role] = {"scale": "scale", "shift": "shift", "bias": "bias"}
    return roles.get(role, "other")
