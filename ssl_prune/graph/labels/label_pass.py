"""The label pass: which entries of each value belong to which removable channel.

Every value of the program carries one integer label per element. Operators that only move data are executed on the
labels by the same operator; contractions (convolution, linear) start new labels on their weight's output axis and tie
their weight's input axis to the labels they read. Two axes whose labels join are cut together or not at all.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ssl_prune.graph.export.interpreter import Interpretation
from ssl_prune.graph.export.program import Program, visible
from ssl_prune.graph.export.unused_parameters import unreached
from ssl_prune.graph.labels.broadcast import base, collapse
from ssl_prune.graph.labels.label_types import planes_of
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import follow
from ssl_prune.graph.labels.union_find import PINNED, WILDCARD

__all__ = ["LabelPass"]


class LabelPass(Interpretation):
    """Runs the operator rules of `ssl_prune.graph.rules` over a program; what they say is in `labels`."""

    def __init__(self, program: Program, model: nn.Module) -> None:
        super().__init__(program)
        self.labels = Labels(program, model)
        self.boxes: dict[fx.Node, Tensor] = {}
        self.origin: dict[fx.Node, str] = {}
        self._first_name: dict[int, str] = {}
        self.unreached, self._beside = unreached(program, self.labels.tensors)

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Labels of a parameter or an input."""
        node = self.node
        name = self.program.tensors.get(node.name)
        if name is not None:
            tensor = self.labels.tensors[name]
            # Tied weights are one parameter: the first name stands for all.
            return self.labels.parameter(self._first_name.setdefault(id(tensor), name), tensor.shape)
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return value
        if node.name in self.program.constants:
            return torch.full((), WILDCARD).expand(value.shape)
        self.origin[node] = "they belong to an input of the network"
        return torch.full((), PINNED).expand(value.shape)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply the operator's rule."""
        node = self.node
        # What meets a value that is pinned already is pinned for the reason for which that was.
        origin = next((self.origin[used] for used in node.all_input_nodes if used in self.origin), None)
        self.labels.sets.now, self.labels.reason = origin, None
        result = follow(self.labels, node, args, kwargs)
        reason = self.labels.reason or origin
        if reason is not None and any(bool((base(plane) == PINNED).any()) for plane in planes_of(result)):
            self.origin[node] = reason
        if not isinstance(result, Tensor):
            return result
        result = collapse(result)
        self._spare(node, result)
        moving = base(result).squeeze()
        if moving.dim() > 1 or (moving.dim() == 1 and result.dim() > 1):
            self.boxes[node] = base(result)
        return result

    def _spare(self, node: fx.Node, result: Tensor) -> None:
        """Pin what code that the example did not run may read."""
        widths = {size for axis, size in enumerate(result.shape) if size > 1 and result.stride(axis) != 0}
        for owner, (scope, sizes) in self._beside.items():
            if any(size % width == 0 for size in sizes for width in widths) and visible(node, scope):
                beside = owner or "a parameter of the network itself"
                self.labels.pin(
                    node, f"{beside}, which the forward did not reach on the example, may read them", result
                )

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Outputs are never cut."""
        self.labels.pin(self.node, "it reaches an output of the network", *args)
