"""Half-space projected training, plainly: chosen groups shrink to zero over periods, and those that turn go at once.

After Chen et al., OTO (2021) and OTOv2 (2023). Here groups are chosen until the multiply-accumulates that are due are
left, not until so many groups are chosen, so that the network meets a stated share of them.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ssl_prune.budget import Controller, IndivisibleGroups, SizeModel, indivisible
from ssl_prune.graph import trace
from ssl_prune.groups import Partition, partition
from ssl_prune.masks import clear_state
from ssl_prune.scores import Magnitude


@torch.no_grad()
def half_space_(groups: Partition, before: list[Tensor], redundant: Tensor, gamma: float) -> Tensor:
    """Shrink the redundant groups (G,) by gamma, and set those to zero that the last step has turned around.

    ``x_g ← γ x̃_g``, and 0 where ``⟨x̃_g, x_g⟩ <= 0``, with x̃ the parameters after the optimizer's step and x, `before`,
    those ahead of it.

    Returns:
        (G,) the redundant groups that are zero now.
    """
    inner = groups.sum([m.param * b for m, b in zip(groups.members, before, strict=True)])
    here = redundant.to(inner.device)
    gone = here & ((inner <= 0) | (gamma <= 0))
    factor = torch.where(here, gamma, torch.ones_like(inner)).masked_fill(gone, 0.0)
    groups.scale_(factor)
    return gone.to(redundant.device)


class HalfSpace(pl.Callback):
    """From the first moment of the window on, in periods of equal length, the groups of smallest norm go.

    The share of multiply-accumulates that is due falls by the same amount with every period. Groups compete by their
    whole norms, OTO's first score; norms per entry leave hardly anything of the widest layers, whose entries are the
    smallest, and far less accuracy. In the last period small groups that still fit are preferred to one that overshoots.

    Args:
        network: the network.
        example: one input.
        share: of its multiply-accumulates that may be left.
        window: first and last moment, as shares of the run.
        periods: how often groups are chosen, at most once a step.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        share: float,
        window: tuple[float, float] = (0.1, 0.5),
        periods: int = 5,
    ) -> None:
        graph = trace(network, example)
        self.parts = indivisible(graph, partition(network, "coupled", graph=graph))
        self.groups = self.parts.groups
        self.share, self.window, self.periods = share, window, periods
        self.controller = _controller(self.parts, SizeModel(graph, network), share)
        self.score = Magnitude()
        self.score.bind(self.groups)
        self.dead = torch.zeros(self.groups.num_groups, dtype=torch.bool)
        self.redundant = self.dead.clone()
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = int(trainer.estimated_stepping_batches)
        self.start = round(self.window[0] * total)
        steps = max(1, round((self.window[1] - self.window[0]) * total))
        self.periods = min(self.periods, steps)
        self.length = steps // self.periods

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        step = trainer.global_step - self.start
        if step < 0:
            return
        period, place = divmod(step, self.length)
        if place == 0 and period < self.periods:
            self.redundant = self._choose(period)
        self._before = [m.param.detach().clone() for m in self.groups.members]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step - 1 - self.start  # the step that has been taken
        if step < 0:
            return
        left = self.length - step % self.length
        self.redundant |= self.dead  # what is zero has no direction and stays
        self.dead |= half_space_(self.groups, self._before, self.redundant, (left - 1) / left)
        clear_state(self.groups, trainer.optimizers[0], self.dead)

    def _choose(self, period: int) -> Tensor:
        keys = self.score.values().double().cpu()
        if period == self.periods - 1:
            return self.controller.project(keys, self.dead)
        due = 1 - (1 - self.share) * (period + 1) / self.periods
        return self.controller.ahead(keys, self.dead, {"macs": due})


def _controller(parts: IndivisibleGroups, sizes: SizeModel, share: float) -> Controller:
    def size(dead: Tensor) -> dict[str, float]:
        return {"macs": sizes(parts.dead_units(dead))["macs"] / sizes.dense["macs"]}

    return Controller(size, {"macs": share}, parts.groups.layer, fixed=parts.fixed)
