"""The work of a run, counted from the shapes of its program: the same on every machine, however busy it is.

Work is stated in multiply-accumulates, of which one core makes about 2e10 a second. What limits a
search is counted in it, so that the same network is slimmed the same everywhere.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.utils import _pytree as pytree

from ssl_prune.graph.export.macs import LARGE, program_macs
from ssl_prune.graph.export.program import Program

__all__ = ["Effort", "is_large", "work"]

PER_OPERATOR = 3e5  # to call one
PER_ELEMENT = 32.0  # to write a number into memory
PER_PLAN = 2e7  # for each operator, to plan a cut and to make it
PER_TRACE = 2e8  # for each operator, to trace what was cut and to look at its value
LOOKS = 4  # runs that it takes to look at every value of two networks


def work(program: Program) -> float:
    """About the multiply-accumulates that one run of the example is worth: W = products + 3e5 · operators + 32 · numbers written.

    Example:
        >>> import torch
        >>> from ssl_prune.graph import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        >>> work(trace(net, torch.randn(2, 8)).program) == 2 * 8 * 4 + 2 * 3e5 + 32 * (8 + 8)
        True
    """
    written = 0
    for node in program.graph.nodes:
        if node.op == "call_function" and not getattr(node.target, "is_view", True):
            written += sum(v.numel() for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, Tensor))
    return program_macs(program) + PER_OPERATOR * _operators(program) + PER_ELEMENT * written


def _operators(program: Program) -> int:
    return sum(node.op == "call_function" for node in program.graph.nodes)


def is_large(program: Program) -> bool:
    """Whether a run takes so much work that there should be few: a core's work for a third of a second."""
    return work(program) > LARGE


@dataclass
class Effort:
    """The work that attempts to cut one network have taken so far: a clock that no load of the machine moves.

    Args:
        program: the network.
        spent: the work.
    """

    program: Program
    spent: float = 0.0

    def __post_init__(self) -> None:
        self._run, self._operators = work(self.program), _operators(self.program)

    def cut(self, runs: int) -> None:
        """A cut was planned, made and run on so many trials."""
        self.spent += PER_PLAN * self._operators + runs * self._run

    def look(self) -> None:
        """Every value of a cut network was compared."""
        self.spent += PER_TRACE * self._operators + LOOKS * self._run
