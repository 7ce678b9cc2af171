"""Group lasso over filters, channels, kernel shapes, layers, neurons or coupled channels, as a callback."""

from typing import Literal

from ssl_prune.callbacks._options import refuse_lost
from ssl_prune.callbacks.penalise import Penalise
from ssl_prune.groups import Granularity, Patterns, Weight
from ssl_prune.penalties import GroupLasso as GroupLassoPenalty
from ssl_prune.penalties import SparseGroupLasso
from ssl_prune.schedules import Schedule
from ssl_prune.timing import Time
from ssl_prune.utils.checks import check_number

__all__ = ["GroupLasso"]


class GroupLasso(Penalise):
    r"""Drive whole groups of weights to exactly zero while the network trains.

    loss + strength · Σ_g s_g ‖w_g‖₂, with s_g = 1 or √|g|; after each optimizer step every group is shrunk by
    lr · strength · s_g and is exactly zero from then on where that exceeds its norm.

    Args:
        granularity: which entries live or die together: "filter", "channel", "shape", "depth", "neuron", "coupled",
            "weight", or an object of `ssl_prune.groups`.
        strength: weight of the penalty in the objective; multiplied by the learning rate of the step. None: a `Budget`
            beside it finds it.
        solver: "proximal" (exact zeros); "subgradient" (the paper's: penalty gradients and a threshold); or "gating" (groups
            split into smooth factors, which LBFGS can step too, and a threshold).
        schedule: a factor on the strength over time; default 1 throughout.
        include: name patterns ("conv*") or module types of the layers under penalty; default all.
        exclude: layers to leave out.
        size_norm: "none" for s_g = 1, "sqrt" for s_g = √|g|, which makes groups of different size comparable.
        l1_ratio: share r of an L1 penalty on the entries: r · L1 + (1 − r) · group lasso, the sparse group lasso.
        preconditioned: take the proximal map in the metric of the optimizer (SGD, Adam, AdamW, RMSprop, Adagrad).
        threshold: of the subgradient solver, entries below it become zero after each step; of the gating solver, groups
            whose norm is not above it; default 1e-4.
        factors: of the gating solver, how many factors a group has: with D the penalty is ‖w_g‖₂^(2/D); default 2.
        freeze_at: from here on the strength is 0 and zeros stay frozen: a time with its unit, "0.7" of the run, "7ep"
            (epochs) or "1000it" (optimizer steps).
        target_groups: the same as soon as no more than this many groups are left; with a strength that rises, this meets a
            number of filters or columns without a search for the strength.
        module: name of the submodule to look at; default the one that holds all parameters.

    Raises:
        ValueError: at construction or in `setup`: a strength below zero, an unknown granularity, an option that nothing
            would read, a pattern that matches nothing, no example input; before the first step, as many `target_groups` as
            there are groups.

    Warns:
        UserWarning: before the first step, a `freeze_at` after the end of the run.

    Note:
        A group goes as a whole, also what of it has `requires_grad=False`, where an optimizer holds it. Leave layers that
        shall stay as they are out with `exclude`.

    Example:
        >>> GroupLasso("filter", strength=1e-3, include="conv*", freeze_at="0.7").strength
        0.001

    Source: Wen et al., Learning Structured Sparsity in Deep Neural Networks, 2016, equation 2.
    """

    def __init__(
        self,
        granularity: str | Granularity,
        strength: float | None = None,
        solver: Literal["proximal", "subgradient", "gating"] = "proximal",
        schedule: Schedule | None = None,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        *,
        size_norm: Literal["none", "sqrt"] = "none",
        l1_ratio: float = 0.0,
        preconditioned: bool = False,
        threshold: float | None = None,
        factors: int | None = None,
        freeze_at: str | float | Time | None = None,
        target_groups: int | None = None,
        module: str | None = None,
    ) -> None:
        check_number(l1_ratio, f"{type(self).__name__}: l1_ratio", low=0, high=1)
        penalty = SparseGroupLasso(l1_ratio, size_norm) if l1_ratio else GroupLassoPenalty(size_norm)
        super().__init__(
            penalty,
            granularity,
            strength,
            solver,
            schedule,
            include,
            exclude,
            preconditioned=preconditioned,
            threshold=threshold,
            factors=factors,
            freeze_at=freeze_at,
            target_groups=target_groups,
            module=module,
        )
        shape = {"size_norm": (size_norm, "none"), "l1_ratio": (l1_ratio, 0.0)}
        if isinstance(self.kind, Weight):
            refuse_lost(self, "the group lasso of single entries is their L1", "take larger groups", **shape)
        if l1_ratio == 1:
            refuse_lost(self, "l1_ratio=1 leaves no group lasso", "lower l1_ratio", size_norm=shape["size_norm"])
