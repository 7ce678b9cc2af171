"""Knowledge distillation: the network as it was teaches what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ssl_prune.utils.checks import check_number
from ssl_prune.utils.copies import copied
from ssl_prune.utils.inputs import evaluation, leaves

__all__ = ["Distillation"]


class Distillation:
    r"""Adds ``weight · T² · KL(softmax(t / T) ‖ softmax(s / T))`` to a loss, t and s the outputs of teacher and student.

    The teacher is the network at the moment of `save`. Outputs are ``(N, classes)``; of several, each counts.

    Args:
        weight: of the term.
        temperature: T.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
    """

    def __init__(self, weight: float, temperature: float) -> None:
        for name, number in (("weight", weight), ("temperature", temperature)):
            check_number(number, f"Distill: {name}", above=0)
        self.weight, self.temperature = weight, temperature
        self.teacher: nn.Module | None = None
        self._handle: RemovableHandle | None = None
        self._seen: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def save(self, network: nn.Module) -> None:
        """Take the network as it is for the teacher."""
        self.teacher = copied(network).requires_grad_(False)

    def watch(self, network: nn.Module) -> None:
        """Keep inputs and outputs of every forward pass in training, until the next `term` or `stop`."""
        self.stop()

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if module.training and torch.is_grad_enabled():
                self._seen.append((args, kwargs, output))

        self._handle = network.register_forward_hook(keep, with_kwargs=True)

    def stop(self) -> None:
        """Let go of the network."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._seen = None, []

    def forget(self) -> None:
        """Let go of the passes since the last call; the teacher is not asked."""
        self._seen = []

    def term(self) -> Tensor | None:
        """The term for the passes since the last call; None where there was none."""
        seen, self._seen = self._seen, []
        if self.teacher is None or not seen:
            return None
        total: Tensor | None = None
        for args, kwargs, output in seen:
            with evaluation(self.teacher):
                target = self.teacher(*args, **kwargs)
            for student, teacher in zip(leaves(output), leaves(target), strict=True):
                term = F.kl_div(
                    F.log_softmax(student / self.temperature, -1),
                    F.log_softmax(teacher / self.temperature, -1),
                    reduction="batchmean",
                    log_target=True,
                )
                total = term if total is None else total + term
        return None if total is None else self.weight * self.temperature**2 * total

    def state_dict(self) -> dict[str, Any]:
        """The teacher's tensors, once it is saved."""
        return {} if self.teacher is None else {name: t.clone() for name, t in self.teacher.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any], network: nn.Module) -> None:
        """Make the teacher again, from a network of the same architecture."""
        if state:
            self.save(network)
            assert self.teacher is not None
            self.teacher.load_state_dict(state)
