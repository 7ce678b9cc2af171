"""Weights that the forward computes from parameters: masked, standardised, generated ones."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.graph.rules.movement import MOVEMENT
from ssl_prune.slimming.analysis.dependence_masks import any_along
from ssl_prune.slimming.subject import Subject

__all__ = ["computed_weights"]

_STILL = {
    *MOVEMENT,
    *(getattr(torch.ops.aten, name) for name in ("view", "_unsafe_view", "clone", "alias", "detach", "_to_copy", "to")),
}


def computed_weights(subject: Subject) -> Iterator[tuple[str, Tensor]]:
    """Matrices that are computed from parameters alone, where they meet a signal.

    Args:
        subject: the network.

    Returns:
        Pairs of the first parameter that goes into such a matrix, and where the matrix is other than zero; kernels of a
        convolution count as one entry.
    """
    program = subject.graph.program
    first: dict[fx.Node, str] = {}
    computed: dict[fx.Node, None] = {}  # in the order of the program
    free: set[fx.Node] = set()
    for node in program.graph.nodes:
        name = program.tensors.get(node.name) if node.op == "placeholder" else None
        if node.op == "placeholder" and node.name not in program.inputs:
            free.add(node)
            if name in program.parameters:
                first[node] = str(name)
        elif node.op == "call_function" and node.all_input_nodes and free.issuperset(node.all_input_nodes):
            free.add(node)
            names = [first[used] for used in node.all_input_nodes if used in first]
            if names:
                first[node] = names[0]
            moved = getattr(node.target, "overloadpacket", None) in _STILL
            if not moved or any(used in computed for used in node.all_input_nodes):
                computed[node] = None
    meets = {}
    for node in computed:
        readers = [user for user in node.users if user not in free and user.op == "call_function"]
        if node in first and readers and len(getattr(node.meta.get("val"), "shape", ())) > 1:
            meets[node] = readers[0]
    matrices = _Matrices(subject, meets)
    with torch.no_grad():
        matrices.run()
    for node, nonzero in matrices.nonzero.items():
        yield first[node], nonzero


class _Matrices(Execution):
    """Computes the matrices that `meets` has, each with the operator that reads it, and notes where they are not zero."""

    def __init__(self, subject: Subject, meets: Mapping[fx.Node, fx.Node]) -> None:
        super().__init__(subject.graph.program, subject.tensors, subject.inputs)
        self.nonzero: dict[fx.Node, Tensor] = {}
        self._meets, self._needed = meets, set(meets)
        for node in reversed(self.graph.nodes):
            if node in self._needed:
                self._needed.update(node.all_input_nodes)

    def run_node(self, n: fx.Node) -> Any:
        if n not in self._needed:
            return None
        value = super().run_node(n)
        if n in self._meets:
            nonzero = (value != 0).cpu()
            conv = "conv" in str(self._meets[n].target) and nonzero.dim() > 2
            self.nonzero[n] = any_along(nonzero.flatten(2), 2) if conv else nonzero
        return value
