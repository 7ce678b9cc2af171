"""Columns: input features and kernel positions that a cut layer does not read."""

from typing import Any

import torch
from torch import nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.slimming.liveness import Liveness
from ssl_prune.slimming.plan import ModulePlan

__all__ = ["kept_columns"]


def kept_columns(
    graph: ChannelGraph, live: Liveness, modules: dict[str, nn.Module], plans: dict[str, ModulePlan]
) -> dict[str, list[Any]]:
    """Module -> columns with a non-zero weight, in the cut layer's own positions, where some column has none."""
    found: dict[str, list[Any]] = {}
    for reader in graph.readers:
        if reader.weight is None:
            continue
        name = reader.weight.rpartition(".")[0]
        module, plan = modules.get(name), plans.get(name, ModulePlan())
        plain = type(module) is nn.Linear or (
            type(module) is nn.Conv2d
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        )
        if not plain or plan.becomes is not None:
            continue
        weight = live.weights[reader.weight].detach()
        for axis, kept in plan.keep.get("weight", {}).items():
            weight = weight.index_select(axis, torch.tensor(kept, device=weight.device))
        used = (weight != 0).any(0)
        if not bool(used.all()):
            if not bool(used.any()):
                used.view(-1)[0] = True
            places = used.nonzero().tolist()
            found[name] = [p[0] for p in places] if weight.dim() == 2 else places
    return found
