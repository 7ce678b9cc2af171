"""From a stated size to a strength: which groups are next, how strongly they are pushed, and which zeros count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_prune.budget.free_riders import free_riders
from ssl_prune.selection.removal_order import KeepRules, RemovalOrder

__all__ = ["Choice", "Controller"]

STEP_UP = 3.0  # the most that the strength changes at a time
# How fast the shrinkage of groups that are not next falls with their keys. With 2 those that stay were shrunk noticeably,
# which cost 0.7 points at a quarter of a ResNet-8 (three states, weight decay tuned for each).
SHARPNESS = 8
# What may take the place of the last group, so that the size ends close to its limit: of the next so many one, and one
# more for each so many groups of the network. Many that save little would cost more than the one that saves much.
TRIED, EACH = 64, 50
NEARLY = 0.05  # of the mean norm: what is smaller goes at once
FREE_RIDER_ROUNDS = 2  # of choosing others in place of those that save nothing


@dataclass(frozen=True)
class Choice:
    """What the controller has decided.

    Args:
        strength: of the shrinkage, before the learning rate.
        weights: ``(G,)`` the factor on it of each group, 1 for those that are next.

    Example:
        >>> Choice(0.5, torch.tensor([1.0, 0.0])).strength
        0.5
    """

    strength: float
    weights: Tensor


class Controller:
    """Chooses among groups by keys, smallest first.

    Sizes are shares of the dense network, one for each kind that is limited. A size is met when every kind is within
    its limit.

    Args:
        size: of the dead groups ``(G,)``, the share left of each kind.
        limits: kind -> the share that may be left.
        layer: ``(G,)`` the layer of each group.
        min_keep_ratio: share of a layer's groups that stay in any case, at least one.
        fixed: ``(G,)`` groups that always stay.
        band: how far below its limit a size may come.
        near: how far it comes where groups can be found that fit.
        block: ``(L,)`` how many groups of each layer go together, where widths count as multiples: fewer would save nothing.
        stepped: the size falls in steps of its own, so that some groups save nothing beside the others that go.

    Example:
        >>> each = Controller(lambda dead: {"macs": 1 - dead.double().mean().item()}, {"macs": 0.5}, torch.zeros(4, dtype=torch.long))
        >>> each.ahead(torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.zeros(4, dtype=torch.bool), {"macs": 0.5})
        tensor([False,  True,  True, False])
    """

    def __init__(
        self,
        size: Callable[[Tensor], Mapping[str, float]],
        limits: Mapping[str, float],
        layer: Tensor,
        *,
        min_keep_ratio: float = 0.0,
        fixed: Tensor | None = None,
        band: float = 0.015,
        near: float = 0.003,
        block: Tensor | None = None,
        stepped: bool = False,
    ) -> None:
        self.rules = KeepRules(layer, min_keep_ratio=min_keep_ratio, fixed=fixed, block=block)
        self._size, self.limits, self.band, self.near, self.stepped = size, dict(limits), band, near, stepped

    def excess(
        self, dead: Tensor, limits: Mapping[str, float] | None = None, measured: Mapping[str, float] | None = None
    ) -> float:
        """The largest amount by which a size is above its limit; at most 0 when all are met.

        Args:
            dead: ``(G,)`` the groups that are gone.
            limits: kind -> share; default those of the controller.
            measured: kind -> share, in place of what is estimated.
        """
        size = {**self._size(dead), **(measured or {})}
        return max(size[kind] - limit for kind, limit in (limits or self.limits).items())

    def smallest(self) -> Tensor:
        """``(G,)`` dead groups of the smallest network that the floors allow: of equal layers, whichever."""
        none = torch.zeros(len(self.rules.layer), dtype=torch.bool)
        order = self.rules.order(torch.arange(len(none)).double(), none)
        return order.first(len(order))

    def ahead(self, keys: Tensor, dead: Tensor, limits: Mapping[str, float], among: Tensor | None = None) -> Tensor:
        """``(G,)`` the groups with the smallest keys whose removal meets the limits, beside those that are dead.

        Where the last of them would end well below the final limits, others that fit take its place if there are any; or
        it goes and others of them stay that it makes up for, where that costs less.

        Args:
            keys: ``(G,)`` how much each group is worth.
            dead: ``(G,)`` those that are gone.
            limits: the shares to come to.
            among: ``(G,)`` those that may go; default all.
        """
        chosen = self._meeting(keys, dead, limits, among)
        may = torch.ones_like(dead) if among is None else among.clone()
        for _ in range(FREE_RIDER_ROUNDS if self.stepped else 0):
            useless = free_riders(self.rules, self.excess, keys, dead, chosen)
            may &= ~useless
            others = self._meeting(keys, dead, limits, may) if bool(useless.any()) else chosen
            if others is chosen or self.excess(dead | others, limits) > 0:
                break
            chosen = others
        return chosen

    def _meeting(self, keys: Tensor, dead: Tensor, limits: Mapping[str, float], among: Tensor | None) -> Tensor:
        order = self.rules.order(keys, dead, among)
        low = self._count(order, dead, limits)
        chosen = order.first(low)
        if not self._final(limits) or low == 0 or self.excess(dead | chosen, limits) >= -self.near:
            return chosen
        fitting = self._fitting(order, low, dead, limits, chosen)
        close = self.excess(dead | fitting, limits) >= -self.near
        if self.excess(dead | chosen, limits) >= -self.band and close:
            return fitting
        trimmed = self._trimmed(order, low, dead, limits)

        def badness(choice: Tensor) -> tuple[bool, float]:
            return self.excess(dead | choice, limits) < -self.band, float(keys[choice].sum())

        return min(fitting, trimmed, key=badness)

    def _final(self, limits: Mapping[str, float]) -> bool:
        """These are not above what has to be met in the end."""
        return all(limits[kind] <= limit + 1e-9 for kind, limit in self.limits.items())

    def _count(self, order: RemovalOrder, dead: Tensor, limits: Mapping[str, float]) -> int:
        """How many steps of this order it takes to meet the limits."""
        low, high = 0, len(order)
        while low < high:  # the size falls with every group
            middle = (low + high) // 2
            if self.excess(dead | order.first(middle), limits) <= 0:
                high = middle
            else:
                low = middle + 1
        return low

    def _fitting(
        self, order: RemovalOrder, low: int, dead: Tensor, limits: Mapping[str, float], chosen: Tensor
    ) -> Tensor:
        """The first steps of this order without the last of the `chosen` ones, and others that fit better; else those."""
        fitting, best, closest = order.first(low - 1), chosen, self.excess(dead | chosen, limits)
        # Where the last one would end below the band it cannot go at all, so others must, however many it takes.
        left = 1 + len(dead) // EACH if closest >= -self.band else len(order)
        for step in range(low, min(low + TRIED, len(order))):
            groups = order.step(step)
            fitting[groups] = True
            excess = self.excess(dead | fitting, limits)
            if closest < excess <= 0:
                best, closest = fitting.clone(), excess
            if closest >= -self.near:
                break
            fitting[groups] = excess > 0
            left -= excess > 0
            if not left:
                break
        return best

    def _trimmed(self, order: RemovalOrder, low: int, dead: Tensor, limits: Mapping[str, float]) -> Tensor:
        """The first steps of this order without those of the largest keys that the last one makes up for."""
        chosen, excess = order.first(low), -float("inf")
        step, size = low - 2, 1
        for _ in range(TRIED):
            if step < 0 or excess >= -self.near:
                break
            trial = chosen.clone()
            for number in range(max(0, step - size + 1), step + 1):
                trial[order.step(number)] = False
            now = self.excess(dead | trial, limits)
            if now <= 0:
                chosen, excess = trial, now
                step, size = step - size, 2 * size
            elif size > 1:
                size = 1
            else:
                step -= 1
        return chosen

    def choose(
        self,
        keys: Tensor,
        norms: Tensor,
        dead: Tensor,
        limits: Mapping[str, float],
        rates: float,
        before: float,
        plan: Tensor | None = None,
    ) -> Choice:
        """The strength with which the groups that are next come to zero in time.

        Args:
            keys: ``(G,)`` how much each group is worth.
            norms: ``(G,)`` their norms.
            dead: ``(G,)`` those that are gone.
            limits: the shares to come to.
            rates: sum of the learning rates until then.
            before: the strength up to now; 0 if there was none.
            plan: ``(G,)`` what has to go in the end, all of it where the limits are the final ones; default what would be
                chosen now.
        """
        keys, norms = keys.double().cpu(), norms.double().cpu()
        # Nothing goes on the way that would not have to go in the end.
        if plan is not None and self._final(limits):
            chosen = plan & ~dead
        else:
            chosen = self.ahead(keys, dead, limits, self.ahead(keys, dead, self.limits) if plan is None else plan)
        if not bool(chosen.any()):
            return Choice(0.0, torch.zeros_like(keys))
        # Each decision has as long as the one before, so the last one chosen would come ever nearer and never to zero.
        largest = max(float(norms[chosen].max()), NEARLY * float(norms[~dead].mean()))
        strength = largest / max(rates, 1e-12)
        if before > 0:
            strength = min(max(strength, before / STEP_UP), before * STEP_UP)
        order = self.rules.order(keys, dead)
        keys = keys.index_put((order.groups,), order.keys)
        edge = keys[chosen].max()
        weights = (edge / keys.clamp_min(1e-300)).clamp_max(1).pow(SHARPNESS)
        # Those that a floor keeps, or that others took the place of, stay: shrunk like the chosen ones they would be crushed.
        weights[self.rules.fixed | dead | (~chosen & (keys <= edge))] = 0
        return Choice(strength, weights)

    def admit(self, dying: Tensor, keys: Tensor, dead: Tensor) -> Tensor:
        """``(G,)`` those of the `dying` groups that may go, where `dead` ones are gone: by rising `keys`, never past a limit or floor."""
        dead = dead.clone()
        if bool((self.rules.block > 1).any()):  # one of a block saves nothing by itself
            return dying.cpu() & self.ahead(keys.double().cpu(), dead, self.limits)
        admitted = torch.zeros_like(dead)
        excess = self.excess(dead)
        for group in self.rules.order(keys.double().cpu(), dead, among=dying.cpu()).groups.tolist():
            if excess <= 0:
                break
            dead[group] = True
            now = self.excess(dead)
            if now < -self.near:
                dead[group] = False
                if now < -self.band or not self.ahead(keys.double().cpu(), dead, self.limits)[group]:
                    continue
                dead[group] = True
            admitted[group], excess = True, now
        return admitted

    def project(self, keys: Tensor, dead: Tensor, pushed: Tensor | None = None) -> Tensor:
        """``(G,)`` what goes at last so that the limits are met: small keys first, passing over what is too large.

        Args:
            keys: ``(G,)`` how much each group is worth.
            dead: ``(G,)`` those that are gone.
            pushed: ``(G,)`` those that the strength was for. They are nearly at zero, so they go if they are what is missing,
                even where the order of the keys has changed since.
        """
        if self.excess(dead) <= 0:  # the last to come to zero made up for others that were on their way
            return torch.zeros_like(dead)
        chosen = torch.zeros_like(dead) if pushed is None else pushed.cpu() & ~dead
        if not self.rules.allow(dead | chosen):  # others of a layer have gone since
            chosen = torch.zeros_like(dead)
        for candidate in (chosen, self.ahead(keys.double().cpu(), dead, self.limits)):
            if -self.band <= self.excess(dead | candidate) <= 0:
                return candidate
        chosen = self.admit(torch.ones_like(dead), keys, dead)
        if self.excess(dead | chosen) <= 0:
            return chosen
        # Nothing fits into the band: what comes closest to it from below.
        gone = dead | chosen
        best, closest = None, -float("inf")
        order = self.rules.order(keys.double().cpu(), gone)
        for step in range(len(order)):
            trial = gone.clone()
            trial[order.step(step)] = True
            excess = self.excess(trial)
            if closest < excess <= 0:
                best, closest = order.step(step), excess
        if best is not None:
            chosen[best] = True
            return chosen
        chosen = self.ahead(keys.double().cpu(), dead, self.limits)
        if self.excess(dead | chosen) <= 0:
            return chosen
        # The floors are met by groups that save little: those that save most come first.
        alone = torch.eye(len(dead), dtype=torch.bool)
        return self.ahead(torch.tensor([self.excess(dead | group) for group in alone]).double(), dead, self.limits)
