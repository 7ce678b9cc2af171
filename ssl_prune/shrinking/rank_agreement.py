"""Whether all processes of a run hold the same zeros and the same widths, by one number a parameter."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError

__all__ = ["check_agreement", "fingerprint"]

_PRIME = 2_147_483_629


def fingerprint(network: nn.Module, plan: str = "") -> Tensor:
    """``(P + 1,)`` int64: a number for the places of the zeros in each parameter, in its shape, and one for the plan.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> first = fingerprint(net)
        >>> net.weight.data[0, 1] = 0.0
        >>> (first == fingerprint(net)).tolist()
        [False, True]
    """
    numbers = [_of_zeros(param.detach()) for param in network.parameters()]
    text = int.from_bytes(hashlib.sha256(plan.encode()).digest()[:7], "big")
    return torch.tensor([*numbers, text], dtype=torch.int64)


def check_agreement(network: nn.Module, gather: Callable[[Tensor], Tensor], plan: str = "") -> None:
    """Compare the fingerprints of all processes.

    Args:
        network: this process's network.
        gather: makes (processes, P + 1) of this process's (P + 1,).
        plan: of the cut.

    Raises:
        SlimError: they differ; the message names the first parameter.
    """
    own = fingerprint(network, plan)
    seen = gather(own).view(-1, own.numel()).cpu()
    different = (seen != seen[0]).any(0).nonzero().flatten().tolist()
    if not different:
        return
    names = [name for name, _ in network.named_parameters()]
    where = names[different[0]] if different[0] < len(names) else "the plan of the cut"
    ranks = (seen[:, different[0]] != seen[0, different[0]]).nonzero().flatten().tolist()
    raise SlimError(
        f"{where}: processes {ranks} have other zeros or widths there than process 0, so they no longer train one network. "
        "Something changes parameters in one process alone: check callbacks and hooks that write to them"
    )


def _of_zeros(values: Tensor) -> int:
    alive = (values != 0).flatten()
    places = torch.arange(1, alive.numel() + 1, device=values.device)
    weighed = torch.where(alive, (places * 40_503) % _PRIME, 0).sum()
    return (int(weighed) * 31 + hash(tuple(values.shape))) % _PRIME
