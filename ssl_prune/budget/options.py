"""How a budget decides, apart from the size that it meets."""

from __future__ import annotations

from dataclasses import dataclass, field

from ssl_prune.budget.due_size import window_of
from ssl_prune.schedules import Ramp
from ssl_prune.scores import Score, TaylorGate
from ssl_prune.timing import Time, TimeLike
from ssl_prune.utils.checks import check_number, check_whole

__all__ = ["BudgetOptions"]


@dataclass(frozen=True)
class BudgetOptions:
    """When a size is met, and how channels are chosen.

    Args:
        window: the share of the way to the size that is due.
        lookahead: how far ahead the strength looks.
        min_keep_ratio: share of each layer's channels that stay in any case; None: chosen by the size.
        round_to: widths go by so many channels.
        score: which channels matter.
        cost_exponent: power of a channel's saving that its score is divided by.
        every: most optimizer steps between two decisions.
        latency_batch: samples of the forward pass that is timed.

    Raises:
        TypeError: a score that is none.
        ValueError: a number out of its range, or a score that needs a context.

    Example:
        >>> BudgetOptions(round_to=8).every
        10
    """

    window: Ramp = field(default_factory=lambda: window_of(("0.1", "0.65")))
    lookahead: TimeLike = "0.05"
    min_keep_ratio: float | None = None
    round_to: int = 1
    score: Score = field(default_factory=TaylorGate)
    cost_exponent: float = 1.0
    every: int = 10
    latency_batch: int = 64

    def __post_init__(self) -> None:
        if self.min_keep_ratio is not None:
            what = "a share of a layer's channels"
            check_number(self.min_keep_ratio, "Budget: min_keep_ratio", low=0, below=1, what=what)
        if not Time.of(self.lookahead, "Budget: lookahead").amount:
            raise ValueError(f'Budget: lookahead must be a time above 0, such as "0.05", got {self.lookahead!r}')
        check_number(self.cost_exponent, "Budget: cost_exponent", low=0)
        if not isinstance(self.score, Score):
            raise TypeError(
                f"Budget: score must be a score of ssl_prune.scores, such as LayerwiseRank(), got {self.score!r}"
            )
        if self.score.needs:
            raise ValueError(
                f"Budget: score needs what a budget does not know, {'; '.join(self.score.needs)} of a ScoreContext; expected "
                "one of weights and their gradients alone, such as TaylorGate() or Magnitude()"
            )
        for name, what in (("round_to", "channels"), ("every", "optimizer steps"), ("latency_batch", "samples")):
            check_whole(getattr(self, name), f"Budget: {name}", 1, what)
