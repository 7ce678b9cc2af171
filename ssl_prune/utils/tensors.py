"""The tensors of a network by name, and a run that leaves them as they were."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.utils.inputs import Inputs, as_call, map_tensors, uncompiled
from ssl_prune.utils.plain_outputs import plain_outputs
from ssl_prune.utils.restored import Snapshot

__all__ = ["Aside", "has_own_entries", "laid_out_as", "named_tensors", "own_tensors", "run_aside", "without_gradients"]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of `model`, a shared one under each of its names.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> net.append(net[0])[0] is net[1]
        True
        >>> list(named_tensors(net))
        ['0.weight', '1.weight']
    """
    parameters = dict[str, Tensor](model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of `model` once, under its first name: whose entries are to be counted or numbered."""
    return dict[str, Tensor](model.named_parameters()) | dict(model.named_buffers())


def has_own_entries(tensor: Tensor) -> bool:
    """A plain dense tensor that holds each of its entries, and not one many times over.

    Example:
        >>> has_own_entries(torch.ones(2)), has_own_entries(torch.ones(1).expand(10**9))
        (True, False)
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def laid_out_as(new: Tensor, old: Tensor) -> Tensor:
    """`new`, with channels last in memory if `old` has them so."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(old.dim())
    if last is not None and old.is_contiguous(memory_format=last) and not old.is_contiguous():
        return new.contiguous(memory_format=last)
    return new.contiguous()


class Aside:
    """A network to be run any number of times and left as it was; what its forward can write into is listed once.

    Between the runs the network stays as it is; a change of its structure or mode needs a new one of these.

    Args:
        model: the network, in the mode in which it is to run.

    Example:
        >>> net = nn.BatchNorm1d(2)
        >>> run = Aside(net)
        >>> run(torch.ones(3, 2)).shape, run(torch.ones(4, 2)).shape, net.num_batches_tracked.item()
        (torch.Size([3, 2]), torch.Size([4, 2]), 0)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self._snapshot = model, Snapshot(model)

    def __call__(self, inputs: Inputs, under: AbstractContextManager[Any] | None = None) -> Any:
        """What the network returns for copies of the inputs and of its own buffers.

        Args:
            inputs: those of one call.
            under: active during the forward alone, such as a mode that sees its operators.
        """
        args, kwargs = as_call(map_tensors(torch.clone, inputs))
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with self._snapshot.restored() as writes, uncompiled():
            with under or nullcontext():
                output = torch.func.functional_call(self.model, buffers, args, kwargs)
            output = plain_outputs(output)
            return map_tensors(torch.clone, output) if writes.any else output  # it may be what is put back


def run_aside(model: nn.Module, inputs: Inputs) -> Any:
    """`model` called with copies of `inputs` and of its own buffers; what its forward writes into is put back."""
    return Aside(model)(inputs)


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient: torch looks for the history of views, and multiplies in another way, where one does."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
