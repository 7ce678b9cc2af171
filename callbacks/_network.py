"""What the callbacks share: the network inside a LightningModule, one sample for it, and its channel graph."""

import inspect
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ssl_prune._lightning import pl
from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.inputs import Inputs, map_tensors

__all__ = ["example_of", "graph_of", "network_of"]

_GRAPHS: "WeakKeyDictionary[nn.Module, ChannelGraph]" = WeakKeyDictionary()
_EXAMPLES: "WeakKeyDictionary[nn.Module, Inputs]" = WeakKeyDictionary()


def network_of(pl_module: pl.LightningModule, module: str | None = None) -> nn.Module:
    """The network to look at: `module` by name; else the one child that holds every parameter; else all of it.

    Raises:
        ValueError: there is no submodule of that name.
    """
    if module is not None:
        found = dict(pl_module.named_modules()).get(module)
        if found is None:
            names = [name for name, _ in pl_module.named_children()]
            raise ValueError(f"module={module!r}: {type(pl_module).__name__} has no such submodule; it has {names}")
        return found
    everything = {id(p) for p in pl_module.parameters()}
    for child in pl_module.children():
        if everything and {id(p) for p in child.parameters()} == everything:
            return child
    return pl_module


def example_of(trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> Inputs | None:
    """One sample: from `example_input_array`, else from the first training batch; None where there is neither yet.

    Looking at the first batch leaves the random state as it was.
    """
    example = pl_module.example_input_array
    if example is None and network not in _EXAMPLES:
        loader = trainer.train_dataloader
        if loader is None:
            return None
        with torch.random.fork_rng(devices=[]):
            _EXAMPLES[network] = _inputs_of(next(iter(loader)), network)
    example = _EXAMPLES[network] if example is None else example
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    return map_tensors(lambda t: t[:1].to(device) if t.dim() else t.to(device), example)


def graph_of(network: nn.Module, example: Inputs) -> ChannelGraph:
    """The channel graph of `network`; traced once however many callbacks ask."""
    if network not in _GRAPHS:
        _GRAPHS[network] = trace(network, example)
    return _GRAPHS[network]


def _inputs_of(batch: Any, network: nn.Module) -> Inputs:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        accepted = inspect.signature(network.forward).parameters
        return {key: value for key, value in batch.items() if key in accepted}
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], (Tensor, Mapping)):
        return batch[0]
    raise ValueError(
        f"the first training batch is a {type(batch).__name__}, from which no network input can be taken; "
        "set example_input_array on the LightningModule"
    )
