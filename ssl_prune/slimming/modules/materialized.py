"""Layers that compute their weight (standardised, reparametrised, masked ones), and the plain layers they come to."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from ssl_prune.errors import SlimError
from ssl_prune.graph.export.program import Program, modules_of
from ssl_prune.utils.inputs import evaluation
from ssl_prune.utils.restored import restored

__all__ = ["computing_layers", "plain"]

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CALLS: dict[Any, type[nn.Module]] = {
    torch.nn.functional.linear: nn.Linear,
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
}
_CONTRACTIONS = {getattr(torch.ops.aten, name) for name in ("linear", "conv1d", "conv2d", "conv3d")}


def computing_layers(program: Program, model: nn.Module) -> list[str]:
    """Linear layers and convolutions that do no more than one product of their input with a weight they compute.

    Args:
        program: of the network.
        model: the network.
    """
    names: dict[fx.Node, set[str] | None] = {}  # parameters and buffers that a value is made of; None: and of the input
    found: dict[str, None] = {}
    modules = dict(model.named_modules())
    for node in program.graph.nodes:
        if node.op == "placeholder":
            known = program.tensors.get(node.name)
            names[node] = {known} if known is not None else None if node.name in program.inputs else set()
            continue
        parts = [names[used] for used in node.all_input_nodes]
        names[node] = None if None in parts else set().union(*(part for part in parts if part is not None))
        if getattr(node.target, "overloadpacket", None) not in _CONTRACTIONS or node.args[1].op == "placeholder":
            continue
        of = names[node.args[1]]
        owner = next((name for name in modules_of(node) if name and isinstance(modules.get(name), _KINDS)), None)
        if owner is not None and of and all(name.startswith(f"{owner}.") for name in of):
            found[owner] = None
    return [name for name in found if _call(modules[name]) is not None]


def plain(module: nn.Module) -> nn.Module:
    """The layer with the weight that `module` computes.

    Args:
        module: one of `computing_layers`, or the same with fewer channels.

    Raises:
        SlimError: it does something else than one product.

    Example:
        >>> layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        >>> x = torch.randn(1, 3)
        >>> new = plain(layer)
        >>> new, torch.equal(new(x), layer(x))
        (Linear(in_features=3, out_features=2, bias=True), True)
    """
    call = _call(module)
    if call is None:
        raise SlimError(
            f"{type(module).__name__}: expected a layer that is one product with a weight it computes; build the same "
            "dense network as at training"
        )
    kind, args = call
    weight, bias = args[1].detach().clone(), args[2]
    options: dict[str, Any] = {"bias": bias is not None, "device": "meta", "dtype": weight.dtype}
    if kind is nn.Linear:
        new = nn.Linear(weight.shape[1], weight.shape[0], **options)
    else:
        stride, padding, dilation, groups = args[3:7]
        channels = weight.shape[1] * groups
        new = kind(channels, weight.shape[0], weight.shape[2:], stride, padding, dilation, groups, **options)
    learns = any(p.requires_grad for p in module.parameters())
    new.weight = nn.Parameter(weight, requires_grad=learns)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach().clone(), requires_grad=learns)
    return new


class _Recorder(TorchFunctionMode):
    """Notes every product with its arguments and result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CALLS:
            given = dict(enumerate(args)) | {_NAMES.index(name): value for name, value in (kwargs or {}).items()}
            self.calls.append(
                (func, tuple(given.get(place, default) for place, default in enumerate(_DEFAULTS)), result)
            )
        return result


_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_DEFAULTS = (None, None, None, 1, 0, 1, 1)


def _call(module: nn.Module) -> tuple[type[Any], tuple[Any, ...]] | None:
    """The one product that the module is, with all its arguments; None if it does anything else with its input."""
    weight = next((p for p in module.parameters() if p.dim() > 1), None)
    if weight is None:
        return None
    shape: tuple[int, ...] = (1, getattr(module, "in_features", 0))
    if isinstance(module, nn.modules.conv._ConvNd):
        span = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        shape = (1, module.in_channels, *span)
    first, second = (_only(module, x) for x in (weight.new_zeros(shape), weight.new_ones(shape)))
    if first is None or second is None or not torch.equal(first[1][1], second[1][1]):
        return None
    return None if any(first[1][1] is p for p in module.parameters()) else first


def _only(module: nn.Module, x: Tensor) -> tuple[type[Any], tuple[Any, ...]] | None:
    """The product that makes the module's result of `x`, if it is the only one that reads `x`."""
    recorder = _Recorder()
    try:
        places = [p.data_ptr() for p in module.parameters()]
        with restored(module) as writes, evaluation(module):
            with recorder:
                result = module(x)
            if writes.any or places != [
                p.data_ptr() for p in module.parameters()
            ]:  # the forward has written its weight, which is put back
                recorder.calls = [(f, (g[0], g[1].detach().clone(), *g[2:]), r) for f, g, r in recorder.calls]
    except Exception:
        return None
    calls = [call for call in recorder.calls if call[1][0] is x]
    if len(calls) != 1 or calls[0][2] is not result or not isinstance(module, _CALLS[calls[0][0]]):
        return None
    return _CALLS[calls[0][0]], calls[0][1]
