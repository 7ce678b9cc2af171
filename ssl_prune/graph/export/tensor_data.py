"""`tensor.data` in a forward, which the tracer would take for a literal."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

__all__ = ["TensorData", "without_scaled_parameters"]

_READ: Any = Tensor.data.__get__  # type: ignore[attr-defined]
_WRITE: Any = Tensor.data.__set__  # type: ignore[attr-defined]


class TensorData(TorchFunctionMode):
    """While active, `tensor.data` is `tensor.detach()`, and writing it writes the numbers: operators that are traced.

    Masked convolutions multiply `weight.data` by a buffer in each forward.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> with TensorData():
        ...     weight.data *= torch.tensor([1.0, 0.0])
        >>> weight.tolist()
        [1.0, 0.0]
    """

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what stands for it."""
        if func == _READ:
            return args[0].detach()
        if func == _WRITE and args[0].shape == args[1].shape and args[0].dtype == args[1].dtype:
            if args[0].untyped_storage()._cdata != args[1].untyped_storage()._cdata:  # else `*=` has written them
                with torch.no_grad():
                    args[0].copy_(args[1])
            return None
        return func(*args, **(kwargs or {}))


def without_scaled_parameters(signature: Any, graph: fx.Graph) -> None:
    """Take parameters that the forward multiplies, entry by entry, out of the outputs.

    Their zeros stay zeros from call to call, and no entry moves to another; any other write keeps what it touches.

    Args:
        signature: that of the exported program.
        graph: its operators; the outputs are changed.
    """
    end = graph.output_node()
    names = {spec.arg.name: spec.target for spec in signature.input_specs}
    kept = []
    outputs: Any = end.args[0]
    for spec, node in zip(signature.output_specs, outputs, strict=True):
        source = node
        while isinstance(source, fx.Node) and source.op == "call_function" and source.target in _SCALES:
            source = source.args[0]
        scaled = isinstance(source, fx.Node) and source is not node and names.get(source.name) == spec.target
        if not (spec.kind.name == "PARAMETER_MUTATION" and scaled):
            kept.append(node)
    end.args = (tuple(kept),)


_SCALES = {torch.ops.aten.mul.Tensor, torch.ops.aten.detach.default, torch.ops.aten.alias.default}
