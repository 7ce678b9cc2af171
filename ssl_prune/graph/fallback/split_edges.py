"""Which part of a split each consumer reads: torch-pruning goes by the order in which it met them."""

from __future__ import annotations

from typing import Any

__all__ = ["correct_splits"]


def correct_splits(graph: Any, mappings: Any) -> None:
    """Give every edge from a split the positions of the part it carries, by autograd's own numbering.

    A consumer of several parts keeps what it has: an edge carries one mapping only.

    Args:
        graph: torch-pruning's dependency graph, built.
        mappings: its module of index mappings.
    """
    for node in graph.module2node.values():
        offsets = getattr(node.module, "offsets", None)
        if type(node.module).__name__ != "_SplitOp" or not offsets or node.grad_fn._saved_dim != 1:
            continue
        parts = {
            id(user): {n for before, n in user.grad_fn.next_functions if before is node.grad_fn}
            for user in node.outputs
        }
        for user in node.outputs:
            if len(parts[id(user)]) != 1 or node.outputs.count(user) > 1:
                continue
            (part,) = parts[id(user)]
            window = offsets[part : part + 2]
            for edge in node.dependencies:
                if edge.target is user:
                    edge.index_mapping[0] = mappings._SplitIndexMapping(offset=window, reverse=False)
            for edge in user.dependencies:
                if edge.target is node:
                    edge.index_mapping[0] = mappings._SplitIndexMapping(offset=window, reverse=True)
