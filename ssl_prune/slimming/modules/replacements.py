"""What a module becomes in a cut: the constant or the blank of a dead branch, columns, crops, cut attention, ..."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.modules.column_conv import (
    ColumnConv,
    ColumnConv1d,
    ColumnConv2d,
    ColumnConv3d,
    ColumnLinear,
)
from ssl_prune.slimming.modules.constant import Blank, Constant
from ssl_prune.slimming.modules.cropped_conv import CroppedConv1d, CroppedConv2d, CroppedConv3d, margins
from ssl_prune.slimming.modules.materialized import plain
from ssl_prune.slimming.modules.pruned_attention import cut_attention
from ssl_prune.slimming.modules.response_norm import response_norm
from ssl_prune.slimming.modules.uneven_rnn import uneven

__all__ = ["replacement"]


def replacement(model: nn.Module, module: Any, becomes: dict[str, Any]) -> nn.Module:
    """The module that takes the place of a cut one; `becomes` is that of its `ModulePlan`.

    Raises:
        SlimError: a kind that this version does not know.
    """
    kinds: dict[str, Callable[[nn.Module, Any, dict[str, Any]], nn.Module]] = {
        "Identity": lambda *_: nn.Identity(),
        "Blank": lambda *args: Blank(args[2]["steps"]),
        "Constant": _constant,
        "Columns": _columns,
        "Cropped": _cropped,
        "Attention": lambda *args: cut_attention(args[1], args[2]),
        "Uneven": lambda *args: uneven(args[1]),
        "ResponseNorm": lambda *args: response_norm(args[1], args[2]),
        "Plain": lambda *args: plain(args[1]),
    }
    if becomes.get("kind") not in kinds:
        raise SlimError(
            f"the plan asks for a module of kind {becomes.get('kind')!r}; this version knows {sorted(kinds)}"
        )
    made = kinds[becomes["kind"]](model, module, becomes)
    return made.train(module.training)


def _constant(model: nn.Module, module: nn.Module, becomes: dict[str, Any]) -> nn.Module:
    # An activation has no parameters of its own: its device and precision are those of the network.
    tensor = next(itertools.chain(module.parameters(), model.parameters()))
    whole, last = becomes.get("whole", False), becomes.get("last", False)
    constant = Constant(len(becomes["values"]), becomes["dims"], whole, last).to(tensor.device, tensor.dtype)
    constant.value.copy_(torch.tensor(becomes["values"], dtype=torch.float64).view_as(constant.value))
    return constant


def _columns(model: nn.Module, module: Any, becomes: dict[str, Any]) -> nn.Module:
    kept, weight = becomes["columns"], module.weight.detach()
    new: ColumnConv | ColumnLinear
    if isinstance(module, nn.Linear):
        new = ColumnLinear(module.out_features, kept, module.bias is not None)
        chosen = weight[:, new.columns]
    else:
        kind = (ColumnConv1d, ColumnConv2d, ColumnConv3d)[weight.dim() - 3]
        new = kind(
            module.out_channels,
            kept,
            module.kernel_size,
            module.stride,
            margins(module),
            module.dilation,
            module.bias is not None,
            module.in_channels,
        )
        chosen = weight[(slice(None), *new.columns)].view_as(new.weight)
    new.weight = nn.Parameter(chosen.clone(), requires_grad=module.weight.requires_grad)
    new.bias = module.bias
    new.columns = new.columns.to(weight.device)
    return new


def _cropped(model: nn.Module, module: Any, becomes: dict[str, Any]) -> nn.Module:
    # The kernel was cut before, and the attributes follow it: this one only frames the input.
    kind = (CroppedConv1d, CroppedConv2d, CroppedConv3d)[module.weight.dim() - 3]
    new = kind(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        module.bias is not None,
        frame=becomes["frame"],
        mode=becomes["mode"],
        channels=becomes["channels"],
    )
    new.weight, new.bias = module.weight, module.bias
    return new.to(module.weight.device)
