"""What the weights were at the start, and how far they have moved since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ssl_prune.groups import Partition
from ssl_prune.scores.base import Score, lengths
from ssl_prune.scores.context import ScoreContext, by_member

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["InitialMagnitude", "Movement"]


class _SinceStart(Score):
    """Knows the initial weights: the context's, else those at `bind`, which its state then keeps."""

    def bind(self, groups: Partition, *, context: ScoreContext | None = None) -> None:
        """Take the initial weights."""
        super().bind(groups, context=context)
        self._kept = {} if self.context.initial else {m.name: m.param.detach().clone() for m in groups.members}

    def rebind(
        self, groups: Partition, *, context: ScoreContext | None = None, origin: Mapping[str, Source] | None = None
    ) -> None:
        """Go on with what is left of the members and of their initial weights, where no context gives these."""
        super().rebind(groups, context=context)
        if origin is not None:
            kept = self._kept
            self._kept = {
                name: source.take(kept[source.name]) for name, source in origin.items() if source.name in kept
            }

    def state_dict(self) -> dict[str, Any]:
        """The initial weights, where no context gives them."""
        return {"initial": {name: value.clone() for name, value in self._kept.items()}} if self._kept else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self._kept = dict(state.get("initial", {}))

    @property
    def _initial(self) -> list[Tensor]:
        return by_member(self.groups, self.context.initial or self._kept, f"{type(self).__name__}: initial weights")


class InitialMagnitude(_SinceStart):
    """``s_g = ‖w_g(0)‖₂``; ``Magnitude() - InitialMagnitude()`` is by how much a group has grown.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, -4.0]]))
        >>> score = InitialMagnitude()
        >>> score.bind(partition(net, "weight"))
        >>> _ = net[0].weight.data.zero_()
        >>> score.values()
        tensor([3., 4.])

    Source: Zhou et al., Deconstructing Lottery Tickets (2019), large init and magnitude increase.
    """

    def values(self) -> Tensor:
        """The norms at the start."""
        return lengths(self.groups, self._initial)


class Movement(_SinceStart):
    """``s_g = ‖w_g − w_g(0)‖₂``.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> score = Movement()
        >>> score.bind(partition(net, "weight"))
        >>> _ = net[0].weight.data.add_(torch.tensor([[3.0, -4.0]]))
        >>> score.values().round()
        tensor([3., 4.])

    Source: Zhou et al., Deconstructing Lottery Tickets (2019), movement.
    """

    def values(self) -> Tensor:
        """The norms of the way so far."""
        pairs = zip(self.groups.members, self._initial, strict=True)
        return lengths(self.groups, [member.values.detach() - before for member, before in pairs])
