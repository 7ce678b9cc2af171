"""The order in which groups may go, beside a loop written by hand; blocks and floors at every step of it."""

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_prune.selection.removal_order import KeepRules

groups = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=24
)
ratios = st.sampled_from([0.0, 0.25, 0.3, 0.5])


def tensors(rows: list[tuple[int, int, bool, bool]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Layers, keys, what is gone and what always stays; of each layer something is left."""
    layer, keys, dead, fixed = (torch.tensor(column) for column in zip(*rows, strict=True))
    for number in layer.unique():
        dead[(layer == number).nonzero()[0]] = False
    return layer, keys.double(), dead, fixed


def least(layer: Tensor, ratio: float) -> dict[int, int]:
    counts = torch.bincount(layer).tolist()
    return {number: max(1, ceil(ratio * count)) for number, count in enumerate(counts) if count}


def by_hand(layer: Tensor, keys: Tensor, dead: Tensor, fixed: Tensor, ratio: float) -> list[int]:
    spare = {n: int((~dead & (layer == n)).sum()) - floor for n, floor in least(layer, ratio).items()}
    found = []
    for group in sorted(range(len(keys)), key=lambda g: (float(keys[g]), g)):
        if not dead[group] and not fixed[group] and spare[int(layer[group])] > 0:
            spare[int(layer[group])] -= 1
            found.append(group)
    return sorted(found, key=lambda g: (float(keys[g]), int(layer[g]), g))


@settings(max_examples=60)
@given(groups, ratios)
def test_smallest_keys_go_first_and_no_layer_below_its_floor(rows, ratio):
    layer, keys, dead, fixed = tensors(rows)
    order = KeepRules(layer, min_keep_ratio=ratio, fixed=fixed).order(keys, dead)
    assert order.groups.tolist() == by_hand(layer, keys, dead, fixed, ratio)
    assert order.ends.tolist() == list(range(1, len(order) + 1))
    assert torch.equal(order.keys, keys[order.groups])


@settings(max_examples=60)
@given(groups, ratios, st.integers(1, 4), st.none() | st.integers(0, 3))
def test_every_step_is_a_block_of_one_layer_and_leaves_what_has_to_stay(rows, ratio, block, seed):
    layer, keys, dead, _ = tensors(rows)
    rules = KeepRules(layer, min_keep_ratio=ratio, block=torch.full((int(layer.max()) + 1,), block))
    order = rules.order(keys, dead, seed=seed)
    assert torch.equal(order.first(len(order)).nonzero().flatten(), order.groups.sort().values)
    assert bool((order.keys.diff() >= 0).all())
    for number in range(len(order)):
        (here,) = layer[order.step(number)].unique().tolist()
        gone = dead | order.first(number + 1)
        left, dense = int((~gone & (layer == here)).sum()), int((layer == here).sum())
        assert left % block == 0
        assert left >= min(dense, least(layer, ratio)[here])
        assert rules.allow(gone) or not rules.allow(dead)


def test_of_some_groups_the_others_stay():
    rules = KeepRules(torch.zeros(6, dtype=torch.long))
    among = torch.tensor([True, False, True, False, False, True])
    order = rules.order(torch.arange(6).double().flip(0), torch.zeros(6, dtype=torch.bool), among)
    assert order.groups.tolist() == [5, 2, 0]
    assert order.first(0).tolist() == [False] * 6
    assert order.first(2).nonzero().flatten().tolist() == [2, 5]


def test_a_block_that_has_begun_counts_what_is_gone_as_nothing():
    """Seven of eight are left in blocks of four: the three over a multiple go first, at three quarters of their mean."""
    rules = KeepRules(torch.zeros(8, dtype=torch.long), block=torch.tensor([4]))
    dead = torch.arange(8) == 0
    order = rules.order(torch.full((8,), 4.0).double(), dead)
    assert [order.step(n).tolist() for n in range(len(order))] == [[1, 2, 3]]
    assert order.keys.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(("ratio", "count", "expected"), [(0.0, 5, 1), (0.3, 5, 2), (0.4, 5, 2), (1.0, 5, 5)])
def test_a_floor_is_rounded_up_and_is_one_at_least(ratio, count, expected):
    assert KeepRules(torch.zeros(count, dtype=torch.long), min_keep_ratio=ratio).least.tolist() == [expected]
