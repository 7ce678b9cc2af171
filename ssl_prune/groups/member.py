"""One parameter of a partition, and the group of each of its entries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Member:
    """One parameter of a partition and the group of each of its entries.

    Args:
        name: the parameter's name in the model, such as ``"conv1.weight"``.
        param: the parameter.
        index: group numbers in ``[-1, G)``, as many dimensions as ``param``, of size 1 in the dimensions that a group
            spans; -1 = in no group. ``None``: every entry is a group of its own, numbered in order across members
            (no index tensor is stored).
    """

    name: str
    param: nn.Parameter
    index: Tensor | None

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
