"""One run of a network under observation: who is called inside whom, and which values leave the autograd graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Calls", "Operations", "calls", "internal_nodes"]

aten = torch.ops.aten

_COPIES = {aten.clone, aten.detach, aten.alias, aten._to_copy, aten.lift_fresh, aten.lift_fresh_copy}
_FILLS = {aten.zeros_like, aten.ones_like, aten.full_like}


class Calls:
    """Which modules ran, and inside which others.

    Args:
        inside: module name -> modules that were at work at every one of its calls, itself last.
    """

    def __init__(self) -> None:
        self.inside: dict[str, tuple[str, ...]] = {}
        self._stack: list[str] = []

    def enter(self, name: str) -> None:
        """A module starts."""
        self._stack.append(name)
        here = tuple(self._stack)
        before = self.inside.get(name)
        self.inside[name] = here if before is None else tuple(n for n in before if n in here)

    def leave(self) -> None:
        """The innermost module ends."""
        self._stack.pop()

    def merge(self, other: Calls) -> None:
        """Add the calls of another run."""
        for name, around in other.inside.items():
            before = self.inside.get(name)
            self.inside[name] = around if before is None else tuple(n for n in before if n in around)


@contextmanager
def calls(model: nn.Module) -> Iterator[Calls]:
    """Watch `model` while it runs."""
    record = Calls()
    with ExitStack() as stack:
        for name, module in model.named_modules():
            enter = module.register_forward_pre_hook(lambda *_, name=name: record.enter(name))
            leave = module.register_forward_hook(lambda *_: record.leave())
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        yield record


@contextmanager
def internal_nodes(modules: Collection[nn.Module]) -> Iterator[set[Any]]:
    """Autograd nodes that the calls of `modules` make themselves, as a linear layer's flattening and product."""
    inner: set[Any] = set()

    def walk(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        outside = {t.grad_fn for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)}
        stack = [t.grad_fn for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
        while stack:
            node = stack.pop()
            if node is not None and node not in outside and node not in inner:
                inner.add(node)
                stack += [edge[0] for edge in node.next_functions]

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(walk).remove)
        yield inner


@dataclass(frozen=True)
class _Event:
    operator: Any
    sources: tuple[tuple[Tensor, bool], ...]  # with whether autograd follows it at that time
    results: tuple[Tensor, ...]
    numbers: bool


class Operations(TorchDispatchMode):
    """Every operator of a run, below autograd: also those inside custom functions and blocks without gradients.

    Args:
        known: tensors of the network, which are constants wherever they appear.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._events: list[_Event] = []
        self._known = {id(t) for t in known}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run and record."""
        sources = tuple(
            (leaf, leaf.requires_grad) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        )
        result = func(*args, **(kwargs or {}))
        leaves = pytree.tree_leaves(result)
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        self._events.append(_Event(func, sources, tensors, len(tensors) < len(leaves)))
        return result

    def forget(self) -> None:
        """Let go of the values."""
        self._events.clear()

    def inspect(self, outputs: Iterable[Tensor], read: Iterable[Tensor]) -> tuple[set[Any], list[Tensor]]:
        """What autograd does not see, after the run.

        Args:
            outputs: what the network returned.
            read: tensors that left torch, for numpy or Python lists.

        Returns:
            The custom functions' autograd nodes whose forward treats every element alone, and the values that are read
            past the autograd graph.
        """
        writers: dict[int, list[int]] = {}
        for number, event in enumerate(self._events):
            for tensor in event.results:
                writers.setdefault(id(tensor), []).append(number)
        alone: set[Any] = set()
        within: set[int] = set()
        for event in self._events:
            for tensor in event.results:
                node: Any = tensor.grad_fn
                if isinstance(node, torch.autograd.function.BackwardCFunction) and node not in alone:
                    chain = self._pointwise(tensor, writers)
                    if chain is not None:
                        alone.add(node)
                        within |= chain
        used = {id(t) for t in (*outputs, *read)}
        for number, event in enumerate(self._events):
            if number not in within:
                used |= {id(tensor) for tensor, _ in event.sources}
        escaped: dict[int, Tensor] = {}
        for number, event in enumerate(self._events):
            unseen = event.numbers or any(not t.requires_grad and id(t) in used for t in event.results)
            if unseen and number not in within:
                for tensor, followed in event.sources:
                    if followed and tensor.grad_fn is not None:
                        escaped[id(tensor)] = tensor
        for tensor in read:
            if tensor.grad_fn is not None:
                escaped[id(tensor)] = tensor
        return alone, list(escaped.values())

    def _pointwise(self, result: Tensor, writers: dict[int, list[int]]) -> set[int] | None:
        """Numbers of the operators between `result` and values that autograd follows; None unless all are pointwise."""
        chain: set[int] = set()
        stack: list[Tensor] = [result]
        while stack:
            tensor = stack.pop()
            numbers = writers.get(id(tensor), [])
            if not numbers:
                if id(tensor) in self._known and tensor.numel() == 1:
                    continue
                return None
            for number in numbers:
                event = self._events[number]
                if number in chain:
                    continue
                packet = getattr(event.operator, "overloadpacket", event.operator)
                if torch.Tag.pointwise not in event.operator.tags and packet not in _COPIES | _FILLS:
                    return None
                chain.add(number)
                for source, followed in event.sources:
                    if not followed or id(source) == id(result):
                        stack.append(source)
                    elif source.shape != result.shape and source.numel() > 1:
                        return None
        return chain
