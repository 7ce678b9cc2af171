"""From (parameter, index) pairs to a partition: numbering, shared parameters, and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ssl_prune.groups.member import Member, Role
from ssl_prune.groups.partition import Partition

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph

Layers = Mapping[str, nn.Module]
Tensors = dict[str, tuple[nn.Parameter, Tensor, Role]]


class Granularity(Protocol):
    """Says which entries live or die together.

    Example:
        >>> from ssl_prune.groups import Filter, Weight
        >>> Filter().needs_graph, Weight().needs_graph
        (True, False)
    """

    @property
    def needs_graph(self) -> bool:
        """Whether `build` reads the graph."""

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """Partition the selected layers.

        Args:
            model: the network.
            graph: its channel graph; None where `needs_graph` is False.
            select: the layers, name -> module.

        Raises:
            ValueError: there is no group; the message says why.
        """


class Collector:
    """Gathers members layer by layer, numbering groups from 0; a parameter seen before is skipped.

    Args:
        kind: what a group is called in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: list[Member] = []
        self._layers: list[str] = []
        self._layer: list[Tensor] = []
        self._seen: set[int] = set()
        self._total = 0

    def add(self, layer: str, tensors: Mapping[str, tuple[nn.Parameter, Tensor, Role]]) -> None:
        """Add one layer's groups: parameter names to the parameter, its index, numbered from 0 in this layer, and its role.

        The numbers may leave gaps (a position that cannot be removed is -1); they are closed here.

        Args:
            layer: name of the layer.
            tensors: parameter name -> the parameter, its index as of a `Member`, its role.
        """
        fresh = {name: given for name, given in tensors.items() if id(given[0]) not in self._seen}
        if not fresh:
            return
        used = torch.cat([index.reshape(-1) for _, index, _ in fresh.values()])
        used = torch.bincount(used[used >= 0]).nonzero().reshape(-1)
        if not used.numel():
            return
        for name, (param, index, role) in fresh.items():
            number = torch.searchsorted(used, index) + self._total
            self._members.append(Member(name, param, torch.where(index < 0, -1, number), role=role))
            self._seen.add(id(param))
        self._layer.append(torch.full((used.numel(),), len(self._layers)))
        self._layers.append(layer)
        self._total += used.numel()

    def finish(self, why_empty: str, reasons: Callable[[], str] = str) -> Partition:
        """The partition.

        Raises:
            ValueError: no group was added; the message ends with `why_empty` and the `reasons`.
        """
        if not self._members:
            raise ValueError(f"no {self.kind} groups: {why_empty}{reasons()}")
        return Partition(self._members, self._layers, torch.cat(self._layer), self.kind)


def parameter(layer: str, module: nn.Module, name: str = "weight") -> nn.Parameter:
    """The layer's own parameter.

    Raises:
        ValueError: the layer computes it from others (a parametrization), so it cannot be set to zero in place.
    """
    found = module._parameters.get(name)
    if found is None:
        raise ValueError(
            f"{layer}: {name} is not a parameter of {type(module).__name__} (a parametrization computes it); "
            "remove the parametrization or exclude the layer"
        )
    return found


def along(param: Tensor, axis: int, values: Tensor) -> Tensor:
    """Values along one axis of a parameter, of size 1 in its other dimensions.

    Example:
        >>> along(torch.empty(2, 3, 5, 5), 1, torch.arange(3)).shape
        torch.Size([1, 3, 1, 1])
    """
    return values.reshape([-1 if d == axis else 1 for d in range(param.ndim)])


def prefixed(layer: str, name: str) -> str:
    """The parameter's name in the model; a model that is itself the layer has no prefix."""
    return f"{layer}.{name}" if layer else name
