"""The whole network from its shards, in one process; and its modules without what `fully_shard` has put on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ssl_prune.groups.partition import Partition
from ssl_prune.groups.shards import ShardedPartition, is_sharded, reshard
from ssl_prune.utils.copies import copied
from ssl_prune.utils.reach import REGISTRIES
from ssl_prune.utils.tensors import own_tensors

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["gathered", "held_by", "unhooked"]

_HOOKS = tuple(name for name in REGISTRIES if name.endswith("_hooks"))
_STATES = ("__composable_api", "_fsdp", "_is_fsdp")  # attributes that `fully_shard` gives to modules


@torch.no_grad()
def gathered(network: nn.Module, here: bool) -> nn.Module | None:
    """A copy of a sharded network with whole parameters, on the CPU, in one process.

    All processes of the mesh must call it. Tensors are gathered one after the other, so a process that keeps none has one
    of them whole at a time.

    Args:
        network: under `fully_shard`; it is left as it was.
        here: this process keeps what is gathered.

    Returns:
        The copy, without hooks of `fully_shard`; None where nothing is kept.

    Raises:
        RuntimeError: there is no memory for the copy; all other processes are done by then.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> gathered(net, here=True), gathered(net, here=False)
        (Linear(in_features=2, out_features=1, bias=True), None)
    """
    reshard(network)
    known: dict[int, Any] = {}
    failure: RuntimeError | None = None
    for tensor in own_tensors(network).values():
        whole = cast("DTensor", tensor).full_tensor() if is_sharded([tensor]) else tensor
        if here and failure is None:
            try:
                known[id(tensor)] = _as(tensor, whole.detach().to("cpu", copy=True))
            except RuntimeError as error:  # the others wait for what comes next
                failure = error
                known.clear()
        del whole
    if failure is not None:
        raise failure
    if not here:
        return None
    with unhooked(network):
        return copied(network, known)


def held_by(groups: Partition, network: nn.Module) -> Partition:
    """The groups of the whole parameters that a `gathered` network holds.

    Args:
        groups: of the network's shards; others are returned as they are.
        network: that was gathered.
    """
    if not isinstance(groups, ShardedPartition):
        return groups
    parameters = dict(network.named_parameters(remove_duplicate=False))
    members = [replace(m, param=parameters[m.name]) for m in groups.whole.members]
    return Partition(members, groups.layers, groups.layer_numbers, groups.kind)


@contextmanager
def unhooked(network: nn.Module) -> Iterator[None]:
    """With the modules as they were before `fully_shard`, but for their parameters: a call gathers nothing.

    Args:
        network: the network; afterwards it is under `fully_shard` again.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    back: list[Callable[[], object]] = []
    try:
        if fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in network.modules()):
            for module in network.modules():
                kind, own = type(module), vars(module)
                states = {name: own.pop(name) for name in list(own) if name.startswith(_STATES)}
                back += [partial(own.update, states), partial(setattr, module, "__class__", kind)]
                back += [_without_torchs(own[name]) for name in _HOOKS]
                module.__class__ = next(k for k in kind.__mro__ if not issubclass(k, fsdp.FSDPModule))
        yield
    finally:
        for put_back in back:
            put_back()


def _without_torchs(hooks: dict[int, Any]) -> Callable[[], None]:
    """Take the hooks of torch.distributed out; what is returned puts them back. In place, as handles refer to the dict."""
    before = list(hooks.items())
    for key, hook in before:
        if _is_torchs(hook):
            del hooks[key]

    def put_back() -> None:
        if len(hooks) < len(before):
            hooks.clear()
            hooks.update(before)

    return put_back


def _is_torchs(hook: Any) -> bool:
    """Whether a hook is one of torch.distributed."""
    hook = getattr(hook, "hook", hook)
    while isinstance(hook, partial):
        hook = hook.func
    return callable(hook) and str(getattr(hook, "__module__", "")).startswith("torch.distributed.")


def _as(tensor: Tensor, values: Tensor) -> Tensor:
    return nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
