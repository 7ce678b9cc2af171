"""Each rule of the taint mask: what it says is constant stays as it is when what varies changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ssl_prune.slimming.analysis.dependence import varying
from ssl_prune.slimming.analysis.dependence_rules import registry, rule_for
from ssl_prune.slimming.analysis.known import Known

aten = torch.ops.aten


def numbers(*shape: int, zero: float = 0.4) -> Tensor:
    return torch.randn(shape) * (torch.rand(shape) >= zero)


def still(value: Tensor) -> Known:
    return Known(value, torch.zeros((), dtype=torch.bool).expand(value.shape))


def channels(*shape: int, axis: int = 1, value: Tensor | None = None) -> Known:
    """Every second channel varies; of the others the first is zero and the rest are one number each."""
    size = shape[axis]
    view = [size if a == axis % len(shape) else 1 for a in range(len(shape))]
    varies = (torch.arange(size) % 2 == 1).view(view).expand(shape)
    constants = torch.arange(float(size)).view(view).expand(shape)
    return Known(torch.where(varies, torch.randn(shape), constants) if value is None else value, varies)


def elements(*shape: int) -> Known:
    """Half of the elements vary, most of the others are zero."""
    varies = torch.rand(shape) < 0.5
    return Known(torch.where(varies, torch.randn(shape), numbers(*shape, zero=0.8)), varies)


def rows(*shape: int) -> Tensor:
    """A weight with rows of zeros."""
    weight = numbers(*shape)
    weight[::2] = 0
    return weight


def cell(gates: int) -> list[Known]:
    """Weights of a cell of four hidden units, of which the first rests."""
    params = [torch.randn(gates * 4, 3), torch.randn(gates * 4, 4), torch.randn(gates * 4), torch.randn(gates * 4)]
    for p in params:
        p.view(gates, 4, -1)[:, 0] = 0
    return [still(p) for p in params]


def cases() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Name of the rule, perhaps with a number -> operator and arguments, of which something is constant."""
    image, zero = [1, 1], still(torch.zeros(1, 1, 4))
    normed = [still(rows(4)), still(torch.randn(4)), still(torch.randn(4)), still(torch.rand(4) + 1)]
    table = torch.randn(5, 4)
    table[:, 1], table[:, 2] = 0.5, 0
    index = Known(torch.randint(0, 5, (6,)), torch.ones((), dtype=torch.bool).expand(6))
    wide = Known(index.value[:, None].expand(6, 4), torch.ones((), dtype=torch.bool).expand(6, 4))
    bag = (still(table), index, still(torch.tensor([0, 2])), False, 0, False, None, False, -1)
    free = Known(torch.tensor([[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]), torch.zeros(3, 2, dtype=torch.bool), free=True)
    halves = Known(torch.tensor([0.0, 0.0, 0.0, 5.0]).view(1, 4, 1), (torch.arange(4) == 3).view(1, 4, 1))
    corner = torch.zeros(1, 2, 3, 3, dtype=torch.bool)
    corner[0, 1, 0, 0] = True
    return {
        "convolution": (aten.conv2d.default, (channels(1, 4, 5, 5), still(rows(6, 4, 3, 3)), None, image, image, image)),
        "convolution 2": (aten.conv2d.default, (elements(1, 4, 5, 5), still(rows(6, 4, 3, 3)), None, image, image)),
        "transposed_convolution": (aten.conv_transpose2d.input, (channels(1, 4, 5, 5), still(rows(6, 4, 3, 3).transpose(0, 1)))),
        "linear": (aten.linear.default, (channels(2, 4), still(rows(6, 4)))),
        "linear 2": (aten.linear.default, (elements(30, 4), still(rows(6, 4)))),
        "add_product": (aten.addmm.default, (still(torch.randn(6)), channels(2, 4), still(rows(6, 4).t()))),
        "bilinear": (aten.bilinear.default, (channels(2, 3), channels(2, 4), still(rows(5, 3, 4)))),
        "embedding": (aten.embedding.default, (still(table), index)),
        "embedding_bag": (aten.embedding_bag.padding_idx, bag),
        "move": (aten.permute.default, (elements(2, 3, 4), [2, 0, 1])),
        "move 2": (aten.cat.default, ([elements(2, 3), still(numbers(2, 3))], 1)),
        "cut_out": (aten.slice.Tensor, (elements(4, 5), 1, 1, 4)),
        "cut_out 2": (aten.slice.Tensor, (free, 0, 0, 2)),
        "same": (aten.clone.default, (elements(4, 5),)),
        "view": (aten.view.default, (elements(4, 5), [2, 10])),
        "pad": (aten.constant_pad_nd.default, (elements(1, 2, 3, 3), [1, 1, 1, 1], 2.0)),
        "pad_mode": (aten.pad.default, (elements(1, 2, 3, 3), [1, 1, 1, 1], "reflect")),
        "choose": (aten.index_select.default, (elements(4, 5), 1, still(torch.tensor([0, 3])))),
        "choose 4": (aten.index_select.default, (channels(5, 4), 0, index)),
        "choose 5": (aten.index.Tensor, (channels(5, 4, 2), [index, None, still(torch.tensor([1]))])),
        "gather": (aten.gather.default, (elements(4, 5), 1, still(torch.tensor([[0, 3]] * 4)))),
        "gather 2": (aten.gather.default, (channels(5, 4), 0, wide)),
        "lay_along": (aten.index_add.default, (channels(5, 4), 0, index, channels(6, 4))),
        "lay_along 2": (aten.index_copy.default, (channels(5, 4), 0, index, channels(6, 4))),
        "lay_along 3": (aten.scatter_add.default, (channels(6, 4), 0, wide, channels(6, 4))),
        "lay_along 4": (aten.scatter_reduce.two, (channels(6, 4), 0, wide, channels(6, 4), "mean")),
        "lay": (aten.index_put.default, (channels(5, 4, 2), [index], channels(6, 4, 2))),
        "lay 2": (aten.index_put.default, (channels(5, 4, 2), [index, None, still(torch.tensor([1]))], channels(6, 4))),
        "unfold": (aten.im2col.default, (channels(1, 2, 4, 4), [2, 2], image, [0, 0], image)),
        "pool": (aten.avg_pool2d.default, (channels(1, 4, 6, 6), [2, 2])),
        "pool 2": (aten.max_pool2d_with_indices.default, (channels(1, 4, 6, 6), [2, 2])),
        "pool 3": (aten.upsample_bicubic2d.default, (Known(torch.ones(1, 2, 3, 3), corner), [6, 6], False)),
        "reduce": (aten.mean.dim, (channels(2, 4, 3, 3), [2, 3])),
        "reduce 2": (aten.sum.dim_IntList, (channels(2, 4, 3, 3), [2, 3])),
        "reduce 3": (aten.var.correction, (channels(2, 4, 3, 3), [2, 3])),
        "reduce 4": (aten.std.dim, (channels(2, 4, 3, 4), [-1, -2], False, True)),
        "reduce 5": (aten.std_mean.correction, (channels(2, 4, 3), [2])),
        "reduce 6": (aten.linalg_vector_norm.default, (channels(2, 4, 3), 2, [2])),
        "reduce 7": (aten.prod.dim_int, (channels(2, 4, 3), 2)),
        "in_order": (aten.cumsum.default, (channels(2, 4, 3), 2)),
        "in_order 2": (aten.sort.default, (channels(2, 4, 3), 2)),
        "product": (aten.matmul.default, (channels(2, 3, 4, axis=2), still(rows(5, 4).t().contiguous()))),
        "product 2": (aten.einsum.default, ("bij,bjk->bik", [elements(2, 3, 4), elements(2, 4, 5)])),
        "attention": (aten.scaled_dot_product_attention.default, (channels(1, 2, 4, 6), channels(1, 2, 4, 6), channels(1, 2, 4, 6, axis=3))),
        "pointwise": (aten.add.Tensor, (elements(3, 4), elements(3, 4))),
        "multiply": (aten.mul.Tensor, (elements(3, 4), elements(3, 4))),
        "divide": (aten.div.Tensor, (elements(3, 4), still(torch.rand(3, 4) + 1))),
        "choose 2": (aten.where.self, (Known(torch.rand(3, 4) < 0.5, torch.ones((), dtype=torch.bool).expand(3, 4)), still(table[:3]), still(table[1:4]))),
        "choose 3": (aten.masked_fill.Scalar, (elements(3, 4), still(torch.rand(3, 4) < 0.5), 0.5)),
        "prelu": (aten.prelu.default, (elements(3, 4), still(torch.rand(4)))),
        "gated": (aten.glu.default, (elements(3, 8), 1)),
        "batch_norm": (aten.batch_norm.default, (channels(2, 4, 3), *normed, False, 0.1, 1e-5, False)),
        "batch_norm 2": (aten.batch_norm.default, (channels(2, 4, 3), *normed, True, 0.1, 1e-5, False)),
        "frozen_batch_norm": (aten._native_batch_norm_legit_no_training.default, (channels(2, 4, 3), *normed, 0.1, 1e-5)),
        "batch_statistics": (aten.instance_norm.default, (channels(2, 4, 3), normed[0], normed[1], None, None, True, 0.1, 1e-5, False)),
        "group_norm": (aten.group_norm.default, (channels(2, 4, 3), 2, normed[0], normed[1], 1e-5)),
        "group_norm 2": (aten.group_norm.default, (halves, 2, normed[1], normed[2], 1e-5)),
        "over_channels": (aten.layer_norm.default, (channels(2, 3, 4), [4], normed[0], normed[1])),
        "recurrent": (aten.gru.input, (channels(2, 1, 3), zero, cell(3), True, 1, 0.0, False, False, False)),
        "recurrent 2": (aten.lstm.input, (channels(2, 1, 3), [zero, zero], cell(4), True, 1, 0.0, False, False, False)),
        "step": (aten.gru_cell.default, (channels(2, 3), still(torch.zeros(2, 4)), *cell(3))),
    }  # fmt: skip


NAMES = list(cases())


def run(target: Any, args: tuple[Any, ...]) -> list[Tensor]:
    plain = pytree.tree_map(lambda a: a.value if isinstance(a, Known) else a, args)
    return [leaf for leaf in pytree.tree_leaves(target(*plain)) if isinstance(leaf, Tensor)]


def otherwise(known: Any) -> Any:
    """Other numbers where it varies; of the same kind, so that an index stays one."""
    if not isinstance(known, Known):
        return known
    other = torch.randn(known.value.shape).to(known.value.dtype) if known.value.is_floating_point() else (
        known.value[torch.randperm(len(known.value))]
    )  # fmt: skip
    return Known(torch.where(known.varies, other, known.value), known.varies, known.free)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_constant_stays(name: str):
    target, args = cases()[name]
    node = fx.Graph().call_function(target, ())
    assert rule_for(node).mask.__name__ == name.split()[0]
    free = all(k.free for k in pytree.tree_leaves(args) if isinstance(k, Known))
    first = run(target, args)
    value = first if len(first) > 1 else first[0]
    masks = varying(node, value, args, {}, free)
    masks = masks if isinstance(masks, (list, tuple)) else [masks]
    masks = [mask.expand(result.shape) for mask, result in zip(masks, first, strict=True)]
    assert not bool(masks[0].all()), "nothing of the result is found to be constant"
    for _ in range(8):
        for before, after, mask in zip(first, run(target, pytree.tree_map(otherwise, args)), masks, strict=True):
            assert torch.equal(before[~mask], after[~mask])


def test_every_rule_has_a_case():
    rules = {rule.mask.__name__ for rule in registry._RULES.values()} - {"everything", "nothing"}
    assert rules == {name.split()[0] for name in NAMES}


def test_an_operator_has_one_rule():
    with pytest.raises(ValueError, match=r"aten\.mul.*has a rule already"):
        registry.rule(aten.mul)(registry.everything)


@pytest.mark.parametrize("draws", [True, False])
def test_dropout_that_draws_varies(draws: bool):
    node, x = fx.Graph().call_function(aten.dropout.default, ()), still(torch.ones(3))
    assert bool(varying(node, x.value, (x, 0.5, draws), {}, False).any()) == draws


@pytest.mark.parametrize(
    ("target", "rest", "expected"),
    [
        (aten.sum.dim_IntList, ([1],), [False, True, True]),
        (aten.mean.dim, ([1],), [False, False, True]),
        (aten.linalg_vector_norm.default, (2, [1]), [False, True, True]),
        (aten.var.dim, ([1],), [False, False, True]),
        (aten.cumsum.default, (1,), [False, True, True]),
        (aten.sort.default, (1,), [False, False, True]),
        (aten.avg_pool1d.default, ([2], [1], [1]), [False, False, True]),
    ],
)
def test_what_depends_on_the_size_of_the_input_varies(target: Any, rest: tuple[Any, ...], expected: list[bool]):
    node, x = fx.Graph().call_function(target, ()), still(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 2.0]]))
    value = target(x.value, *rest)
    mask = varying(node, value, (x, *rest), {}, False)
    mask = mask[0] if isinstance(mask, (list, tuple)) else mask
    assert mask.reshape(3, -1).any(1).tolist() == expected
    assert not bool(varying(node, value, (x, *rest), {}, True).any())  # computed from parameters alone


