"""How long a network takes, measured."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from torch import nn

from ssl_prune.utils.copies import copied
from ssl_prune.utils.inputs import Inputs, as_call, evaluation, in_precision_of
from ssl_prune.utils.restored import restored

__all__ = ["compare_latency", "latencies", "latency", "without_page_faults", "without_zeros"]

# glibc gives back to the system what is freed above a threshold, which grows to the largest block ever freed, up to 32 MiB.
KEPT = 31 * 2**20  # bytes


def latency(model: nn.Module, example_inputs: Inputs, *, rounds: int = 30, warmup: int = 5) -> float:
    """Return the median time of one forward pass in evaluation mode without gradients, in seconds.

    The median and not the mean, because other programs make some rounds slower and none faster. On a GPU each round
    waits until the device has finished. On a CPU the memory of earlier passes is used again, as in a process that has
    been running for a while. The network is left as it was.

    Args:
        model: any network; it must be on the device of the inputs.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
        rounds: measured passes, at least 1.
        warmup: passes before them that are not measured.

    Returns:
        Seconds a call, for the whole batch.

    Example:
        >>> latency(nn.Linear(8, 8), torch.zeros(1, 8), rounds=3) > 0
        True
    """
    return latencies([model], example_inputs, rounds=rounds, warmup=warmup)[0]


def compare_latency(
    first: nn.Module, second: nn.Module, example_inputs: Inputs, *, rounds: int = 30, warmup: int = 5
) -> tuple[float, float]:
    """Return the median times of two networks, measured in turns so that a change of the clock rate meets both.

    Every other round starts with the second network.

    Args:
        first: a network.
        second: another one that takes the same inputs.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
        rounds: measured passes of each, at least 1.
        warmup: passes of each before them that are not measured.

    Returns:
        Seconds a call of the first and of the second.

    Example:
        >>> dense, slim = compare_latency(nn.Linear(512, 512), nn.Linear(512, 8), torch.zeros(64, 512))
        >>> dense > slim
        True
    """
    times = latencies([first, second], example_inputs, rounds=rounds, warmup=warmup)
    return times[0], times[1]


def latencies(models: Sequence[nn.Module], example_inputs: Inputs, *, rounds: int = 30, warmup: int = 5) -> list[float]:
    """Return the median time of each of several networks, measured in turns; every other round runs backwards.

    Args:
        models: networks that take the same inputs.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
        rounds: measured passes of each, at least 1.
        warmup: passes of each before them that are not measured.

    Returns:
        Seconds a call, one number a network.

    Raises:
        ValueError: `rounds` is less than 1.

    Example:
        >>> len(latencies([nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)], torch.zeros(1, 8), rounds=3))
        3
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, expected at least 1.")
    args, kwargs = as_call(in_precision_of(models[0], example_inputs) if models else example_inputs)
    without_page_faults()
    times: list[list[float]] = [[] for _ in models]
    with ExitStack() as stack:
        for model in models:
            writes = stack.enter_context(restored(model, numbers=False))
            with writes, evaluation(model):  # what one call writes into, all do
                _time(model, args, kwargs)
        for i in range(warmup + rounds):
            turns = list(enumerate(models))
            for j, model in turns if i % 2 == 0 else turns[::-1]:
                with evaluation(model):
                    seconds = _time(model, args, kwargs)
                if i >= warmup:
                    times[j].append(seconds)
    return [median(measured) for measured in times]


@torch.no_grad()
def without_zeros(model: nn.Module) -> nn.Module:
    """Return a copy that takes as long as the network did before any of its weights came to zero.

    The processor foresees every comparison on a channel that is always zero, so a network that has some is faster than
    it was, though nothing is cut. Here other values of the same parameter stand in their place.

    Args:
        model: any network.

    Returns:
        A network of the same shape, to be timed and nothing else.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> _ = nn.init.zeros_(layer.weight[1])
        >>> int((without_zeros(layer).weight == 0).sum())
        0
    """
    filled = copied(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in filled.parameters():
        zero = parameter == 0
        if bool(zero.any()) and parameter.is_floating_point():
            others = parameter[~zero] if not bool(zero.all()) else parameter.new_ones(1)
            chosen = torch.randint(len(others), (int(zero.sum()),), generator=generator)
            parameter[zero] = others[chosen.to(others.device)]
    return filled


def without_page_faults() -> None:
    """Have the C library keep freed memory for the next pass, up to some 60 MiB and as long as the process lives.

    Else each pass of a fresh process asks the system for its outputs anew, which costs a fault for each of their pages,
    and the same pass does not later in that process, once a larger block was freed: the same slim ViT took 33 % of the
    time of the dense one in the first case and 41 % in the second.

    Example:
        >>> without_page_faults()
    """
    torch.empty(KEPT, dtype=torch.uint8)  # freed at once, which is what counts


def _time(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    _wait()
    start = time.perf_counter()
    model(*args, **kwargs)
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
