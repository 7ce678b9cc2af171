"""The record of a size that was met at once."""

from dataclasses import dataclass

__all__ = ["BudgetChange"]


@dataclass(frozen=True)
class BudgetChange:
    """What a budget set to zero in a network before it was cut.

    Args:
        limits: kind -> the share of the dense network that was stated.
        left: kind -> the share that is left.
        groups: layer -> channels (or heads) it writes that were set to zero.
        max_difference: largest relative difference of the outputs before and after, on the example and fresh inputs.
    """

    limits: dict[str, float]
    left: dict[str, float]
    groups: dict[str, int]
    max_difference: float

    def __str__(self) -> str:
        stated = ", ".join(
            f"{self.left[kind]:.1%} of the {kind} ({share:.1%} stated)" for kind, share in self.limits.items()
        )
        return (
            f"budget: {sum(self.groups.values())} groups of channels set to zero, {stated}, which moves the outputs by up "
            f"to {self.max_difference:.1e} of their size"
        )
