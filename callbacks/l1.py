"""L1 over single weights, as a callback."""

from typing import Literal

from ssl_prune.callbacks._penalty import PenaltyCallback
from ssl_prune.groups import Patterns
from ssl_prune.penalties import L1 as L1Penalty  # noqa: N811
from ssl_prune.schedules import Schedule

__all__ = ["L1"]


class L1(PenaltyCallback):
    r"""Drive single weights to exactly zero: loss + strength · Σ |w_i|, the group lasso over single entries.

    Biases and normalisation vectors are not penalised.

    Args:
        strength: weight of the penalty in the objective; multiplied by the learning rate of the step.
        solver: "proximal" (soft threshold after each step) or "subgradient".
        schedule: a factor on the strength over time; default 1 throughout.
        include: name patterns or module types of the layers under penalty; default all.
        exclude: layers to leave out.
        metric: "euclidean", or "optimizer" for the proximal map in Adam's own metric.
        threshold: entries below it become zero after each step of the subgradient solver.
        debias_from: from here on the strength is 0 and zeros stay frozen: a share of the run (0.7) or an epoch (7;
            whole numbers from 1 on are epochs).
        until: the same as soon as no more than this many weights are left.
        module: name of the submodule to look at; default the one that holds all parameters.

    Raises:
        ValueError: a strength below zero, a pattern that matches nothing.

    Example:
        >>> L1(1e-5, exclude="fc2").granularity
        'entry'

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
        metric: Literal["euclidean", "optimizer"] = "euclidean",
        threshold: float = 1e-4,
        debias_from: int | float | None = None,
        until: int | None = None,
        module: str | None = None,
    ) -> None:
        super().__init__(
            "entry",
            L1Penalty(),
            strength,
            solver=solver,
            schedule=schedule,
            include=include,
            exclude=exclude,
            metric=metric,
            threshold=threshold,
            debias_from=debias_from,
            until=until,
            module=module,
        )
