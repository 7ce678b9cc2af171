"""The records of what was set to zero at once before a cut: by a threshold, by a stated size."""

from dataclasses import dataclass

__all__ = ["BudgetChange", "ThresholdChange"]


@dataclass(frozen=True)
class ThresholdChange:
    """What a threshold changed in a network before it was cut.

    Args:
        threshold: largest absolute value that counts as zero.
        units: layer -> channels it writes of which something was set to zero.
        entries: module -> entries of its parameters that were not zero and are now.
        max_difference: largest relative difference of the outputs before and after, on the example and fresh inputs.
    """

    threshold: float
    units: dict[str, int]
    entries: dict[str, int]
    max_difference: float

    def __str__(self) -> str:
        if not self.entries:
            return f"threshold {self.threshold:g}: nothing within it that was not zero already"
        units = ", ".join(f"{count} of {layer}" for layer, count in self.units.items())
        return (
            f"threshold {self.threshold:g}: {sum(self.entries.values()):,} entries of {sum(self.units.values())} channels "
            f"({units}) set to zero, which moves the outputs by up to {self.max_difference:.1e} of their size"
        )


@dataclass(frozen=True)
class BudgetChange:
    """What a budget set to zero in a network before it was cut, and the size that this led to.

    Args:
        limits: kind -> the share of the dense network that was stated.
        left: kind -> the share that is left.
        groups: layer -> channels (or heads) it writes that were set to zero.
        max_difference: largest relative difference of the outputs before and after, on the example and fresh inputs; None
            where the network was trained meanwhile.
        missed: why more is left than was stated, or "" where the size is met.

    Example:
        >>> print(BudgetChange({"macs": 0.5}, {"macs": 0.774}, {"fc1": 9}, None, "the proof kept more"))
        budget: 9 groups of channels set to zero, 77.4% of the macs (50.0% stated), MISSED: the proof kept more
    """

    limits: dict[str, float]
    left: dict[str, float]
    groups: dict[str, int]
    max_difference: float | None
    missed: str = ""

    def __str__(self) -> str:
        stated = ", ".join(
            f"{self.left[kind]:.1%} of the {kind} ({share:.1%} stated)" for kind, share in self.limits.items()
        )
        text = f"budget: {sum(self.groups.values())} groups of channels set to zero, {stated}"
        if self.max_difference is not None:
            text += f", which moves the outputs by up to {self.max_difference:.1e} of their size"
        return f"{text}, MISSED: {self.missed}" if self.missed else text
