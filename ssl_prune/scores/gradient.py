"""The size of the gradient: how fast the loss falls along a group, whatever its weights are now."""

import torch
from torch import Tensor

from ssl_prune.scores.base import Score, lengths
from ssl_prune.scores.context import by_member

__all__ = ["Gradient"]


class Gradient(Score):
    """``s_g = ‖∂L/∂w_g‖₂`` at this moment; of a single entry its absolute value.

    Args:
        name: of the loss, one of the context's gradients; None: what is in ``.grad``.

    Example:
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
        >>> score = Gradient()
        >>> score.bind(partition(net, "weight"))
        >>> (net(torch.tensor([[3.0, 4.0]])) * torch.tensor([1.0, 2.0])).sum().backward()
        >>> score.values()
        tensor([3., 4., 6., 8.])

    Source: Evci et al., Rigging the Lottery (2020), where the largest grow.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    @property
    def needs(self) -> tuple[str, ...]:
        """The gradient of the loss that it names."""
        return () if self.name is None else (f'Gradient("{self.name}"): gradients["{self.name}"]',)

    def values(self) -> Tensor:
        """The norms now.

        Raises:
            RuntimeError: no parameter has a gradient.
            ValueError: the context has no such gradient.
        """
        if self.name is not None:
            known = self.context.gradients
            if self.name not in known:
                raise ValueError(
                    f'Gradient("{self.name}"): the context has the gradients {", ".join(known) or "of no loss"}; pass '
                    f'ScoreContext(gradients={{"{self.name}": ...}}) to bind'
                )
            return lengths(self.groups, by_member(self.groups, known[self.name], f'Gradient("{self.name}")'))
        members = self.groups.members
        if all(member.grad is None for member in members):
            raise RuntimeError(
                f"Gradient: {members[0].name} and all others have no gradient; ask after backward and before zero_grad"
            )
        grads = [torch.zeros_like(m.values) if m.grad is None else m.grad for m in members]
        return lengths(self.groups, grads)
