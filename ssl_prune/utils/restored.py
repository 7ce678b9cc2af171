"""Runs of a network that leave it as it was, whatever its forward writes into."""

import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_prune.utils.reach import CACHED, REGISTRIES, content, reached

__all__ = ["Snapshot", "Writes", "restored"]


class Writes(TorchDispatchMode):
    """While active, keeps the numbers of a tensor before the first operator that writes into it.

    Args:
        storages: addresses of the storages whose numbers to keep.
    """

    def __init__(self, storages: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = storages
        self._kept: dict[int, tuple[Any, Any]] = {}

    @property
    def any(self) -> bool:
        """Whether something was written into."""
        return bool(self._kept)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Keep what `func` writes into, and call it."""
        schema = func._schema
        if schema.is_mutable:
            given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | (kwargs or {})
            for argument in schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given:
                    self.keep(given[argument.name])
        elif "batch_norm" in schema.name:  # writes running statistics, which its schema does not say
            self.keep((args, kwargs))
        return func(*args, **(kwargs or {}))

    def keep(self, tree: Any) -> None:
        """Keep the numbers of those that are watched."""
        for leaf in pytree.tree_leaves(tree):
            key = _storage(leaf) if isinstance(leaf, Tensor) else None
            if key in self._watched and key not in self._kept:
                storage = leaf.untyped_storage()
                self._kept[key] = storage, storage.clone()

    def undo(self) -> None:
        """Write the numbers back."""
        for storage, before in self._kept.values():
            if storage.nbytes() != before.nbytes():
                storage.resize_(before.nbytes())
            storage.copy_(before)
        self._kept.clear()


class Snapshot:
    """Everything that the forward of a network can write into, as it is now; for any number of runs.

    That is what `reached` lists: a hook that it installed, an activation that it keeps in a list, a step that it counts.
    Nothing is copied but references, and the numbers of a tensor when something writes into it.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._back, self._tensors = list[Callable[[], None]](), list[Tensor]()
        for found in reached(model):
            if isinstance(found, Tensor):
                if not is_lazy(found):
                    self._tensors.append(found)
                    self._back.append(_tensor(found))
            elif isinstance(found, nn.Module):
                self._back.append(_module(found))
            elif isinstance(found, types.CellType):
                self._back.append(_cell(found))
            elif isinstance(found, torch.Generator):
                self._back.append(_generator(found))
            elif type(found) is CACHED:
                self._back.append(_cache(found))
            else:
                if isinstance(found, (list, deque, dict, set)):
                    self._back.append(_container(found))
                if hasattr(found, "__dict__"):
                    self._back.append(_attributes(found))
        self._storages = {key for key in map(_storage, self._tensors) if key is not None}
        self._own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}

    @contextmanager
    def restored(self, *, numbers: bool = True) -> Iterator[Writes]:
        """What is written into inside is put back afterwards.

        Args:
            numbers: whether operators on real tensors run inside. Not so while tracing, where parameters and buffers
                have stand-ins; torch does write into other tensors then, so their numbers are kept from the start.

        Returns:
            What keeps the numbers; it is active where `numbers` is set.
        """
        writes = Writes(self._storages)
        try:
            if numbers:
                with writes:
                    yield writes
            else:
                writes.keep([tensor for tensor in self._tensors if id(tensor) not in self._own])
                yield writes
        finally:
            for put_back in self._back:
                put_back()
            writes.undo()


@contextmanager
def restored(model: nn.Module, *, numbers: bool = True) -> Iterator[Writes]:
    """Everything that the forward of `model` can write into is put back afterwards; a `Snapshot` for a single run.

    Args:
        model: the network.
        numbers: as in `Snapshot.restored`.

    Example:
        >>> net = nn.ReLU()
        >>> net.seen = [torch.zeros(2)]
        >>> with restored(net):
        ...     _ = net.seen[0].add_(1), net.seen.append(2), setattr(net, "step", 1)
        >>> net.seen, hasattr(net, "step")
        ([tensor([0., 0.])], False)
    """
    with Snapshot(model).restored(numbers=numbers) as writes:
        yield writes


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse, or without storage
        return None


def _tensor(tensor: Tensor) -> Callable[[], None]:
    """What `tensor.data = ...` and `requires_grad_` change."""
    with torch.no_grad():
        alias = tensor.detach()
    shape, key, learns, grad = (
        tensor.shape,
        _storage(tensor),
        tensor.requires_grad,
        tensor.grad if tensor.is_leaf else None,
    )

    def back() -> None:
        if tensor.shape != shape or _storage(tensor) != key:
            tensor.data = alias
        if tensor.is_leaf:
            if tensor.requires_grad != learns:
                tensor.requires_grad_(learns)
            if tensor.grad is not grad:
                tensor.grad = grad

    return back


def _module(module: nn.Module) -> Callable[[], None]:
    attributes, own = _attributes(module), vars(module)
    # A scripted module shows views in place of its dicts, which nothing in Python writes into.
    registries = [
        (own[name], list(own[name].items())) for name in REGISTRIES & own.keys() if isinstance(own[name], dict)
    ]

    def back() -> None:
        attributes()
        for registry, entries in registries:
            if (registry or entries) and not _same(registry.items(), entries):
                registry.clear()
                registry.update(entries)

    return back


def _cell(cell: types.CellType) -> Callable[[], None]:
    before = content(cell)

    def back() -> None:
        if before:
            cell.cell_contents = before[0]
        elif content(cell):
            del cell.cell_contents

    return back


def _generator(generator: torch.Generator) -> Callable[[], None]:
    state = generator.get_state()

    def back() -> None:
        generator.set_state(state)

    return back


def _cache(function: Any) -> Callable[[], None]:
    """A cache that took in something is emptied: it may hold what was traced."""
    size = function.cache_info().currsize

    def back() -> None:
        nonlocal size
        if function.cache_info().currsize != size:
            function.cache_clear()
            size = 0

    return back


def _attributes(owner: Any) -> Callable[[], None]:
    kind, own = type(owner), vars(owner)
    names = dict(own)

    def back() -> None:
        if type(owner) is not kind:
            owner.__class__ = kind
        if not _same(own.items(), names.items()):
            own.clear()
            own.update(names)

    return back


def _container(container: Any) -> Callable[[], None]:
    """Whatever a class of the user's own does when it is written into is passed by."""
    if isinstance(container, dict):
        entries = (
            list(dict.items(container))
            if not isinstance(container, OrderedDict)
            else list(OrderedDict.items(container))
        )
        kind: Any = OrderedDict if isinstance(container, OrderedDict) else dict

        def back() -> None:
            if not _same(kind.items(container), entries):
                kind.clear(container)
                for key, value in entries:
                    kind.__setitem__(container, key, value)

        return back
    kind = next(base for base in (list, deque, set) if isinstance(container, base))
    members = list(kind.__iter__(container))

    def again() -> None:
        if not _same([(m, None) for m in kind.__iter__(container)], [(m, None) for m in members]):
            kind.clear(container)
            (kind.update if kind is set else kind.extend)(container, members)

    return again


def _same(now: Any, before: Any) -> bool:
    return len(now) == len(before) and all(a is c and b is d for (a, b), (c, d) in zip(now, before, strict=True))
