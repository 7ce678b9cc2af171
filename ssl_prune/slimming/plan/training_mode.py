"""What may be cut while training goes on: only what takes no part in it."""

import torch
from torch import Tensor, nn

from ssl_prune.slimming.analysis.dead_branches import constant_branches
from ssl_prune.slimming.analysis.liveness import Liveness
from ssl_prune.slimming.plan.planner import folded, removable

__all__ = ["branches_may_go", "held_in_training"]


def held_in_training(live: Liveness, branches: bool) -> Tensor:
    """``(U,)`` units that would go at the end of training but stay during it.

    A channel with a constant that is not zero is folded into the bias of its readers. Where no bias is, that would be a
    parameter that no optimizer knows; and where a normalisation keeps running means, the constant of evaluation is not
    that of training.
    """
    model, keep = live.subject.model, torch.zeros_like(live.alive)
    moving = _has_running_means(model)
    while True:
        dead = removable(live, branches, keep)
        more = torch.zeros_like(keep)
        for obstacle in live.obstacles:
            fold = folded(obstacle, live, dead)
            if fold is None or obstacle.reader.weight is None:
                continue
            owner = model.get_submodule(obstacle.reader.weight.rpartition(".")[0])
            if moving or (fold.into is None and getattr(owner, "bias", None) is None):
                units = obstacle.reader.read[torch.tensor(fold.channels)]
                more[units[units >= 0]] = True
        if not bool((more & ~keep).any()):
            return keep
        keep |= more


def branches_may_go(live: Liveness) -> bool:
    """Whether no branch of the network ends in a constant of running means."""
    if not _has_running_means(live.subject.model):
        return True
    return not any(any(entry.get("values", ())) for entry in constant_branches(live).values())


def _has_running_means(model: nn.Module) -> bool:
    return any(getattr(module, "running_mean", None) is not None for module in model.modules())
