"""Sizes that depend on data, such as how many rows a mask chooses, as they come out on the example."""

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ssl_prune.errors import GraphError
from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.graph.export.program import Program, module_of
from ssl_prune.utils.inputs import Inputs, evaluation
from ssl_prune.utils.tensors import named_tensors

__all__ = ["data_numbers", "shapes_alone", "with_example_sizes"]

aten = torch.ops.aten

_SHAPES = {
    aten.view, aten._unsafe_view, aten.reshape, aten.expand, aten.zeros, aten.ones, aten.new_zeros, aten.new_ones, aten.empty,
}  # fmt: skip


def with_example_sizes(program: Program, model: nn.Module, example_inputs: Inputs) -> Program:
    """Write into `program` what its data-dependent sizes are on the example; run on numbers, it computes them anew.

    Args:
        program: the exported network.
        model: the network itself.
        example_inputs: those that it was exported with.

    Returns:
        The program, unchanged where all of its sizes are fixed.

    Raises:
        GraphError: what it computes from such a size is no number, or the network does not run on the example.
    """
    if all(_fixed(node.meta.get("val")) for node in program.graph.nodes):
        return program
    run = Execution(program, named_tensors(model), example_inputs)
    with torch.no_grad(), evaluation(model):
        for node in program.graph.nodes:
            if node.op == "output":
                break
            try:
                value = run.step(node)
            except Exception as error:
                raise GraphError(
                    f"{module_of(node) or type(model).__name__}: {node.target} has a result whose size depends on the data, "
                    f"and could not be run on the example: {error}. Write it with a mask, such as torch.where, in place of "
                    "a choice of rows"
                ) from error
            if not _fixed(node.meta.get("val")):
                node.meta["val"] = pytree.tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), value)
    return program


def data_numbers(node: fx.Node) -> list[fx.Node]:
    """The arguments of an operator that are numbers computed from data."""
    read = node.all_input_nodes
    return [
        used for used in read if used.op == "call_function" and isinstance(used.meta.get("val"), (bool, int, float))
    ]


def shapes_alone(node: fx.Node) -> bool:
    """A number that the operator is given says how large its result is, and nothing else."""
    return getattr(node.target, "overloadpacket", None) in _SHAPES


def _fixed(value: object) -> bool:
    """No size of a tensor, and no number, is an unknown of the trace."""
    leaves = pytree.tree_leaves(value)
    sizes = [size for leaf in leaves if isinstance(leaf, Tensor) for size in leaf.shape]
    return not any(isinstance(each, (torch.SymInt, torch.SymFloat, torch.SymBool)) for each in [*leaves, *sizes])
