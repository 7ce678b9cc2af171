"""Collapsed masks against masks as large as their values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ssl_prune.slimming.analysis.dependence_masks import busy, convolved, multiplied, reached, uneven, uniform


def sparse(*shape: int, seed: int, density: float = 0.15) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    return weight * (torch.rand(shape, generator=generator) < density)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("groups", "padding", "stride", "dilation"), [(1, 1, 1, 1), (2, 2, 2, 2), (4, 0, 1, 1), (1, 3, 3, 1)])  # fmt: skip
def test_a_convolution_of_channels_equals_that_of_the_whole_mask(
    seed: int, groups: int, padding: int, stride: int, dilation: int
) -> None:
    weight = sparse(8, 4 // groups, 3, 3, seed=seed)
    channels = torch.rand(4, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask = channels.view(1, 4, 1, 1).expand(2, 4, 7, 6)
    expected = F.conv2d(mask.float(), (weight != 0).float(), None, stride, padding, dilation, groups) > 0.5
    args = ([stride] * 2, [padding] * 2, [dilation] * 2)
    got = convolved(torch.ops.aten.conv2d.default, mask, weight, args, groups)
    assert got is not None
    assert torch.equal(got.expand(expected.shape), expected)


def test_same_padding_and_masks_that_differ_by_position() -> None:
    weight = sparse(5, 3, 3, 3, seed=1)
    mask = torch.tensor([True, False, True]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    got = convolved(torch.ops.aten.conv2d.padding, mask, weight, ([1, 1], "same", [1, 1]), 1)
    expected = F.conv2d(mask.float(), (weight != 0).float(), padding="same") > 0.5
    assert got is not None
    assert torch.equal(got.expand(expected.shape), expected)
    other = mask.clone()
    other[0, 0, 0, 0] = False
    assert convolved(torch.ops.aten.conv2d.default, other, weight, (), 1) is None


@pytest.mark.parametrize("tokens", [1, 5, 30])
def test_a_linear_layer_over_rows_of_several_kinds(tokens: int) -> None:
    weight = sparse(6, 9, seed=2)
    mask = torch.rand(2, tokens, 9, generator=torch.Generator().manual_seed(tokens)) < 0.3
    for varies in (mask, mask[:1, :1].expand(2, tokens, 9)):
        expected = F.linear(varies.float(), (weight != 0).float()) > 0.5
        assert torch.equal(multiplied(varies, weight), expected)


def test_values_are_looked_at_where_the_mask_leaves_a_question() -> None:
    value = torch.randn(2, 3, 4)
    value[:, 1] = 0
    value[:, 2] = 5
    mask = torch.tensor([True, False, False]).view(1, 3, 1).expand(2, 3, 4)
    assert torch.equal(busy(value, mask).expand(2, 3, 4), mask | (value != 0))
    expected = mask | (value.amax(2, True) != value.amin(2, True))
    assert torch.equal((mask | uneven(value, mask, (2,))), expected.expand(2, 3, 4))
    value[0, 2, 0] = 6
    assert (mask | uneven(value, mask, (2,)))[:, 2].tolist() == [[True] * 4, [False] * 4]
    irregular = torch.rand(2, 3, 4) < 0.5
    assert torch.equal(busy(value, irregular).expand(2, 3, 4), irregular | (value != 0))


def test_rows_reached_in_pieces() -> None:
    weight = sparse(1, 40, 30, seed=3)
    assert torch.equal(reached(weight, torch.ones(1, 30, dtype=torch.bool)), (weight != 0).any(2))
    assert not bool(reached(weight[:, :, :0], torch.ones(1, 0, dtype=torch.bool)).any())


@given(seed=st.integers(0, 10**6), terms=st.integers(2, 16), scale=st.integers(-20, 20), wide=st.booleans())
def test_sums_in_another_order_are_one_number(seed: int, terms: int, scale: int, wide: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if wide else torch.float32
    numbers = torch.rand(terms, generator=generator, dtype=dtype) * 10.0**scale
    orders = torch.stack([torch.randperm(terms, generator=generator) for _ in range(50)])
    sums = torch.zeros(50, dtype=dtype)
    for place in range(terms):
        sums += numbers[orders[:, place]]
    assert bool(uniform(sums, 0))
    assert bool(uniform(-sums, 0))
    assert bool(uniform(torch.complex(sums, -sums), 0))


@given(scale=st.integers(-20, 20), dtype=st.sampled_from([torch.float32, torch.float64]), negative=st.booleans())
def test_numbers_further_apart_than_rounding_are_told_apart(scale: int, dtype: torch.dtype, negative: bool) -> None:
    one = torch.tensor(10.0**scale, dtype=dtype) * (-1 if negative else 1)
    other = one * (1 + 24 * torch.finfo(dtype).eps)
    assert not bool(uniform(torch.stack([one, other]), 0))
    assert not bool(uniform(torch.stack([one, -one]), 0))
    assert not bool(uniform(torch.stack([one, 0 * one]), 0))  # a zero can be dropped, a small number cannot
    assert not bool(uniform(torch.stack([one + 1j * one, one + 1j * other]), 0))


def test_half_precision_is_compared_as_it_is() -> None:
    one = torch.tensor(1.0, dtype=torch.float16)
    assert bool(uniform(torch.stack([one, one]), 0))
    assert not bool(uniform(torch.stack([one, one + torch.finfo(torch.float16).eps]), 0))
