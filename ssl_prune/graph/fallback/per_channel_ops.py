"""Layers and operators that treat channels one by one, by the names under which autograd knows them."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from torch.autograd.function import BackwardCFunction

__all__ = ["CONVOLUTIONS", "LAYERS", "WRITERS", "is_own", "layer_axes", "operator_problem"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WRITERS = (*CONVOLUTIONS, nn.Linear, nn.Embedding)
LAYERS = (*WRITERS, *_BATCH_NORMS, nn.PReLU)

_POINTWISE = (
    "Add Sub Rsub Mul Div Neg Abs Sgn Sign Pow Square Exp Expm1 Log Log1P Sqrt Rsqrt Reciprocal Sigmoid LogSigmoid Tanh "
    "Relu Relu6 Hardtanh LeakyRelu Elu Selu Celu Gelu Silu Mish Softplus Softsign Hardswish Hardsigmoid Threshold Clamp "
    "ClampMin ClampMax Sin Cos Erf Atan Round Floor Ceil Trunc Where MaskedFill Maximum Minimum Clone ToCopy Copy Alias "
    "NativeDropout Lerp Addcmul Addcdiv PreluKernel"
)
_POSITIONS = (  # pooling, padding and resampling over positions
    "MaxPool2DWithIndices MaxPool3DWithIndices AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D "
    "AdaptiveMaxPool2D AdaptiveMaxPool3D MkldnnMaxPool2D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D "
    "UpsampleBilinear2D UpsampleLinear1D UpsampleTrilinear3D UpsampleBicubic2D ConstantPadNd ReflectionPad1D "
    "ReflectionPad2D ReplicationPad1D ReplicationPad2D Mean Sum"
)
_MOVEMENT = (
    "View UnsafeView ReshapeAlias Reshape Permute Transpose T Cat Split SplitWithSizes Slice Select Expand Squeeze "
    "Unsqueeze Flip Roll"
)
_KNOWN = frozenset(f"{_POINTWISE} {_POSITIONS} {_MOVEMENT}".split())


def is_own(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """One of PyTorch's own layers, with its own forward and plain parameters: nothing else can depend on a width."""
    kind = next((k for k in kinds if isinstance(module, k)), None)
    if kind is None or type(module).forward is not kind.forward or "forward" in vars(module):
        return False
    tensors = {**module._parameters, **module._buffers}
    plain = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    return tensors.keys() <= plain and not next(module.children(), None)


def layer_axes(module: nn.Module, reads: bool) -> list[tuple[str, int, str]] | str:
    """Tensors of a layer along its input (`reads`) or output channels, as (name, axis, role); else why not."""
    kind = type(module).__name__
    if not is_own(module, LAYERS):
        return f"{kind} is not known to treat its channels one by one"
    found: list[tuple[str, int, str]]
    if isinstance(module, CONVOLUTIONS):
        groups, depthwise = module.groups, module.groups == module.in_channels == module.out_channels
        if groups > 1 and not (depthwise and not module.transposed):
            return f"a convolution of {groups} groups needs equal counts in each"
        out, into = (1, 0) if module.transposed else (0, 1)
        found = [("weight", out, "writer"), ("bias", 0, "writer")]
        if groups == 1 and reads:
            found = [("weight", into, "reader")]
        elif groups > 1:
            found = [("weight", 0, "writer"), ("bias", 0, "writer")]
    elif isinstance(module, nn.Linear):
        found = [("weight", 1, "reader")] if reads else [("weight", 0, "writer"), ("bias", 0, "writer")]
    elif isinstance(module, nn.Embedding):
        if module.max_norm is not None:
            return "an embedding with max_norm looks at all its channels"
        found = [("weight", 1, "writer")]
    elif isinstance(module, nn.PReLU):
        found = [("weight", 0, "other")] if module.num_parameters > 1 else []
    else:
        found = [
            ("weight", 0, "scale"), ("bias", 0, "shift"), ("running_mean", 0, "statistic"), ("running_var", 0, "statistic"),
        ]  # fmt: skip
    tensors = {**module._parameters, **module._buffers}
    return [(name, axis, role) for name, axis, role in found if tensors.get(name) is not None]


def operator_problem(node: Any, alone: set[Any]) -> str | None:
    """Why an autograd node may mix channels; None if it does not.

    Args:
        node: the `grad_fn`.
        alone: custom functions known to treat every element alone.
    """
    name = node.name() if hasattr(node, "name") else type(node).__name__
    if isinstance(node, BackwardCFunction):
        return None if node in alone else f"the custom function {name.removesuffix('Backward')} may mix channels"
    operator = re.sub(r"Backward\d*$", "", name)
    if operator not in _KNOWN:
        return f"{operator} is not known to treat channels one by one"
    if operator in ("Mean", "Sum") and _across(node):
        return f"{operator} runs over channels"
    return None


def _across(node: Any) -> bool:
    """A reduction over the channels, as far as the number of axes tells; what is left the proof decides."""
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    dims = getattr(node, "_saved_dim", None)
    if sizes is None or not dims:
        return True
    rank = len(sizes)
    reduced = {dim - 2**64 if dim > 2**63 else dim for dim in dims}
    reduced = {dim % rank for dim in reduced}
    return (rank == 2 or rank > 3) and 1 in reduced
