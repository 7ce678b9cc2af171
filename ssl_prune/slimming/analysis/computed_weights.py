"""Weights that the forward computes from parameters: masked, standardised, generated ones."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.program import run_node
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
    program, tensors = subject.graph.program, subject.tensors
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
    values: dict[fx.Node, Any] = {}

    def value(node: fx.Node) -> Any:
        if node not in values:
            if node.op == "placeholder":
                known = program.tensors.get(node.name)
                values[node] = program.constants[node.name] if known is None else tensors[known].detach()
            else:
                values[node] = run_node(node, *fx.node.map_arg((node.args, dict(node.kwargs)), value))
        return values[node]

    with torch.no_grad():
        for node in computed:
            meets = [user for user in node.users if user not in free and user.op == "call_function"]
            shape = getattr(node.meta.get("val"), "shape", ())
            if node in first and meets and len(shape) > 1:
                nonzero = (value(node) != 0).cpu()
                if "conv" in str(meets[0].target) and nonzero.dim() > 2:
                    nonzero = any_along(nonzero.flatten(2), 2)
                yield first[node], nonzero
