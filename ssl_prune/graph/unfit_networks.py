"""Networks that no tracer can follow, refused with the way out before one tries."""

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

__all__ = ["check_network"]

_QUANTISED = (".quantized", ".qat", ".observer", ".fake_quantize")


def check_network(model: nn.Module) -> None:
    """Refuse what is not the plain network: a wrapper for several devices, a quantised, exported or unfinished network.

    Args:
        model: the network.

    Raises:
        TypeError: it is wrapped, quantised or about to be, or a program of `torch.export`.
        ValueError: lazy layers do not know their shapes yet.

    Example:
        >>> check_network(nn.DataParallel(nn.Linear(2, 2)))
        Traceback (most recent call last):
        ...
        TypeError: model: got a DataParallel, expected the network inside it; pass its .module
    """
    for name, module in model.named_modules():
        where, kind = name or "model", type(module)
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise TypeError(f"{where}: got a {kind.__name__}, expected the network inside it; pass its .module")
        if kind.__module__.startswith("torch.ao.") and any(part in kind.__module__ for part in _QUANTISED):
            raise TypeError(
                f"{where}: got a quantised layer or one with observers ({kind.__module__}.{kind.__name__}), expected a network "
                "of floating-point numbers; slim before quantising, and quantise the slim network"
            )
        if isinstance(module, fx.GraphModule) and any(
            isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
        ):
            raise TypeError(
                f"{where}: got an exported program ({kind.__name__} of ATen operators), expected the network that was "
                "exported, with its own modules; slim that one and export the slim network"
            )
        for leaf, parameter in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if is_lazy(parameter):
                raise ValueError(
                    f"{name + '.' if name else ''}{leaf}: a lazy {kind.__name__} does not know its shape yet, expected layers "
                    "with weights; call the network once on an example before"
                )
