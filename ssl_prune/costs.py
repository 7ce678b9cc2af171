"""What a network costs: multiplications, parameters, bytes, layer by layer."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from ssl_prune.utils.inputs import Inputs, as_call, evaluation, in_precision_of, uncompiled
from ssl_prune.utils.restored import restored
from ssl_prune.utils.table import table
from ssl_prune.utils.tensors import named_tensors, without_gradients

__all__ = ["Cost", "LayerCost", "cost"]


@dataclass(frozen=True)
class LayerCost:
    """The cost of one module without its submodules.

    Attributes:
        name: its name in the network; empty for the network itself.
        kind: its class.
        macs: Multiply-accumulates of all its calls in one forward pass.
        params: numbers in its parameters.
        bytes: bytes of its parameters and of the buffers that a state dict has.

    Example:
        >>> cost(nn.Linear(3, 2), torch.zeros(1, 3)).layers[""]
        LayerCost(name='', kind='Linear', macs=6, params=8, bytes=32)
    """

    name: str
    kind: str
    macs: int
    params: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one forward pass; `str()` is a table.

    Attributes:
        macs: Multiply-accumulates of convolutions and matrix products; twice as many floating-point operations.
        params: numbers in the parameters; a shared one counts once.
        bytes: bytes of the parameters and buffers of a state dict; a shared one counts once.
        layers: by name, the modules that have parameters or compute, in the order of the network. A parameter that
            several modules share counts in the first one.

    Example:
        >>> cost(nn.Linear(3, 2), torch.zeros(1, 3))
        Cost(macs=6, params=8, bytes=32)
    """

    macs: int
    params: int
    bytes: int
    layers: dict[str, LayerCost] = field(repr=False)

    def __str__(self) -> str:
        rows = [(x.name or "(network)", x.kind, x.macs, x.params, x.bytes) for x in self.layers.values()]
        total = ("total", None, self.macs, self.params, self.bytes)
        return table(["layer", "kind", "MACs", "parameters", "bytes"], rows, total=total)


def cost(model: nn.Module, example_inputs: Inputs, *, run: bool = True) -> Cost:
    """Count the multiply-accumulates, parameters and bytes of a network by running it once.

    Counted are the convolutions and matrix products that torch executes, inside modules or not, hence also those of
    attention. Biases, normalisations, activations and poolings count no MACs. The pass is one call with the inputs
    as they are: a batch of N counts N times the MACs of one sample.

    The network is run in evaluation mode without gradients and is left as it was, every module's mode and all buffers.

    Args:
        model: any network; it must be on the device of the inputs.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
        run: compute the numbers. With False the shapes alone are followed, which takes no longer for a large network;
            one whose Python code asks for a number is run all the same.

    Returns:
        The counts, in total and by module.

    Example:
        >>> conv = nn.Conv2d(1, 20, 5)
        >>> cost(conv, torch.zeros(1, 1, 28, 28)).macs  # 20 * 25 * 24 * 24
        288000
        >>> print(cost(conv, torch.zeros(1, 1, 28, 28)))
        layer       kind        MACs   parameters   bytes
        ─────────────────────────────────────────────────
        (network)   Conv2d   288,000          520   2,080
        ─────────────────────────────────────────────────
        total                288,000          520   2,080
    """
    args, kwargs = as_call(in_precision_of(model, example_inputs))
    macs = _macs(model, args, kwargs) if run else _macs_of_shapes(model, args, kwargs)
    seen: set[int] = set()
    layers = {}
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        saved = [b for key, b in module.named_buffers(recurse=False) if key not in module._non_persistent_buffers_set]
        stored = own + [b for b in saved if id(b) not in seen]
        seen.update(id(t) for t in stored)
        if stored or macs.get(name):
            size = sum(t.numel() * t.element_size() for t in stored)
            layers[name] = LayerCost(name, type(module).__name__, macs.get(name, 0), sum(p.numel() for p in own), size)
    rows = layers.values()
    return Cost(sum(x.macs for x in rows), sum(x.params for x in rows), sum(x.bytes for x in rows), layers)


def _macs(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: dict[str, Tensor] | None = None
) -> dict[str, int]:
    """Return the MACs of each module by name, those of its submodules left out; `tensors` stand for the network's own."""
    counter = FlopCounterMode(display=False)
    flops: dict[str, int] = {}
    inside: list[str] = []
    counted = 0

    def settle() -> None:
        # Whatever was computed since the last entry or exit belongs to the innermost module.
        nonlocal counted
        now = counter.get_total_flops()
        place = inside[-1] if inside else ""
        flops[place] = flops.get(place, 0) + now - counted
        counted = now

    def enter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            settle()
            inside.append(name)

        return hook

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        settle()
        inside.pop()

    copies = {name: buffer.clone() for name, buffer in model.named_buffers()} if tensors is None else tensors
    with ExitStack() as stack:
        if tensors is None:  # whoever gives tensors puts back what is written
            stack.enter_context(restored(model))
        stack.enter_context(evaluation(model))
        stack.enter_context(uncompiled())  # the compiler would not look at these functions again
        stack.enter_context(_countable(model))
        stack.enter_context(without_gradients(model))
        for name, module in model.named_modules():
            stack.enter_context(module.register_forward_pre_hook(enter(name)))
            stack.enter_context(module.register_forward_hook(leave))
        stack.enter_context(counter)
        # A module that writes its buffers even in evaluation mode writes the copies.
        torch.func.functional_call(model, copies, args, kwargs)
        settle()
    return {name: count // 2 for name, count in flops.items()}


def _macs_of_shapes(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, int]:
    """The same, from a pass over tensors without numbers."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def shape(leaf: Any) -> Any:
        return mode.from_tensor(leaf, static_shapes=True) if isinstance(leaf, Tensor) else leaf

    tensors = named_tensors(model)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), restored(model, numbers=False):
        warnings.simplefilter("ignore")
        try:
            with mode:
                fake = {name: shape(tensor.detach()) for name, tensor in tensors.items()}
                return _macs(model, pytree.tree_map(shape, args), pytree.tree_map(shape, kwargs), fake)
        except Exception:  # it asks for a number, or an operator does not know the shape of its result
            pass
    args, kwargs = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    return _macs(model, args, kwargs)


@contextmanager
def _countable(model: nn.Module) -> Iterator[None]:
    """Make torch compute attention and recurrent layers by matrix products: fused kernels are not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent:
                # Not mkldnn.flags: it warns about a setting of other devices.
                enabled = torch.backends.mkldnn.set_flags(False)[0]
                stack.callback(torch.backends.mkldnn.set_flags, enabled)
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
