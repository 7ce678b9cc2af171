"""L1 over single weights, as a callback."""

from typing import Literal

from ssl_prune.callbacks.penalise import Penalise
from ssl_prune.groups import Patterns
from ssl_prune.penalties import L1 as L1Penalty  # noqa: N811
from ssl_prune.schedules import Schedule
from ssl_prune.timing import TimeLike

__all__ = ["L1"]


class L1(Penalise):
    r"""Drive single weights to exactly zero: loss + strength · Σ |w_i|, the group lasso over single entries.

    Biases and normalisation vectors are not penalised.

    Args:
        strength: weight of the penalty in the objective; multiplied by the learning rate of the step.
        solver: "proximal" (soft threshold after each step) or "subgradient".
        schedule: a factor on the strength, and like all that follows as `Penalise` has it.
        include: layers under penalty.
        exclude: layers to leave out.
        preconditioned: of the proximal solver: the metric of the optimizer.
        threshold: of the subgradient solver.
        freeze_at: when the strength becomes 0 and zeros stay.
        target_groups: the same as soon as so few weights are left.
        module: name of the submodule.

    Raises:
        ValueError: see `Penalise`.

    Example:
        >>> L1(1e-5, exclude="fc2").granularity
        'weight'

    Source: Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996.
    """

    def __init__(
        self,
        strength: float,
        solver: Literal["proximal", "subgradient"] = "proximal",
        schedule: Schedule | None = None,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        *,
        preconditioned: bool = False,
        threshold: float | None = None,
        freeze_at: TimeLike | None = None,
        target_groups: int | None = None,
        module: str | None = None,
    ) -> None:
        super().__init__(
            L1Penalty(),
            "weight",
            strength,
            solver,
            schedule,
            include,
            exclude,
            preconditioned=preconditioned,
            threshold=threshold,
            freeze_at=freeze_at,
            target_groups=target_groups,
            module=module,
        )
