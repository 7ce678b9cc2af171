"""Example inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = [
    "Inputs",
    "as_call",
    "batch_of",
    "call",
    "check_example",
    "evaluation",
    "in_precision_of",
    "leaves",
    "map_tensors",
    "uncompiled",
]

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def as_call(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that `inputs` stands for.

    Args:
        inputs: a tensor (one positional argument), a tuple or list (positional), or a dict (keywords).

    Raises:
        TypeError: anything else, `None` included.

    Example:
        >>> as_call({"x": 1})
        ((), {'x': 1})
    """
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return tuple(inputs), {}
    raise TypeError(
        f"example inputs: got {type(inputs).__name__}, expected a tensor, a tuple of positional arguments or a dict "
        "of keyword arguments; for example slim(model, torch.randn(1, 3, 32, 32))"
    )


def check_example(model: nn.Module, inputs: Inputs) -> None:
    """Refuse an example that holds nothing, of which everything that is compared would be equal.

    Args:
        model: the network; one that takes no inputs has an empty example.
        inputs: the example.

    Raises:
        TypeError: `model` is no network, or `inputs` is not a tensor, tuple or dict.
        ValueError: no argument where the network needs some, or tensors without an entry, such as a batch of none.

    Example:
        >>> check_example(nn.Linear(2, 1), torch.zeros(0, 2))
        Traceback (most recent call last):
        ...
        ValueError: example inputs: got tensors of shapes (0, 2) without an entry, expected at least one sample for Linear
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {model!r}, expected a network, an object of torch.nn.Module")
    args, kwargs = as_call(inputs)
    if not args and not kwargs:
        needed = [p.name for p in inspect.signature(model.forward).parameters.values() if _is_needed(p)]
        if needed:
            raise ValueError(
                f"example inputs: got {inputs!r}, expected what {type(model).__name__} is called with: {', '.join(needed)}; "
                "for example slim(model, torch.randn(1, 3, 32, 32))"
            )
    tensors = leaves((args, kwargs))
    if tensors and not any(tensor.numel() for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(
            f"example inputs: got tensors of shapes {shapes} without an entry, expected at least one sample for "
            f"{type(model).__name__}"
        )


def _is_needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def call(model: nn.Module, inputs: Inputs) -> Any:
    """`model` called with `inputs`, as it is where it would be compiled: see `uncompiled`."""
    args, kwargs = as_call(inputs)
    with uncompiled():
        return model(*args, **kwargs)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run networks that `torch.compile` was told of as they are.

    A look at a network takes other inputs, other sizes and no gradients, for each of which the compiler would make another
    version; after some it gives up on the network, and training goes on uncompiled.
    """
    with torch.compiler.set_stance("force_eager"):
        yield


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a nested structure, in a fixed order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """`inputs` with `function` applied to each tensor."""
    mapped: Inputs = pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, inputs)
    return mapped


def in_precision_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """`inputs` with real numbers in the precision of the network's parameters, where these have one; all else as it is.

    Args:
        model: the network.
        inputs: for it.

    Example:
        >>> in_precision_of(nn.Linear(2, 1).double(), torch.zeros(1, 2)).dtype
        torch.float64
    """
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(kinds) != 1:
        return inputs
    (kind,) = kinds
    return map_tensors(lambda tensor: tensor.to(kind) if tensor.is_floating_point() else tensor, inputs)


def batch_of(example: Inputs, size: int) -> Inputs:
    """A batch to time: the samples of the example, and as many made of them as are missing, their numbers in another order.

    The same sample over and over would be too easy: the processor foresees every comparison of a pooling, which made a
    LeNet-5 a tenth faster than real images do. Integers and flags, which name things, are repeated as they are, and
    tensors that have not as many samples as the first one are left alone.

    Example:
        >>> batch_of(torch.tensor([[1.0, 2.0, 3.0]]), 4).sum(1)
        tensor([6., 6., 6., 6.])
    """
    generator = torch.Generator().manual_seed(0)
    known = next((len(tensor) for tensor in leaves(as_call(example)) if tensor.dim()), 0)

    def spread(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != known or not tensor.numel():
            return tensor
        repeated = tensor[torch.arange(size) % known]
        if tensor.is_floating_point():
            for sample in repeated[known:]:
                order = torch.randperm(sample.numel(), generator=generator).to(tensor.device)
                sample.copy_(sample.flatten()[order].view_as(sample))
        return repeated

    return map_tensors(spread, example)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in evaluation mode without gradients; each module's own flag is put back afterwards.

    The flags are set one by one: `eval()` of a user's class may do more than that, and `train()` would set them all alike.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products as such: outputs that are compared must not differ by what TF32 leaves out.

    torch lets cuDNN convolve in TF32 by default, with 10 bits of mantissa where float32 has 23; and whoever trains may
    have allowed products less.
    """
    backends: Any = torch.backends
    # There are old switches and new ones. Setting an old one sets the new ones too, but not what these inherit; and
    # whoever reads an old one after the new ones alone were set gets an error.
    old: list[tuple[Callable[[], Any], Callable[[Any], None], Any]] = [
        (lambda: backends.cudnn.allow_tf32, lambda on: setattr(backends.cudnn, "allow_tf32", on), False),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    ]
    new = [
        *(backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul),
        *(backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul),
    ]
    old_before, new_before = [_read(read) for read, _, _ in old], [place.fp32_precision for place in new]
    try:
        for (_, write, full), was in zip(old, old_before, strict=True):
            if was is not None:
                write(full)
        for place in new:
            if place.fp32_precision not in ("ieee", "none"):
                place.fp32_precision = "ieee"
        yield
    finally:
        for (_, write, _), was in zip(old, old_before, strict=True):
            if was is not None:
                write(was)
        for place, was in zip(new, new_before, strict=True):
            if place.fp32_precision != was:
                place.fp32_precision = was


def _read(switch: Callable[[], Any]) -> Any:
    """What an old switch says; None where the new ones were set in a way that it cannot express."""
    try:
        return switch()
    except RuntimeError:
        return None
