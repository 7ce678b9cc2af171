"""Whether all processes of a run hold the same zeros and the same widths, by one number a parameter."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.utils.agreement import disagreement, place_numbers

__all__ = ["check_agreement", "fingerprint"]


def fingerprint(network: nn.Module, plan: str = "") -> Tensor:
    """``(P + 1,)`` int64: a number for the places of the zeros in each parameter, in its shape, and one for the plan.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> first = fingerprint(net)
        >>> net.weight.data[0, 1] = 0.0
        >>> (first == fingerprint(net)).tolist()
        [False, True]
    """
    numbers = place_numbers([param.detach() != 0 for param in network.parameters()])
    text = int.from_bytes(hashlib.sha256(plan.encode()).digest()[:7], "big")
    return torch.tensor([*numbers, text], dtype=torch.int64)


def check_agreement(network: nn.Module, gather: Callable[[Tensor], Tensor], plan: str = "") -> None:
    """Compare the fingerprints of all processes.

    Args:
        network: this process's network.
        gather: makes ``(processes, P + 1)`` of this process's ``(P + 1,)``.
        plan: of the cut.

    Raises:
        SlimError: they differ; the message names the first parameter.

    Example:
        >>> check_agreement(nn.Linear(2, 1), lambda own: torch.stack([own, own]))
    """
    found = disagreement(fingerprint(network, plan), gather)
    if found is None:
        return
    number, ranks = found
    names = [name for name, _ in network.named_parameters()]
    where = names[number] if number < len(names) else "the plan of the cut"
    raise SlimError(
        f"{where}: processes {ranks} have other zeros or widths there than process 0, so they no longer train one network. "
        "Something changes parameters in one process alone: check callbacks and hooks that write to them"
    )