def test_a_longer_input_reads_on_in_a_table():
    node = fx.Graph().call_function(aten.slice.Tensor, ())
    table = still(torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 4.0]]))
    mask = varying(node, table.value[:2], (table, 0, 0, 2), {}, True)
    assert mask.tolist() == [[False, True], [False, True]]


def test_an_operator_without_a_rule_varies():
    node, x = fx.Graph().call_function(aten.fft_fft.default, ()), still(torch.ones(3))
    assert bool(varying(node, x.value, (x,), {}, False).all())


@pytest.mark.parametrize(
    ("clamp", "least", "stays"),
    [("clamp", 1, True), ("clamp_min", 1e-9, True), ("clamp", 0, False), ("relu", None, False)],
)
def test_zero_over_what_varies_is_zero_where_that_is_never_zero(clamp: str, least: float | None, stays: bool):
    graph = fx.Graph()
    given = graph.placeholder("count")
    count = graph.call_function(getattr(aten, clamp).default, (given,) if least is None else (given, least))
    column = graph.call_function(aten.view.default, (count, [-1, 1]))
    node = graph.call_function(aten.div.Tensor, (graph.placeholder("sum"), column))
    zero, divisor = still(torch.zeros(3, 2)), Known(torch.ones(3, 1), torch.ones((), dtype=torch.bool).expand(3, 1))
    assert bool(varying(node, zero.value, (zero, divisor), {}, False).any()) is not stays
