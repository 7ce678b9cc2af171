"""What the callbacks share: the network inside a LightningModule, one sample for it, and its channel graph."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ssl_prune._lightning import pl
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.groups.shards import is_sharded, reshard
from ssl_prune.utils.inputs import Inputs, as_call, call, evaluation, leaves, map_tensors

__all__ = [
    "example_of",
    "forget",
    "graph_of",
    "handed_on",
    "inputs_of",
    "known_graph",
    "network_of",
    "refuse_sharded",
    "remember",
]

_GRAPHS: "WeakKeyDictionary[nn.Module, tuple[str, dict[str, ChannelGraph]]]" = WeakKeyDictionary()
_EXAMPLES: "WeakKeyDictionary[nn.Module, Inputs]" = WeakKeyDictionary()


def network_of(pl_module: pl.LightningModule, module: str | None = None) -> nn.Module:
    """The network to look at: `module` by name; else the one child that holds every parameter; else all of it.

    Raises:
        ValueError: there is no submodule of that name.
    """
    if module is not None:
        found: nn.Module | None = dict(pl_module.named_modules()).get(module)
        if found is None:
            names = [name for name, _ in pl_module.named_children()]
            raise ValueError(f"module={module!r}: {type(pl_module).__name__} has no such submodule; it has {names}")
        return found
    everything = {id(p) for p in pl_module.parameters()}
    for child in pl_module.children():
        callable_ = type(child).forward is not nn.Module.forward  # a ModuleList is not
        if callable_ and everything and {id(p) for p in child.parameters()} == everything:
            return child
    return pl_module


def remember(pl_module: pl.LightningModule, network: nn.Module, batch: Any) -> None:
    """Keep one sample of a training batch, for LightningModules without `example_input_array`.

    The batch is one that training reads anyway: opening the loader to look would move generators and streams on.
    """
    if pl_module.example_input_array is None and network not in _EXAMPLES:
        _EXAMPLES[network] = map_tensors(lambda t: _first(t).detach().clone(), inputs_of(batch))


def forget(network: nn.Module) -> None:
    """Let go of the sample of an earlier run."""
    _EXAMPLES.pop(network, None)


def example_of(pl_module: pl.LightningModule, network: nn.Module) -> Inputs | None:
    """One sample as `network` gets it: from `example_input_array`, else from a training batch; None where there is none.

    Both are inputs of the LightningModule. Where its forward hands the network something else, it is that which counts.
    """
    example: Inputs | None = pl_module.example_input_array
    if example is None:
        example = _EXAMPLES.get(network)
    if example is None:
        return None
    place = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))

    def move(tensor: Tensor) -> Tensor:
        dtype = place.dtype if tensor.is_floating_point() else tensor.dtype
        return _first(tensor).to(place.device, dtype)

    return handed_on(pl_module, network, map_tensors(move, example))


def graph_of(network: nn.Module, example: Inputs) -> ChannelGraph:
    """The channel graph of `network`; traced once however many callbacks ask, and again when a shape has changed."""
    shapes = _shapes(network)
    inputs = repr([(t.shape, t.dtype, t.device) for t in leaves(as_call(example))])
    if network not in _GRAPHS or _GRAPHS[network][0] != shapes:
        _GRAPHS[network] = shapes, {}
    known = _GRAPHS[network][1]
    if inputs not in known:
        known[inputs] = trace(network, example)
    return known[inputs]


def known_graph(network: nn.Module) -> ChannelGraph:
    """The graph of a network that is sharded by now, as it was traced in `setup`: names and shapes are still the same.

    Raises:
        ValueError: it was not traced before it was sharded.
    """
    if network not in _GRAPHS or _GRAPHS[network][0] != _shapes(network):
        raise ValueError(
            f"{type(network).__name__} is sharded, and only a whole network can be traced: build it in the __init__ of "
            "the LightningModule, set example_input_array there, and only shard it in configure_model"
        )
    return next(iter(_GRAPHS[network][1].values()))


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


def _shapes(network: nn.Module) -> str:
    return repr([(name, tuple(p.shape)) for name, p in network.named_parameters()])


class _Reached(Exception):  # noqa: N818 - not an error: it ends a forward pass early
    pass


def handed_on(pl_module: pl.LightningModule, network: nn.Module, inputs: Inputs) -> Inputs:
    """What `network` is called with when the LightningModule gets `inputs`; `inputs` if its forward cannot tell."""
    if network is pl_module:
        return _accepted(inputs, network)
    seen: list[Inputs] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = list(inspect.signature(module.forward).parameters) if kwargs else []
        seen.append({**dict(zip(names, args, strict=False)), **kwargs} if kwargs else args)
        raise _Reached

    handle = network.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        for way in (_accepted(inputs, pl_module), (inputs,)):
            with evaluation(pl_module), torch.random.fork_rng(devices=[]), contextlib.suppress(Exception):
                call(pl_module, way)
    finally:
        handle.remove()
    if not seen:
        return _accepted(inputs, network)
    only = seen[0][0] if isinstance(seen[0], tuple) and len(seen[0]) == 1 else None
    return map_tensors(torch.clone, only if isinstance(only, Tensor) else seen[0])


def _accepted(inputs: Inputs, module: nn.Module) -> Inputs:
    """Of a dict what the module's forward takes; else all of it."""
    if not isinstance(inputs, Mapping):
        return inputs
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return inputs
    return {p.name: inputs[p.name] for p in parameters if p.name in inputs}


def _first(tensor: Tensor) -> Tensor:
    return tensor[:1] if tensor.dim() else tensor


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
