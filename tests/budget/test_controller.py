"""The controller meets limits for any sizes, keys and floors, and its numbers are those of the formulas."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssl_prune.budget import Controller, Limits
from ssl_prune.budget.controller import SHARPNESS


def additive(costs):
    """Groups that cost the same whatever else is gone; the shares left of the whole."""
    costs = torch.as_tensor(costs, dtype=torch.float64)
    return lambda dead: {"macs": float(costs[~dead].sum() / costs.sum())}


def none(count):
    return torch.zeros(count, dtype=torch.bool)


def test_the_smallest_keys_that_suffice_are_next():
    controller = Controller(additive([1, 1, 1, 1]), {"macs": 0.5}, torch.zeros(4, dtype=torch.long))
    keys = torch.tensor([3.0, 1.0, 4.0, 2.0])
    assert controller.ahead(keys, none(4), {"macs": 0.75}).tolist() == [False, True, False, False]
    assert controller.ahead(keys, none(4), {"macs": 0.6}).tolist() == [False, True, False, True]
    assert not controller.ahead(keys, none(4), {"macs": 1.0}).any()


def test_the_strength_brings_the_largest_of_them_to_zero_in_time():
    controller = Controller(additive([1] * 4), {"macs": 0.5}, torch.zeros(4, dtype=torch.long))
    keys, norms = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([3.0, 5.0, 100.0, 100.0])
    choice = controller.choose(keys, norms, none(4), {"macs": 0.5}, rates=10.0, before=0.0)
    assert choice.strength == pytest.approx(0.5)
    assert choice.weights.tolist() == pytest.approx([1, 1, (2 / 4) ** SHARPNESS, (2 / 8) ** SHARPNESS])
    assert controller.choose(keys, norms, none(4), {"macs": 0.5}, 10.0, before=0.1).strength == pytest.approx(0.3)
    assert controller.choose(keys, norms, none(4), {"macs": 0.5}, 10.0, before=9.0).strength == pytest.approx(3.0)


@settings(max_examples=80, derandomize=True)
@example([(1, 0, 0)] * 3 + [(1, 0, 1), (3, 1, 0), (5, 1, 0)] + [(1, 0, 0)] * 2, 0.625, 0.25)
@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 10), st.integers(0, 3)), min_size=8, max_size=40),
    st.floats(0.05, 0.95),
    st.floats(0, 0.4),
)
def test_a_projection_meets_any_limit_that_the_floors_allow(groups, limit, floor):
    costs, keys, layers = zip(*groups, strict=True)
    _, layer = torch.tensor(layers).unique(return_inverse=True)
    size = additive(costs)
    controller = Controller(size, {"macs": limit}, layer, min_keep_ratio=floor)
    chosen = controller.project(torch.tensor(keys, dtype=torch.float64), none(len(costs)))
    for number in layer.unique():
        alive = int((~chosen[layer == number]).sum())
        assert alive >= max(1, math.ceil(floor * int((layer == number).sum())))
    largest = max(costs) / sum(costs)
    if size(controller.smallest())["macs"] <= limit - largest:  # whatever is chosen, something is left to choose
        left = size(chosen)["macs"]
        assert limit - controller.band - largest - 1e-9 <= left <= limit + 1e-9


def test_a_projection_passes_over_what_is_too_large():
    controller = Controller(additive([50, 30, 11, 9]), {"macs": 0.9}, torch.zeros(4, dtype=torch.long))
    chosen = controller.project(torch.tensor([1.0, 2.0, 3.0, 4.0]), none(4))
    assert chosen.tolist() == [False, False, True, False]


def test_the_last_group_gives_way_to_those_that_fit():
    size = additive([2.0] * 40 + [0.75] * 20 + [0.25] * 20)  # the first alone would end half a per cent below
    controller = Controller(size, {"macs": 0.985}, torch.zeros(80, dtype=torch.long))
    keys, every = torch.arange(80.0).double(), torch.ones(80, dtype=torch.bool)
    fitting = [40, 41]
    assert controller.ahead(keys, none(80), controller.limits).nonzero().flatten().tolist() == fitting
    assert controller.admit(every, keys, none(80)).nonzero().flatten().tolist() == fitting
    assert controller.project(keys, none(80)).nonzero().flatten().tolist() == fitting
    many = Controller(additive([2.0] * 40 + [0.25] * 80), {"macs": 0.985}, torch.zeros(120, dtype=torch.long))
    assert many.ahead(torch.arange(120.0).double(), none(120), many.limits).nonzero().flatten().tolist() == [
        0
    ]  # six of them
    # On the way to the limit there is no need to be close.
    assert controller.ahead(keys, none(80), {"macs": 0.99}).nonzero().flatten().tolist() == [0]
    # Where nothing else fits it goes all the same, as long as it stays in the band.
    alone = Controller(additive([2.0] * 50), {"macs": 0.985}, torch.zeros(50, dtype=torch.long))
    assert alone.admit(every[:50], keys[:50], none(50)).nonzero().flatten().tolist() == [0]


def test_what_would_end_below_the_band_is_not_what_the_strength_is_for():
    size = additive([5.0] * 10 + [1.0] * 50)
    controller = Controller(size, {"macs": 0.97}, torch.zeros(60, dtype=torch.long))
    # The first of these groups alone would end two points below; three of those that save less are what can go.
    assert controller.ahead(torch.arange(60.0).double(), none(60), controller.limits).nonzero().flatten().tolist() == [
        10,
        11,
        12,
    ]


def test_a_projection_takes_what_was_pushed_even_if_the_keys_have_changed():
    controller = Controller(additive([1.0] * 50), {"macs": 0.96}, torch.zeros(50, dtype=torch.long))
    keys, pushed = torch.arange(50.0).double(), none(50)
    assert controller.project(keys, none(50)).nonzero().flatten().tolist() == [0, 1]
    pushed[[7, 9]] = True
    assert controller.project(keys, none(50), pushed).nonzero().flatten().tolist() == [7, 9]
    pushed[9] = False  # not enough
    assert controller.project(keys, none(50), pushed).nonzero().flatten().tolist() == [0, 1]
    layer = torch.arange(50) // 25
    floors = Controller(additive([1.0] * 50), {"macs": 0.94}, layer, min_keep_ratio=0.96)
    gone, pushed = none(50), none(50)
    gone[0], pushed[[1, 30]] = True, True  # another one of the first layer has gone since, which it can spare one of
    assert floors.project(keys, gone, pushed).nonzero().flatten().tolist() == [25]


def test_a_projection_takes_no_more_than_is_missing_though_it_was_pushed():
    controller = Controller(additive([1] * 8), {"macs": 0.75}, torch.zeros(8, dtype=torch.long))
    keys, pushed = torch.arange(8.0), torch.arange(8) < 5
    assert controller.project(keys, none(8), pushed).tolist() == [True] * 2 + [False] * 6


def test_what_the_last_group_makes_up_for_stays():
    size = additive([0.25] * 4 + [2.5] * 40)  # the first four have the smallest keys and save little
    controller = Controller(size, {"macs": 0.976}, torch.zeros(44, dtype=torch.long))
    keys = torch.arange(44.0).double()
    assert controller.ahead(keys, none(44), controller.limits).nonzero().flatten().tolist() == [4]
    # If they are on their way all the same when the size is met, they stay as well.
    gone, pushed = none(44), none(44)
    gone[4], pushed[:4] = True, True
    assert not controller.project(keys, gone, pushed).any()


@settings(max_examples=60, derandomize=True)
@given(st.data(), st.floats(0.1, 0.95), st.floats(0, 0.4))
def test_channels_of_a_multiple_go_together(data, limit, floor):
    widths = data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=4))
    block = torch.tensor(data.draw(st.lists(st.sampled_from([1, 2, 4, 8]), min_size=len(widths), max_size=len(widths))))
    count, full = sum(widths), torch.tensor(widths)
    layer = torch.arange(len(widths)).repeat_interleave(full)
    keys = torch.tensor(data.draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count)), dtype=torch.float64)

    def left(dead):
        return torch.bincount(layer[~dead], minlength=len(widths))

    def size(dead):  # a product of widths, each counted as the next multiple
        counted = torch.minimum((left(dead) + block - 1) // block * block, full)
        return {"macs": float((counted * counted.roll(1)).sum() / (full * full.roll(1)).sum())}

    controller = Controller(size, {"macs": limit}, layer, min_keep_ratio=floor, block=block)
    next_ones = controller.ahead(keys, none(count), controller.limits)
    some = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.3  # of them come to zero by themselves
    dead = controller.admit(next_ones & some, keys, none(count))
    assert not (dead & ~(next_ones & some)).any()
    assert torch.equal(dead, next_ones & some) or (block == 1).all()  # single ones wait if they end below the band
    dead |= controller.project(keys, dead)
    alive = left(dead)
    assert ((alive >= torch.ceil(floor * full)) & (alive >= 1)).all()
    assert ((alive == full) | (alive % block == 0)).all()
    if size(controller.smallest())["macs"] <= limit:
        assert size(dead)["macs"] <= limit


def test_a_block_has_the_mean_of_its_keys_and_one_strength():
    layer = torch.tensor([0] * 8 + [1] * 8)
    keys = torch.tensor([0.0, 9, 0, 9, 10, 10, 10, 10] + [3.0] * 8).double()
    block = torch.tensor([4, 4])

    def size(dead):
        left = torch.bincount(layer[~dead], minlength=2)
        return {"macs": float(((left + 3) // 4).sum() / 4)}

    controller = Controller(size, {"macs": 0.75}, layer, block=block)
    assert controller.ahead(keys, none(16), controller.limits).nonzero().flatten().tolist() == [8, 9, 10, 11]
    choice = controller.choose(keys, torch.ones(16), none(16), controller.limits, 10.0, before=0.0)
    assert choice.weights[8:12].tolist() == [1.0] * 4
    assert choice.weights[:4].tolist() == pytest.approx([(3 / 4.5) ** SHARPNESS] * 4)
    # Three quarters of a block are gone: the last of it is next, whatever it is worth by itself.
    begun = none(16)
    begun[:3] = True
    assert controller.ahead(keys, begun, controller.limits).nonzero().flatten().tolist() == [3]


def test_what_stays_is_not_pushed():
    floors = Controller(additive([1.0] * 8), {"macs": 0.5}, torch.tensor([0] * 4 + [1] * 4), min_keep_ratio=0.5)
    keys = torch.arange(1.0, 9.0).double()
    choice = floors.choose(keys, torch.ones(8), none(8), {"macs": 0.5}, 1.0, 0.0)
    assert choice.weights[[0, 1, 4, 5]].tolist() == [1] * 4
    assert choice.weights[[2, 3]].tolist() == [0, 0]  # smaller keys than those that go, but a floor keeps them
    assert ((choice.weights[6:] > 0) & (choice.weights[6:] < 1)).all()
    passed = Controller(
        additive([2.0] * 40 + [0.75] * 20 + [0.25] * 20), {"macs": 0.985}, torch.zeros(80, dtype=torch.long)
    )
    weights = passed.choose(torch.arange(1.0, 81.0), torch.ones(80), none(80), passed.limits, 1.0, 0.0).weights
    assert weights.nonzero()[0] == 40  # and none of those passed over
    assert weights[[40, 41]].tolist() == [1, 1]


def test_zeros_are_admitted_by_their_keys_and_never_past_the_limit():
    controller = Controller(additive([1] * 10), {"macs": 0.7}, torch.zeros(10, dtype=torch.long))
    keys = torch.arange(10.0).flip(0)
    dying = torch.ones(10, dtype=torch.bool)
    assert controller.admit(dying, keys, none(10)).nonzero().flatten().tolist() == [7, 8, 9]


def test_fixed_groups_and_floors_hold():
    layer = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    fixed = torch.tensor([True] + [False] * 7)
    controller = Controller(additive([1] * 8), {"macs": 0.01}, layer, min_keep_ratio=0.5, fixed=fixed)
    gone = controller.smallest()
    assert not gone[0]
    assert [int(gone[:4].sum()), int(gone[4:].sum())] == [2, 2]


def test_several_limits_hold_at_once():
    costs, weights = torch.tensor([4.0, 1, 1, 4]), torch.tensor([1.0, 4, 4, 1])

    def size(dead):
        return {
            "macs": float(costs[~dead].sum() / costs.sum()),
            "params": float(weights[~dead].sum() / weights.sum()),
        }

    controller = Controller(size, {"macs": 0.61, "params": 0.61}, torch.zeros(4, dtype=torch.long))
    chosen = controller.project(torch.arange(4.0), none(4))
    assert size(chosen)["macs"] <= 0.61
    assert size(chosen)["params"] <= 0.61


def test_a_latency_is_a_share_and_milliseconds_have_their_own_name():
    with pytest.raises(ValueError, match=r"latency must be a share .* got 2\.0; for milliseconds give latency_ms=2\.0"):
        Limits(latency=2.0)
    with pytest.raises(ValueError, match="latency_ms must be milliseconds above 0, got -1"):
        Limits(latency_ms=-1)


@pytest.mark.parametrize("value", [0, -0.5, math.inf, math.nan, "half", True])
def test_limits_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="macs must be a share"):
        Limits(macs=value)


def test_no_limit_is_refused():
    with pytest.raises(ValueError, match="at least one of macs, params, latency and latency_ms"):
        Limits()


def test_shares_and_numbers():
    assert Limits(macs=0.5, params=50.0).shares({"macs": 10, "params": 100}) == {"macs": 0.5, "params": 0.5}
    assert Limits(latency_ms=0.8).shares({"latency": 0.0016}) == {"latency": 0.5}
    assert Limits(latency=0.4, latency_ms=0.8).shares({"latency": 0.0016}) == {"latency": 0.4}
    assert Limits.of({"latency_ms": 0.8}) == Limits(latency_ms=0.8)


def test_where_a_step_overshoots_others_of_larger_keys_stay():
    # The first layer costs the same until 4 of its 8 channels are gone: half of the network at once.
    layer = torch.tensor([0] * 8 + [1] * 50)

    def size(dead):
        left = int((~dead[:8]).sum())
        return {"latency": 0.5 * (1.0 if left > 4 else 0.1) + 0.01 * float((~dead[8:]).sum())}

    keys = torch.cat([torch.tensor([0.1, 0.2, 0.3, 0.9, 9, 9, 9, 9]), torch.linspace(0, 1, 50)]).double()
    controller = Controller(size, {"latency": 0.5}, layer)
    chosen = controller.ahead(keys, none(58), controller.limits)
    assert chosen[:4].all()
    assert size(chosen)["latency"] == pytest.approx(0.5)
    assert chosen[8:].nonzero().flatten().tolist() == list(range(5))  # without the step it would take fifty
    # On the way, too, nothing goes that may stay in the end.
    for share in (0.9, 0.7, 0.55):
        choice = controller.choose(keys, torch.ones(58), none(58), {"latency": share}, 1.0, 0.0)
        assert not ((choice.weights == 1) & ~chosen).any()


@pytest.mark.parametrize("stepped", [False, True])
def test_channels_that_save_nothing_beside_the_others_stay(stepped):
    # Each layer gets faster where eight channels are gone, and hardly between.
    layer = torch.tensor([0] * 16 + [1] * 16)

    def size(dead):
        gone = torch.bincount(layer[dead], minlength=2).tolist()
        return {"latency": 1 - sum(0.24 * (n // 8) + 0.0002 * n for n in gone)}

    keys = torch.cat([torch.linspace(0, 1.2, 16), torch.linspace(0.05, 2.4, 16)]).double()
    controller = Controller(size, {"latency": 0.7585}, layer, stepped=stepped)
    chosen = controller.ahead(keys, none(32), controller.limits)
    assert size(chosen)["latency"] <= 0.7585
    assert torch.bincount(layer[chosen], minlength=2).tolist() == ([8, 0] if stepped else [8, 4])
