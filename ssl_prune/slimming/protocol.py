"""What slimming asks of either tracer's compiler: what is dead, how to cut it, whether that is right, why zeros stay."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator

from torch import Tensor, nn

from ssl_prune.slimming.kept import Kept
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan
from ssl_prune.slimming.proof.candidate import Outcome
from ssl_prune.slimming.proof.outputs import Proof
from ssl_prune.slimming.subject import Subject

__all__ = ["Compiler"]


class Compiler(ABC):
    """How one network is cut, by what one of the tracers knows of it.

    Attributes:
        subject: the network.
        weights: names of the weights of its layers, in their order.
    """

    subject: Subject
    weights: list[str]

    @property
    def slow(self) -> bool:
        """Whether it takes so long that it should not be run more often than it must."""
        return False

    @property
    def spent(self) -> float:
        """The work that went into attempts so far, in multiply-accumulates, where it decides something."""
        return 0.0

    @property
    def rewrites(self) -> list[dict[str, ModulePlan]]:
        """First steps that write modules in another way, of which each may let more channels go."""
        return []

    @abstractmethod
    def dead(self) -> Tensor:
        """``(U,)`` units that may go."""

    @abstractmethod
    def plan(self, dead: Tensor) -> SlimPlan:
        """How to remove the `dead` units ``(U,)``."""

    @abstractmethod
    def prove(self) -> Iterator[tuple[Tensor, Outcome]]:
        """``(U,)`` what goes, and what came of it: the largest cut first, then simpler ones, each made when it is asked for."""

    @abstractmethod
    def repair(self, whole: Outcome) -> tuple[Tensor, Outcome]:
        """``(U,)`` what goes, and the cut, where the `whole` one does not hold: fewer units, never wrong ones.

        Raises:
            SlimError: even the unchanged network does not pass.
        """

    @abstractmethod
    def compare(self, cut: nn.Module) -> Proof:
        """Look at the outputs of a network that was cut further."""

    @abstractmethod
    def explain(self, dead: Tensor, gone: Collection[str]) -> tuple[Kept, ...]:
        """Every zero that stays when the `dead` units ``(U,)`` and the modules `gone` go, with the reason."""
