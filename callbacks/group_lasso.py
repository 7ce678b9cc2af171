"""Group lasso over filters, channels, kernel shapes, layers, neurons or coupled channels, as a callback."""

from typing import Literal

from ssl_prune.callbacks._options import refuse_lost
from ssl_prune.callbacks.penalise import Penalise
from ssl_prune.groups import Granularity, Patterns, Weight
from ssl_prune.penalties import GroupLasso as GroupLassoPenalty
from ssl_prune.penalties import SparseGroupLasso
from ssl_prune.schedules import Schedule
from ssl_prune.timing import TimeLike
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
        solver: "proximal", "subgradient" (the paper's) or "gating", and like all that follows as `Penalise` has it.
        schedule: a factor on the strength.
        include: layers under penalty.
        exclude: layers to leave out.
        size_norm: "none" for s_g = 1, "sqrt" for s_g = √|g|, which makes groups of different size comparable.
        l1_ratio: share r of an L1 penalty on the entries: r · L1 + (1 − r) · group lasso, the sparse group lasso.
        preconditioned: of the proximal solver: the metric of the optimizer.
        threshold: of the subgradient and the gating solver.
        factors: of the gating solver.
        freeze_at: when the strength becomes 0 and zeros stay.
        target_groups: the same as soon as so few groups are left.
        module: name of the submodule.

    Raises:
        ValueError: `size_norm` or `l1_ratio` out of its range, or an option that nothing would read; and see `Penalise`.

    Warns:
        UserWarning: see `Penalise`.

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
        freeze_at: TimeLike | None = None,
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
