"""The network inside a LightningModule, and what it is called with."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ssl_prune._lightning import pl
from ssl_prune.errors import first_line
from ssl_prune.groups.gathered import unhooked
from ssl_prune.groups.shards import is_sharded, reshard
from ssl_prune.utils.inputs import Inputs, call, evaluation, map_tensors
from ssl_prune.utils.nearest import nearest
from ssl_prune.utils.restored import restored
from ssl_prune.utils.tensors import run_aside

__all__ = ["check_fit", "finish", "handed_on", "inputs_of", "network_of", "refuse_sharded"]


def network_of(pl_module: pl.LightningModule, module: str | None = None) -> nn.Module:
    """The network to look at: `module` by name; else the one child that holds every parameter; else all of it.

    Raises:
        ValueError: there is no submodule of that name.
    """
    if module is not None:
        found: nn.Module | None = dict(pl_module.named_modules()).get(module)
        if found is None:
            names = [name for name, _ in pl_module.named_children()]
            near = nearest(module, (name for name, _ in pl_module.named_modules() if name))
            raise ValueError(
                f"module={module!r}: {type(pl_module).__name__} has no such submodule; it has {names}{near}"
            )
        return found
    everything = {id(p) for p in pl_module.parameters()}
    for child in pl_module.children():
        callable_ = type(child).forward is not nn.Module.forward  # a ModuleList is not
        if callable_ and everything and {id(p) for p in child.parameters()} == everything:
            return child
    return pl_module


def refuse_sharded(who: object, pl_module: pl.LightningModule, way_out: str) -> None:
    """Refuse parameters that are DTensors.

    Raises:
        ValueError: some are.
    """
    reshard(pl_module)
    name = next((name for name, p in pl_module.named_parameters() if is_sharded([p])), None)
    if name is not None:
        raise ValueError(
            f"{type(who).__name__}: {name} is sharded (a DTensor), expected a network that each process holds whole; {way_out}"
        )


class _Reached(Exception):  # noqa: N818 - not an error: it ends a forward pass early
    pass


def handed_on(pl_module: pl.LightningModule, network: nn.Module, inputs: Inputs) -> Inputs:
    """What `network` is called with when the LightningModule gets `inputs`; `inputs` if its forward cannot tell.

    It is not called itself, and nothing is gathered where it has shards: one process alone may ask.
    """
    if network is pl_module:
        return _accepted(inputs, network)
    seen: list[Inputs] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = list(inspect.signature(module.forward).parameters) if kwargs else []
        seen.append({**dict(zip(names, args, strict=False)), **kwargs} if kwargs else args)
        raise _Reached

    with unhooked(pl_module):
        handle = network.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            for way in (_accepted(inputs, pl_module), (inputs,)):
                with (
                    restored(pl_module),
                    evaluation(pl_module),
                    torch.random.fork_rng(devices=[]),
                    contextlib.suppress(Exception),
                ):
                    call(pl_module, way)
        finally:
            handle.remove()
    if not seen:
        return _accepted(inputs, network)
    only = seen[0][0] if isinstance(seen[0], tuple) and len(seen[0]) == 1 else None
    return map_tensors(torch.clone, only if isinstance(only, Tensor) else seen[0])


def finish(pl_module: pl.LightningModule, inputs: Inputs) -> None:
    """Have lazy layers find their shapes, as a first call does."""
    if any(is_lazy(p) for p in pl_module.parameters()):
        with evaluation(pl_module), torch.random.fork_rng(devices=[]):
            call(pl_module, _accepted(inputs, pl_module))


def check_fit(pl_module: pl.LightningModule, network: nn.Module, inputs: Inputs) -> None:
    """Refuse a sample of the first training batch that the network does not take.

    Raises:
        ValueError: the network raises.
    """
    try:
        with evaluation(network), torch.random.fork_rng(devices=[]):
            run_aside(network, inputs)
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__}: an example input was taken from the first training batch, and the network does not "
            f"take it ({type(error).__name__}: {first_line(error)}); set example_input_array on {type(pl_module).__name__}"
        ) from error


def _accepted(inputs: Inputs, module: nn.Module) -> Inputs:
    """Of a dict what the module's forward takes; else all of it."""
    if not isinstance(inputs, Mapping):
        return inputs
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return inputs
    return {p.name: inputs[p.name] for p in parameters if p.name in inputs}


def inputs_of(batch: Any) -> Inputs:
    """What of a training batch a LightningModule is called with: a tensor or a dict, or the first part of a list.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(batch, (Tensor, Mapping)):
        return batch
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], (Tensor, Mapping)):
        return batch[0]
    raise ValueError(
        f"the first training batch is a {type(batch).__name__}, from which no network input can be taken; "
        "set example_input_array on the LightningModule"
    )
