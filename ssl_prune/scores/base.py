"""What every score is: a number for each group, the smaller the less the network needs it; and sums of scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssl_prune.groups import Partition
from ssl_prune.scores.context import ScoreContext
from ssl_prune.utils.checks import check_number, check_state

if TYPE_CHECKING:
    from ssl_prune.shrinking.index_maps import Source

__all__ = ["EMAScore", "Score", "Sum"]


class Score(ABC):
    """Says how much each group matters, from its entries and their gradients.

    Scores add up: ``Magnitude() + 0.5 * Gradient("task")`` is a `Sum`.

    Example:
        >>> from ssl_prune.groups import partition
        >>> class Sizes(Score):
        ...     def values(self):
        ...         return self.groups.sizes
        >>> score = Sizes()
        >>> score.bind(partition(torch.nn.Linear(2, 3), "neuron"))
        >>> (-score).values()
        tensor([-3., -3.])
    """

    context = ScoreContext()

    @property
    def needs(self) -> tuple[str, ...]:
        """What of a context it cannot do without, each with its own name: ``"SecondOrder: curvature"``."""
        return ()

    def bind(self, groups: Partition, *, context: ScoreContext | None = None) -> None:
        """Take the groups to score.

        Args:
            groups: the partition.
            context: what it may see beside weights and gradients; default nothing.
        """
        self.context = ScoreContext() if context is None else context
        self.rebind(groups)

    def rebind(
        self, groups: Partition, *, context: ScoreContext | None = None, origin: Mapping[str, Source] | None = None
    ) -> None:
        """Go on with the same groups on what is left of their members; what is remembered of each stays.

        Args:
            groups: the partition.
            context: of what is left; default the one that it has.
            origin: where the entries of each parameter stood before, which what is kept of single entries follows; None:
                where they are.
        """
        self.groups = groups
        self.context = self.context if context is None else context

    def update(self) -> None:
        """Look at parameters and gradients, once an optimizer step; by default nothing is remembered."""
        return

    @abstractmethod
    def values(self) -> Tensor:
        """``(G,)`` the scores now."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers and tensors only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, after `bind`."""
        return

    def __add__(self, other: Score) -> Sum:
        """The sum of both."""
        return Sum([self, other]) if isinstance(other, Score) else NotImplemented

    def __sub__(self, other: Score) -> Sum:
        """The difference."""
        return Sum([self, other], [1.0, -1.0]) if isinstance(other, Score) else NotImplemented

    def __mul__(self, weight: float) -> Sum:
        """The score times a number."""
        return Sum([self], [weight]) if isinstance(weight, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Sum:
        """The score turned round: what mattered most matters least."""
        return Sum([self], [-1.0])


class Sum(Score):
    """``s_g = Σ_i weight_i · s_i(g)``, what ``a + 0.5 * b`` makes.

    Args:
        scores: what is added up.
        weights: a number for each; default 1.

    Raises:
        TypeError: something is no score, or no list.
        ValueError: no score, another number of weights than of scores, or one that is not finite.

    Example:
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.scores import Magnitude
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> score = Sum([Magnitude(), Magnitude(per_entry=True)], [1.0, -0.5])
        >>> score.bind(partition(net, "neuron"))
        >>> score.values()
        tensor([1.9393, 2.6654])

    Source: for sums of weight and gradients of two losses, Wang et al., SparCL (2022), equation 1.
    """

    def __init__(self, scores: Sequence[Score], weights: Sequence[float] | None = None) -> None:
        if not isinstance(scores, Sequence) or not isinstance(weights, Sequence | None):
            raise TypeError(f"Sum: expected a list of scores and a list of weights, got {scores!r} and {weights!r}")
        weights = [1.0] * len(scores) if weights is None else weights
        if not scores or len(scores) != len(weights):
            raise ValueError(f"Sum: expected scores and a weight for each, got {len(scores)} and {len(weights)}")
        self.terms: dict[Score, float] = {}  # a score that comes twice looks at each step once
        for score, weight in zip(scores, weights, strict=True):
            if not isinstance(score, Score):
                raise TypeError(f"Sum: scores must be scores of ssl_prune.scores, got {score!r}")
            check_number(weight, "Sum: each of weights")
            for term, factor in score.terms.items() if isinstance(score, Sum) else [(score, 1.0)]:
                self.terms[term] = self.terms.get(term, 0.0) + factor * weight

    @property
    def needs(self) -> tuple[str, ...]:
        """What each score needs."""
        return tuple(need for score in self.terms for need in score.needs)

    def bind(self, groups: Partition, *, context: ScoreContext | None = None) -> None:
        """Start anew on these groups."""
        for score in self.terms:
            score.bind(groups, context=context)
        super().rebind(groups)

    def rebind(
        self, groups: Partition, *, context: ScoreContext | None = None, origin: Mapping[str, Source] | None = None
    ) -> None:
        """Go on with what is left of the members, in each score."""
        super().rebind(groups)
        for score in self.terms:
            score.rebind(groups, context=context, origin=origin)

    def update(self) -> None:
        """Have each score look."""
        for score in self.terms:
            score.update()

    def values(self) -> Tensor:
        """The weighted sum."""
        return torch.stack([weight * score.values() for score, weight in self.terms.items()]).sum(0)

    def state_dict(self) -> dict[str, Any]:
        """What each score keeps."""
        return {"terms": [score.state_dict() for score in self.terms]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for another number of scores."""
        check_state(state, ["terms"], "Sum")
        if len(state["terms"]) != len(self.terms):
            raise ValueError(f"Sum: the state is of {len(state['terms'])} scores, expected {len(self.terms)}")
        for score, own in zip(self.terms, state["terms"], strict=True):
            score.load_state_dict(own)


class EMAScore(Score):
    """A score that is the root of a moving mean of squares.

    ``s_g = sqrt(mean_t[x_g(t)²])``, the mean with weights ``decay^k`` for the step k steps ago.

    Args:
        decay: of the moving mean, in [0, 1).

    Raises:
        ValueError: a decay out of its range.

    Example:
        >>> from ssl_prune.groups import partition
        >>> class Gradients(EMAScore):
        ...     def now(self):
        ...         return lengths(self.groups, [m.grad for m in self.groups.members])
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> score = Gradients(decay=0.5)
        >>> score.bind(partition(layer, "neuron"))
        >>> layer.weight.grad = torch.tensor([[3.0, -4.0]])
        >>> score.update()
        >>> score.values()
        tensor([3., 4.])
    """

    def __init__(self, decay: float = 0.98) -> None:
        check_number(decay, f"{type(self).__name__}: decay", low=0, below=1)
        self.decay = decay

    def bind(self, groups: Partition, *, context: ScoreContext | None = None) -> None:
        """Start anew on these groups."""
        super().bind(groups, context=context)
        self._mean = torch.zeros(groups.num_groups, device=groups.members[0].param.device, dtype=groups.dtype)
        self._weight = 0.0

    @abstractmethod
    def now(self) -> Tensor:
        """``(G,)`` the value x of this step."""

    @torch.no_grad()
    def update(self) -> None:
        """Take the value of this step into the mean; one that is not finite is left out."""
        value = self.now().square_()
        self._mean = self._mean.to(value.device)
        value = torch.where(value.isfinite(), value, self._mean / max(self._weight, 1e-12))
        self._mean.lerp_(value, 1 - self.decay)
        self._weight = self.decay * self._weight + 1 - self.decay

    def values(self) -> Tensor:
        """The root of the mean; zeros before the first step."""
        return (self._mean / max(self._weight, 1e-12)).sqrt_()

    def state_dict(self) -> dict[str, Any]:
        """The mean and its weight."""
        return {"mean": self._mean.clone(), "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for another number of groups."""
        check_state(state, ["mean", "weight"], type(self).__name__)
        if state["mean"].shape != self._mean.shape:
            raise ValueError(
                f"{type(self).__name__}: the state has {tuple(state['mean'].shape)} groups, expected "
                f"{tuple(self._mean.shape)}: it belongs to another network or another choice of layers"
            )
        self._mean, self._weight = state["mean"].to(self._mean, copy=True), float(state["weight"])


@torch.no_grad()
def products(groups: Partition) -> list[Tensor]:
    """``w · ∂w`` a member; zeros where there is no gradient."""
    values = [m.values for m in groups.members]
    grads = [torch.zeros_like(v) if m.grad is None else m.grad for m, v in zip(groups.members, values, strict=True)]
    return list(torch._foreach_mul(values, grads))


@torch.no_grad()
def lengths(groups: Partition, tensors: Sequence[Tensor]) -> Tensor:
    """``(G,)`` the l2 norm of each group's entries in tensors, one a member; of single entries the size itself."""
    if groups.is_entrywise:
        return groups.sum([t.abs() for t in tensors])
    return groups.sum([t.to(groups.dtype).square() for t in tensors]).sqrt_()
