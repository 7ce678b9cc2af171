"""L1 over single weights, as a callback."""

from typing import Literal

from ssl_prune.callbacks.penalise import Penalise
from ssl_prune.groups import Patterns
from ssl_prune.penalties import L1 as L1Penalty  # noqa: N811
from ssl_prune.schedules import Schedule
from ssl_prune.timing import Time

__all__ = ["L1"]


class L1(Penalise):
    r"""Drive single weights to exactly zero: loss + strength · Σ |w_i|, the group lasso over single entries.

    Biases and normalisation vectors are not penalised.

    Args:
        strength: weight of the penalty in the objective; multiplied by the learning rate of the step.
        solver: "proximal" (soft threshold after each step) or "subgradient".
        schedule: a factor on the strength over time; default 1 throughout.
        include: name patterns or module types of the layers under penalty; default all.
        exclude: layers to leave out.
        preconditioned: take the proximal map in the metric of the optimizer (SGD, Adam, AdamW, RMSprop, Adagrad).
        threshold: entries below it become zero after each step of the subgradient solver, which alone has one; default
            1e-4.
        freeze_at: from here on the strength is 0 and zeros stay frozen: a time with its unit, "0.7" of the run, "7ep"
            (epochs) or "1000it" (optimizer steps).
        target_groups: the same as soon as no more than this many weights are left.
        module: name of the submodule to look at; default the one that holds all parameters.

    Raises:
        ValueError: a strength below zero, an option that nothing would read, a pattern that matches nothing.

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
        freeze_at: str | float | Time | None = None,
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
