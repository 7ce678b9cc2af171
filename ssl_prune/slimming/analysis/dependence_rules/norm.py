"""Normalisation: by numbers that were learnt it is pointwise, by those of the input only a scale of zero is constant."""

from typing import Any

import torch

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, always, everything, nothing, rule
from ssl_prune.slimming.analysis.known import Known, still

__all__ = ["batch_norm", "batch_statistics", "frozen_batch_norm", "group_norm", "over_channels"]

aten = torch.ops.aten


@rule(aten._native_batch_norm_legit_no_training, settled=always)
def frozen_batch_norm(call: Call) -> Any:
    """By running statistics: per channel, and constant where the scale is zero."""
    x, scale = call.args[:2]
    varies = base(x.varies)
    if scale is not None:
        varies = varies & (scale.value != 0).view([1, -1] + [1] * (x.value.dim() - 2))
    return varies if call.packet is aten.batch_norm else [varies, *(nothing(call),) * 2]


@rule(aten.batch_norm, settled=lambda call: call.free or not call.args[5])
def batch_norm(call: Call) -> Any:
    """By running statistics, or by those of the batch."""
    return batch_statistics(call) if call.args[5] else frozen_batch_norm(call)


@rule(aten.instance_norm, aten._native_batch_norm_legit)
def batch_statistics(call: Call) -> Any:
    """Per channel by the numbers of the image itself."""
    return _normalised(call, call.args[1], call.args[0].value.shape[1])


@rule(aten.group_norm)
def group_norm(call: Call) -> Any:
    """Per group of channels."""
    return _normalised(call, call.args[2] if len(call.args) > 2 else None, call.args[1])


def _normalised(call: Call, scale: Known | None, groups: int) -> Any:
    """Constant where the scale is zero, or all of a group is; no variance of other constants is an accident."""
    x: Known = call.args[0]
    channels = x.value.shape[1]
    busy = (x.varies | (x.value != 0)).transpose(0, 1).reshape(channels, -1).any(1)
    busy = busy.view(groups, -1).any(1).repeat_interleave(channels // groups)
    if scale is not None:
        busy &= scale.value != 0
    if not still(call.known[1:]):
        busy = torch.ones_like(busy)
    varies = busy.view([1, -1] + [1] * (x.value.dim() - 2)).expand(x.value.shape)
    return [varies, *(everything(call),) * 2] if isinstance(call.value, (tuple, list)) else varies


@rule(aten.layer_norm, aten.native_layer_norm, aten.rms_norm, aten._fused_rms_norm)
def over_channels(call: Call) -> Any:
    """By the numbers along its channels: constant only where the scale is zero."""
    scale = call.args[2] if len(call.args) > 2 else None
    first = call.value if isinstance(call.value, torch.Tensor) else call.value[0]
    on = everything(call) if scale is None else scale.varies | (scale.value != 0)
    varies = on.expand(first.shape)
    return varies if first is call.value else [varies, *(everything(call),) * (len(call.value) - 1)]
