"""Where a cut network goes wrong: the first module whose result is not the sparse network's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.graph.export.program import visible
from ssl_prune.slimming.proof.differences import finite_error
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import Inputs, evaluation, full_precision, leaves, map_tensors
from ssl_prune.utils.tensors import run_aside

__all__ = ["first_difference", "units_at", "units_in_scope"]

_TREES = (Tensor, tuple, list, dict)


@full_precision()
def first_difference(subject: Subject, cut: nn.Module, tolerance: float) -> str | None:
    """Name of the innermost module of the user's own that raises, or whose outputs are the first to differ.

    Outputs of another shape are not compared: they were cut. Layers of PyTorch itself are never to blame for what they
    are given; the module that calls them is.

    Returns:
        The name, "" for the network itself; None if nothing differs that can be compared.
    """
    sparse, inputs = subject.model, subject.inputs
    with evaluation(cut):
        raised = _run(cut, inputs, None)
    if raised is not None:
        while not _own(cut, raised):
            raised = raised.rpartition(".")[0]
        return raised
    expected: dict[tuple[str, int], list[Tensor]] = {}

    def keep(name: str, call: int, out: Any) -> None:
        if _own(sparse, name):
            expected[name, call] = leaves(map_tensors(torch.clone, out) if isinstance(out, _TREES) else out)

    with evaluation(sparse):
        _run(sparse, inputs, keep)
    wrong: list[str] = []

    def compare(name: str, call: int, out: Any) -> None:
        if wrong or not _own(cut, name):
            return
        for want, got in zip(expected.get((name, call), []), leaves(out), strict=False):
            number = want.is_floating_point() or want.is_complex()
            if number and want.shape == got.shape and not finite_error(want, got) <= tolerance:
                wrong.append(name)
                return

    with evaluation(cut):
        _run(cut, inputs, compare)
    return wrong[0] if wrong else None


def units_in_scope(graph: ChannelGraph, scope: str) -> Tensor:
    """``(U,)`` units that the code of a module itself handles: made there, taken in, or given back by a module inside."""
    found = torch.zeros(graph.num_units + 1, dtype=torch.bool)
    for node, units in graph.boxes.items():
        if visible(node, scope):
            found[units] = True
    return found[:-1]


def units_at(graph: ChannelGraph, node: fx.Node) -> Tensor:
    """``(U,)`` units of a value and of those that it is computed from."""
    found = torch.zeros(graph.num_units + 1, dtype=torch.bool)
    for near in (node, *node.all_input_nodes):
        if near in graph.boxes:
            found[graph.boxes[near]] = True
    return found[:-1]


def _own(model: nn.Module, name: str) -> bool:
    return not name or not type(model.get_submodule(name)).__module__.startswith(("torch.nn.", "ssl_prune.slimming."))


def _run(model: nn.Module, inputs: Inputs, look: Callable[[str, int, Any], None] | None) -> str | None:
    """Run with `look` at every module's result; the name of the innermost module that raises, None if none does."""
    stack: list[str] = []
    calls: dict[str, int] = {}

    def enter(name: str) -> Callable[..., None]:
        return lambda module, args: stack.append(name)

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            stack.pop()
            calls[name] = calls.get(name, 0) + 1
            if look is not None:
                look(name, calls[name], out)

        return hook

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
    try:
        run_aside(model, inputs)
    except Exception:
        return stack[-1] if stack else ""
    finally:
        for handle in handles:
            handle.remove()
    return None
