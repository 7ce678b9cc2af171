"""Products of two values: matmul, einsum and attention."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.module_kinds import is_attention
from ssl_prune.graph.export.program import module_of
from ssl_prune.graph.labels.broadcast import base, collapse
from ssl_prune.graph.labels.label_types import Contraction, Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED
from ssl_prune.graph.rules.layer_product import by_letters, by_parameter
from ssl_prune.graph.rules.letters import laid, moving

__all__ = ["attention", "einsum", "matmul"]

aten = torch.ops.aten


def _pinned(labels: Labels, node: fx.Node, reason: str, *values: Any) -> Tensor:
    labels.pin(node, reason, *values)
    return torch.full((), PINNED).expand(labels.shape(node))


@rule(aten.matmul, aten.bmm, aten.mm)
def matmul(labels: Labels, node: fx.Node, a: Any, b: Any) -> Tensor:
    """(..., n, k) @ (..., k, m); a parameter on the right is a linear layer with its weight transposed."""
    if isinstance(a, Tensor) and isinstance(b, Parameter) and len(b.shape) == 2 and not b.computed:
        return by_parameter(labels, node, a, b)
    fixed = [isinstance(value, Parameter) for value in (a, b)].count(True)
    sizes = [len(value.shape) for value in (a, b)]
    if fixed == 2 or min(sizes) < 2:
        return _pinned(labels, node, "a product with a parameter" if fixed else "a product with a vector", a, b)
    rank = max(sizes)
    batch = "abcdefgh"[: rank - 2]
    left, right = f"{batch[rank - sizes[0] :]}nk", f"{batch[rank - sizes[1] :]}km"
    if fixed:
        return by_letters(labels, node, (a, b), [left, right], f"{batch}nm", node.args)
    return _product(labels, node, a, b, left, right, f"{batch}nm")


@rule(aten.einsum)
def einsum(labels: Labels, node: fx.Node, equation: str, operands: Any, **kwargs: Any) -> Tensor:
    """Two values by their letters."""
    terms, arrow, out = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if (
        arrow
        and "." not in equation
        and len(operands) == 2
        and [isinstance(o, Parameter) for o in operands].count(True) == 1
    ):
        return by_letters(labels, node, operands, letters, out, node.args[1])
    if (
        len(operands) != 2
        or not arrow
        or "." in equation
        or any(isinstance(o, Parameter) for o in operands)
        or any(len(set(t)) != len(t) for t in (*letters, out))
    ):
        return _pinned(labels, node, "an einsum that is not a product of two values", operands)
    return _product(labels, node, operands[0], operands[1], letters[0], letters[1], out, operands=node.args[1])


@rule(aten.scaled_dot_product_attention)
def attention(
    labels: Labels,
    node: fx.Node,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ · scale + mask) v; with the default scale the dimensions of a head stay or go together."""
    if any(isinstance(t, Parameter) for t in (q, k, v, mask)):
        return _pinned(labels, node, "attention over parameters", q, k, v, mask)
    rank = q.dim()
    if enable_gqa and q.shape[-3] != k.shape[-3]:  # each head of keys and values serves a run of heads of queries
        k, v = (collapse(t.repeat_interleave(q.shape[-3] // t.shape[-3], -3)) for t in (k, v))
    batch = "abcdefgh"[: rank - 2]
    if scale is None and not is_attention(node):  # a module that would keep its scale when it is cut
        for value in (q, k):
            if value.stride(rank - 1) != 0 and value.shape[-1] > 1:
                labels.unite(base(value), base(value).narrow(-1, 0, 1))
    shape = (*labels.shape(node)[:-1], k.shape[-2])
    scores = _product(labels, node, q, k, f"{batch}nk", f"{batch}mk", f"{batch}nm", shape=shape)
    if mask is not None:
        scores = collapse(scores)
        wide = collapse(mask.expand(shape)) if mask.dim() <= len(shape) else mask
        if moving(mask):
            labels.unite(scores, wide)
    return _product(labels, node, collapse(scores), v, f"{batch}nm", f"{batch}mk", f"{batch}nk", operands=(None, None))


def _product(
    labels: Labels,
    node: fx.Node,
    a: Tensor,
    b: Tensor,
    left: str,
    right: str,
    out: str,
    *,
    shape: Any = None,
    operands: Any = None,
) -> Tensor:
    """The label algebra of sum over the letters that are not in `out` of a[left] b[right].

    Labels along a summed letter join and are read there; each position of the letters beside it becomes one new unit (a
    head). Without such labels the result carries the labels of the operand that has more of them, and where both have
    labels along a common letter (heads), those of one may vanish only together with those of the other.
    """
    shape = labels.shape(node) if shape is None else shape
    a, b = collapse(a), collapse(b)
    moving_a = {left[d] for d in moving(a)}
    moving_b = {right[d] for d in moving(b)}
    summed = {letter for letter in left if letter in right and letter not in out}
    lost = {letter for letter in left + right if letter not in out and letter not in summed}
    if lost & (moving_a | moving_b):
        return _pinned(labels, node, "a sum over channels of one factor", a, b)
    shared = {letter for letter in left if letter in right}
    nodes = operands if operands is not None else node.args
    if (moving_a | moving_b) & summed:
        if (moving_a | moving_b) - shared:
            for value, names, moves, other, along in (
                (a, left, moving_a, b, moving_b),
                (b, right, moving_b, a, moving_a),
            ):
                if (
                    along <= summed and not moves & summed
                ):  # the state of a scan: each channel's numbers are weighed alike
                    labels.pin(node, "a product of channels with positions that carry channels", other)
                    return laid(value, names, out, shape)
            return _pinned(labels, node, "a product of channels with positions that carry channels", a, b)
        return _contract(labels, node, a, b, left, right, out, shape, summed, (nodes[0], nodes[1]))
    free_a, free_b = moving_a - shared, moving_b - shared
    if free_a and free_b:
        return _pinned(labels, node, "an outer product of channels", a, b)
    heads = moving_a & moving_b
    wide, names, narrow, others = (
        (b, right, a, left) if free_b or len(moving_b) > len(moving_a) else (a, left, b, right)
    )
    result = laid(wide, names, out, shape)
    if not heads and (free_a or free_b) and (moving_a and moving_b):
        return _pinned(labels, node, "a product of channels along different axes", a, b)
    if heads:
        moving_narrow, moving_wide = {others[d] for d in moving(narrow)}, {names[d] for d in moving(wide)}
        if moving_narrow != heads or not heads <= moving_wide:
            return _pinned(labels, node, "a product of channels along different axes", a, b)
        order = [letter for letter in out if letter in heads]
        rest = [letter for letter in out if letter in moving_wide - heads]
        one = _vectors(narrow, others, order, []).reshape(-1)
        many = _vectors(wide, names, order, rest)
        if rest:
            labels.alike(one[:, None], many)
            labels.read_whole(node, one.repeat_interleave(many.shape[1]), many.reshape(-1))
        else:
            labels.unite(one, many.reshape(-1))
    elif moving_a and moving_b:
        return _pinned(labels, node, "a product of channels along different axes", a, b)
    return result


def _contract(
    labels: Labels,
    node: fx.Node,
    a: Tensor,
    b: Tensor,
    left: str,
    right: str,
    out: str,
    shape: Any,
    summed: set[str],
    nodes: tuple[Any, Any],
) -> Tensor:
    along_any = {left[d] for d in moving(a)} | {right[d] for d in moving(b)}
    along = [letter for letter in left if letter in along_any and letter in summed]
    beside = [letter for letter in left if letter in along_any and letter not in summed]
    first, second = _vectors(a, left, beside, along), _vectors(b, right, beside, along)
    first, second = torch.broadcast_tensors(first, second)
    labels.unite(first, second)
    sizes = [_size(a, b, left, right, letter) for letter in beside]
    if beside:
        heads = labels.new_virtual(first.shape[0])
        labels.alike(heads[:, None], first)
        written = heads.repeat_interleave(first.shape[1])
        view = [1] * len(out)
        for letter, size in zip(beside, sizes, strict=True):
            view[out.index(letter)] = size
        order = sorted(range(len(beside)), key=lambda i: out.index(beside[i]))
        result = heads.view(sizes).permute(order).reshape(view).expand(shape)
    else:
        written = torch.full((first.numel(),), PINNED)
        result = torch.full((), PINNED).expand(shape)
    if not isinstance(nodes[0], fx.Node) or not isinstance(nodes[1], fx.Node):
        return _pinned(labels, node, "a product of computed values", a, b)
    axes = [tuple(names.index(letter) for letter in [*beside, *along]) for names in (left, right)]
    labels.contractions.append(
        Contraction(
            node, module_of(node), None, nodes[0], axes[0], first.reshape(-1), written, other=nodes[1],
            other_axes=axes[1],
        )
    )  # fmt: skip
    return result


def _size(a: Tensor, b: Tensor, left: str, right: str, letter: str) -> int:
    return int(max(a.shape[left.index(letter)], b.shape[right.index(letter)]))


def _vectors(value: Tensor, names: str, rows: list[str], columns: list[str]) -> Tensor:
    """The labels as a matrix: positions of `rows` by positions of `columns`, constant along all other letters."""
    index: list[Any] = [slice(None) if letter in rows or letter in columns else 0 for letter in names]
    kept = [letter for letter in names if letter in rows or letter in columns]
    picked = value[tuple(index)].permute([kept.index(letter) for letter in (*rows, *columns)])
    count = 1
    for size in picked.shape[: len(rows)]:
        count *= size
    return picked.reshape(count, -1)
