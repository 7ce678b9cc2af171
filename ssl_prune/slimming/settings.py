"""What is asked of a cut."""

import math
from dataclasses import dataclass
from typing import Literal

from ssl_prune.slimming.plan.rounding import check_round_to

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How to cut; see `ssl_prune.slim`.

    Args:
        exact: refuse what the proof does not confirm.
        tolerance: allowed relative difference of the outputs.
        columns: what becomes of all-zero columns of a layer's matrix.
        round_to: widths are multiples of this number, or "measured".
        training: only what takes no part in training either: kernels stay, and computed weights stay computed.

    Raises:
        ValueError: `tolerance`, `columns` or `round_to` is none of these.
    """

    exact: bool = True
    tolerance: float = 1e-4
    columns: bool | Literal["measured"] = False
    round_to: int | Literal["measured"] = 1
    training: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(
                f"tolerance: got {self.tolerance}, expected a finite number of at least 0, for example 1e-4"
            )
        if self.columns not in (True, False, "measured"):
            raise ValueError(f'columns: got {self.columns!r}, expected True, False or "measured"')
        check_round_to(self.round_to)
