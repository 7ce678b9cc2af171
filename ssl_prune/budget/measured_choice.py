"""Which groups go at last where a size is known only by measuring it: times fall in steps that no table foresees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssl_prune.budget.controller import Controller
from ssl_prune.budget.limits import Limits

__all__ = ["fit", "plan", "unmet"]

TRIES = 40  # measurements at most
SLACK = 0.045  # of the limit: how far below it a measured size may come
PLANS = 6  # choices by estimates that are measured, and of what is given back
EACH = 50  # in place of a step that overshoots, one more group than it has for each so many of the network, at most
NOISE = 0.01  # of the limit: how far below it a measured size has to come, as the next measurement finds another one


def fit(
    controller: Controller,
    keys: Tensor,
    dead: Tensor,
    excess: Callable[[Tensor], float],
    band: float | None = None,
    first: Tensor | None = None,
) -> Tensor:
    """``(G,)`` what goes beside the dead groups so that the measured size ends in the band below its limit.

    Small keys go first, as many at a time as the estimates say; twice as many each time they were too few. Where one step
    leads from above the limit to below the band (a kernel that likes the new width), its layer is passed over and others
    go in its place, but not many: they would cost more than time that is not needed. If nothing ends in the band, what
    comes closest to it from below.

    Args:
        controller: of the estimates, floors and multiples.
        keys: ``(G,)`` how much each group is worth.
        dead: ``(G,)`` those that are gone.
        excess: of the dead groups ``(G,)``, by how much the measured size is above its limit.
        band: how far below its limit it may end; default 4.5 % of the smallest limit.
        first: ``(G,)`` groups that go before the others.

    Returns:
        ``(G,)`` none if the size is met already; all that may go if it is not met even then.
    """
    band = _band(controller) if band is None else band
    noise = min(NOISE * min(controller.limits.values()), band / 3)
    now, over = dead.clone(), excess(dead)
    if over <= 0:
        return torch.zeros_like(dead)
    keys = keys.double().cpu()
    if first is not None:
        keys = keys.argsort(stable=True).argsort(stable=True).double()
        keys = torch.where(first.cpu(), keys - len(keys), keys)
    order = controller.rules.order(keys, dead)
    steps = [order.step(number) for number in range(len(order))]
    best: Tensor | None = None
    closest = -float("inf")
    least, upper = 1, 0  # of the next steps: how many are tried at least, and how many are known to be too many
    for _ in range(TRIES):
        if upper == 1:
            layer = controller.rules.layer[steps[0][0]]
            steps = [step for step in steps if controller.rules.layer[step[0]] != layer]
            least, upper = 1, 0
        if not steps:
            break
        count = upper // 2 or min(len(steps), max(least, _estimated(controller, steps, now, over, band)))
        trial = _with(now, steps[:count])
        if best is not None and int(trial.sum()) > int(best.sum()) + 1 + len(dead) // EACH:
            break
        found = excess(trial)
        if -band <= found <= -noise:
            return trial & ~dead
        if found > -noise:
            now, over, steps = trial, found, steps[count:]
            least, upper = 2 * count, upper and upper - count
        else:
            upper = count
            if best is None or found > closest or (found == closest and int(trial.sum()) < int(best.sum())):
                best, closest = trial, found
    return (_with(now, steps) if best is None else best) & ~dead


def plan(
    controller: Controller,
    keys: Tensor,
    dead: Tensor,
    excess: Callable[[Tensor], float],
    before: Tensor | None = None,
) -> Tensor:
    """``(G,)`` what shall go in the end beside the dead groups, so that the measured size ends in the band below its limit.

    First as the controller would choose, who knows what saves nothing beside the others that go; each measurement corrects
    the estimates that it chooses by, where `excess` does so. If none of these choices ends in the band, the one before may
    stay as it is, or what comes closest from below is given back what it need not have lost. If none is within the limit,
    what goes is what `fit` chooses.

    Args:
        controller: of the estimates, floors and multiples.
        keys: ``(G,)`` how much each group is worth.
        dead: ``(G,)`` those that are gone.
        excess: of the dead groups ``(G,)``, by how much the measured size is above its limit.
        before: ``(G,)`` an earlier choice, the dead groups among it.

    Returns:
        ``(G,)`` none if the size is met already; all that may go if it is not met even then.
    """
    keys = keys.double().cpu()
    if excess(dead) <= 0:
        return torch.zeros_like(dead)
    band = _band(controller)
    aim = {kind: limit - band / 2 if kind == "latency" else limit for kind, limit in controller.limits.items()}
    tried: list[Tensor] = []
    best: Tensor | None = None
    closest = -float("inf")
    for _ in range(PLANS):
        chosen = controller.ahead(keys, dead, aim)
        if any(torch.equal(chosen, trial) for trial in tried):
            break
        tried.append(chosen)
        found = excess(dead | chosen)
        if -band <= found <= -band / 4:
            return chosen
        if closest < found <= 0:
            best, closest = chosen, found
    if before is not None and closest < -band and closest < (found := excess(dead | before)) <= 0:
        best, closest = before & ~dead, found
    if best is None:
        return fit(controller, keys, dead, excess)
    return _given_back(controller, keys, dead, best, closest, excess)


def _given_back(
    controller: Controller,
    keys: Tensor,
    dead: Tensor,
    chosen: Tensor,
    found: float,
    excess: Callable[[Tensor], float],
) -> Tensor:
    """The chosen groups without those of the largest keys that need not go; steps of times are seldom where a table says."""
    order = controller.rules.order(keys, dead, among=chosen)
    steps = [order.step(number) for number in reversed(range(len(order)))]
    size = 1
    for _ in range(PLANS):
        if found >= -_band(controller) or not steps:
            break
        trial = chosen.clone()
        trial[torch.cat(steps[:size])] = False
        now = excess(dead | trial)
        if now <= 0:
            chosen, found, steps, size = trial, now, steps[size:], 2 * size
        elif size > 1:
            size = 1
        else:
            layer = controller.rules.layer[steps[0][0]]
            steps = [step for step in steps if controller.rules.layer[step[0]] != layer]
    return chosen


def unmet(controller: Controller, over: float, stated: Limits) -> str:
    """What to say of a latency that is measured above its limit by such a share; nothing if that is noise or less."""
    if over <= NOISE * min(controller.limits.values()):
        return ""
    return (
        "Budget: without all that may go the network is still measured "
        f"{stated.text({'latency': over}, controller.limits)} above what was stated, "
        f"{stated.text(controller.limits, controller.limits)}. State a larger size, a lower min_keep_ratio, or exclude fewer layers"
    )


def _band(controller: Controller) -> float:
    return SLACK * min(controller.limits.values())


def _estimated(controller: Controller, steps: Sequence[Tensor], now: Tensor, over: float, band: float) -> int:
    """How many steps lead to the middle of the band, if the estimates are right about the difference."""
    aim = controller.excess(now) - over - band / 2
    low, high = 1, len(steps)
    while low < high:
        middle = (low + high) // 2
        if controller.excess(_with(now, steps[:middle])) <= aim:
            high = middle
        else:
            low = middle + 1
    return low


def _with(dead: Tensor, steps: Sequence[Tensor]) -> Tensor:
    found = dead.clone()
    if steps:
        found[torch.cat(list(steps))] = True
    return found
