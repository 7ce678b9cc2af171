"""Multiply-accumulates of operators, from the shapes that were traced."""

from collections.abc import Sequence
from math import prod

import torch
from torch import fx
from torch.utils import _pytree as pytree

from ssl_prune.graph.export.program import Program

__all__ = ["LARGE", "macs", "program_macs"]

aten = torch.ops.aten

# Multiply-accumulates of a run that takes so long that there should be few: a core's work for a third of a second.
LARGE = 1e10

_CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d}
_TRANSPOSED = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
_RECURRENT = {
    *(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu),
    *(aten.lstm_cell, aten.gru_cell, aten.rnn_tanh_cell, aten.rnn_relu_cell),
}
_PRODUCTS = {aten.linear: 0, aten.matmul: 0, aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.baddbmm: 1}  # first factor
_COUNTED = {*_CONVOLUTIONS, *_TRANSPOSED, *_RECURRENT, *_PRODUCTS, aten.einsum, aten.tensordot}
_COUNTED.add(aten.scaled_dot_product_attention)


def macs(node: fx.Node) -> tuple[int, ...]:
    """Multiply-accumulates of each product that one operator makes, as `ssl_prune.cost` counts them in a run.

    Positions times channels read times channels written times kernel entries, over groups. A transposed convolution
    multiplies at the positions of its input, a recurrent layer with all of its matrices at every time. Attention makes
    two products, of queries with keys and of what comes of them with values. All else makes none: a row of an embedding
    is chosen, not multiplied.

    Args:
        node: an operator of a `Program`.

    Example:
        >>> from ssl_prune.graph.export.program import export
        >>> program = export(torch.nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 8, 8), lambda node: True)
        >>> [count for node in program.graph.nodes for count in macs(node)] == [2 * 36 * 6 * 4 // 2 * 9]
        True
    """
    packet = getattr(node.target, "overloadpacket", None)
    if packet not in _COUNTED:
        return ()
    result = pytree.tree_leaves(node.meta["val"])[0].numel()
    shapes = [leaf.meta["val"].shape for leaf in pytree.tree_leaves(node.args) if isinstance(leaf, fx.Node)]
    if packet is aten.einsum:
        return (_einsum(str(node.args[0]), shapes),)
    if packet is aten.tensordot:
        return (result * prod(shapes[0][axis] for axis in node.args[2]),)  # type: ignore[union-attr]
    if packet in _PRODUCTS:
        first, second = shapes[_PRODUCTS[packet] :][:2]
        return (result * first[-1] if len(second) > 1 else 0,)  # torch multiplies a vector otherwise
    if packet in _CONVOLUTIONS:
        return (result * prod(shapes[1][1:]),)
    if packet in _TRANSPOSED:
        return (prod(shapes[0]) * prod(shapes[1][1:]),)
    if packet is aten.scaled_dot_product_attention:
        queries, keys = shapes[:2]
        return result // max(1, shapes[2][-1]) * queries[-1] * keys[-2], result * keys[-2]
    weights = shapes[1 + len(pytree.tree_leaves(node.args[1])) :]  # after the input and the states
    return (prod(shapes[0][:-1]) * sum(prod(shape) for shape in weights if len(shape) == 2),)


def program_macs(program: Program) -> int:
    """Those of all operators of one run."""
    return sum(count for node in program.graph.nodes for count in macs(node))


def _einsum(equation: str, shapes: Sequence[torch.Size]) -> int:
    """Two factors after two, from the left; the letters of an ellipsis are not told apart, so such a one counts none."""
    terms, _, out = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if "." in equation or "->" not in equation:
        return 0
    sizes = {
        letter: size
        for term, shape in zip(letters, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    total, left = 0, set(letters[0])
    for place, right in enumerate(letters[1:], 2):
        later = set("".join([out, *letters[place:]]))
        both = (left & set(right)) | ((left | set(right)) & later)  # what one factor alone has is summed first
        left = both & later
        total += prod(sizes[letter] for letter in both) if both != left else 0
    return total
