"""A network that runs beside the program of another one, operator by operator."""

import operator
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.graph.export.program import Program
from ssl_prune.graph.faults import fault
from ssl_prune.utils.inputs import Inputs
from ssl_prune.utils.tensors import Aside, without_gradients

__all__ = ["beside"]

Compare = Callable[[fx.Node, Tensor, Tensor], None]

# What one side alone may have: other names for a tensor, numbers that Python asks for, checks that a trace adds.
_SILENT = {
    "aten::detach",
    "aten::alias",
    "aten::lift_fresh",
    "aten::_local_scalar_dense",
    "aten::_assert_tensor_metadata",
}


class _Operator(NamedTuple):
    """An operator that ran; the one that returns what it writes counts as the same."""

    name: str
    results: list[Any]


class _OtherOperatorsError(Exception):
    """The network runs other operators than the program."""


def beside(program: Execution, network: nn.Module, inputs: Inputs, compare: Compare) -> bool:
    """Run `network`, and `program` beside it, a node whenever the network has run that node's operators.

    Args:
        program: the program of another network.
        network: in evaluation mode.
        inputs: those of one call.
        compare: called with each node whose value is a tensor, that value, and the network's. It sees them as they
            arise: the network may write into its own later.

    Returns:
        Whether both ran the same operators in the same order. If not, what `compare` was given means nothing.
    """
    with torch.no_grad(), _plain_attention(), without_gradients(network):
        following = _Following(_paired(program, compare))
        Aside(network)(inputs, under=following)
    return following.ended and not following.lost


class _Running(TorchDispatchMode):
    """Keeps the operators that run while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = list[_Operator]()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (name := _name(func)) not in _SILENT:
            self.seen.append(_Operator(name, pytree.tree_leaves(result)))
        return result


class _Following(TorchDispatchMode):
    """Hands every operator on that runs while it is active, until one is not what was expected."""

    def __init__(self, expecting: Generator[None, _Operator, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._expecting, self.ended, self.lost = expecting, False, False
        self._outside: Any = None

    def __enter__(self) -> Self:
        """Begin; the program runs as operators do outside of this mode, where composite ones are taken apart."""
        self._outside = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        self._advance(None)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (name := _name(func)) not in _SILENT and not self.lost:
            self._advance(_Operator(name, pytree.tree_leaves(result)))
        return result

    def _advance(self, ran: _Operator | None) -> None:
        self.lost = self.ended
        try:
            with torch._C._ForceDispatchKeyGuard(*self._outside):
                self._expecting.send(ran)  # type: ignore[arg-type]
        except StopIteration:
            self.ended = True
        except _OtherOperatorsError:
            self.lost = True
        except Exception as error:
            fault("the comparison of inner values", error)
            self.lost = True


def _paired(program: Execution, compare: Compare) -> Generator[None, _Operator, None]:
    """Takes the network's operators one by one, and compares a node's value when its last operator has come."""
    several: dict[fx.Node, list[Any]] = {}  # what the network has for the results of a node that has several
    for node in program.program.graph.nodes:
        if node.op == "output":
            return
        with _Running() as running:
            value = program.step(node)
        if _is_literal(node, program.program):
            continue
        twins: list[tuple[Any, Any]] = []
        for expected in running.seen:
            ran = yield
            if ran.name != expected.name or len(ran.results) != len(expected.results):
                raise _OtherOperatorsError
            twins += zip(expected.results, ran.results, strict=True)
        if node.target is operator.getitem and node.args[0] in several:
            _pair(node, value, several[node.args[0]][node.args[1]], compare)
        elif twins and isinstance(value, (tuple, list)):
            several[node] = [_twin(result, twins) for result in value]
        elif twins:
            _pair(node, value, _twin(value, twins), compare)
        for used in program.user_to_last_uses.get(node, ()):
            several.pop(used, None)


def _is_literal(node: fx.Node, program: Program) -> bool:
    """A number in the forward, of which the trace makes a copy each time."""
    source = node.args[0] if node.target is torch.ops.aten.clone.default else None
    return isinstance(source, fx.Node) and source.name in program.constants


def _pair(node: fx.Node, value: Any, twin: Any, compare: Compare) -> None:
    if isinstance(value, Tensor):
        if not isinstance(twin, Tensor):
            raise _OtherOperatorsError
        compare(node, value, twin)


def _twin(value: Any, twins: list[tuple[Any, Any]]) -> Any:
    """What the network has in place of a result; the last operator that returned it counts."""
    return next((ran for expected, ran in reversed(twins) if expected is value), None)


def _name(func: Any) -> str:
    name = str(func._schema.name)
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


@contextmanager
def _plain_attention() -> Generator[None]:
    """The fused kernel of whole layers is no operator that a trace has."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
