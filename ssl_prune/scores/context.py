"""What a score may see beside the weights and their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssl_prune.groups import Partition

__all__ = ["ScoreContext", "by_member"]


@dataclass(frozen=True, eq=False)
class ScoreContext:
    """Tensors by the names of the parameters, each shaped as its parameter.

    The mappings are read whenever a score is asked for its values, so that what they hold may be renewed in between.

    Args:
        initial: the weights at the start of training.
        gradients: name of a loss -> its gradient; None for a parameter that this loss does not reach.
        curvature: the diagonal of the loss's second derivative.

    Example:
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.scores import Gradient, Magnitude
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> gradients = {"task": {"0.weight": torch.tensor([[1.0, 0.0]])}, "buffer": {"0.weight": torch.tensor([[0.0, -2.0]])}}
        >>> score = Magnitude() + 0.5 * Gradient("task") + Gradient("buffer")
        >>> score.bind(partition(net, "weight"), context=ScoreContext(gradients=gradients))
        >>> score.values()
        tensor([3.5000, 6.0000])
    """

    initial: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Mapping[str, Tensor | None]] = field(default_factory=dict)
    curvature: Mapping[str, Tensor] = field(default_factory=dict)


def by_member(groups: Partition, tensors: Mapping[str, Tensor | None], what: str) -> list[Tensor]:
    """The tensors in the order of the members, zeros for None.

    Args:
        groups: the partition.
        tensors: by the names of its parameters.
        what: they are, for messages.

    Raises:
        ValueError: a parameter has none, or one of another shape.
    """
    found = []
    for member in groups.members:
        if member.name not in tensors:
            raise ValueError(f"{what}: none is given for {member.name}; pass a ScoreContext that has it to bind")
        tensor = tensors[member.name]
        if tensor is None:
            found.append(torch.zeros_like(member.values))
            continue
        if tensor.shape != member.param.shape:
            raise ValueError(
                f"{what}: {member.name} has the shape {tuple(tensor.shape)} here, expected {tuple(member.param.shape)}; "
                "after a cut pass a context of what is left to rebind"
            )
        found.append(member.local(tensor.detach()).to(member.values.device))
    return found
