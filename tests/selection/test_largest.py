"""Exactly k, against sorting by hand; ties by the seed and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_prune.selection import KeepRules, largest
from ssl_prune.selection.largest import tie_keys

VALUES = st.lists(st.sampled_from([0.0, -0.0, 1.0, -2.5, float("inf"), -float("inf"), 1e-40]), min_size=1, max_size=30)


@settings(derandomize=True)
@given(VALUES, st.floats(0, 1), st.integers(-(2**63), 2**63))
def test_it_is_what_sorting_by_score_and_draw_gives(values: list[float], share: float, seed: int) -> None:
    k, draws = round(share * len(values)), tie_keys(torch.arange(len(values)), seed).tolist()
    by_hand = sorted(range(len(values)), key=lambda i: (-values[i], draws[i]))[:k]
    chosen = largest(torch.tensor(values, dtype=torch.float64), k, seed)
    assert chosen.nonzero().flatten().tolist() == sorted(by_hand)


def test_all_equal_scores_are_drawn_evenly_and_otherwise_for_each_seed() -> None:
    drawn = torch.stack([largest(torch.zeros(40), 10, seed) for seed in range(2000)])
    assert (drawn.sum(1) == 10).all()
    assert ((drawn.double().mean(0) - 0.25).abs() < 0.05).all()
    assert len({tuple(row) for row in drawn.tolist()}) > 1990
    pairs = (drawn[:, 0] & drawn[:, 1]).double().mean()
    assert pairs.item() == pytest.approx(10 / 40 * 9 / 39, abs=0.025)  # neighbours are drawn apart


def test_draws_are_the_same_everywhere() -> None:
    assert tie_keys(torch.arange(3), 7).tolist() == [-4925830936379494313, 6628311596364162464, -1292241356558944997]
    assert len(set(tie_keys(torch.arange(100_000), 7).tolist())) == 100_000
    if torch.cuda.is_available():
        scores = torch.randint(9, (1000,))
        assert torch.equal(largest(scores, 300, 7), largest(scores.cuda(), 300, 7).cpu())


def test_the_shape_stays_and_nothing_is_counted_twice() -> None:
    scores = torch.tensor([[1.0, 1.0], [0.0, 3.0]], requires_grad=True)
    assert largest(scores, 3).tolist() == [[True, True], [False, True]]
    assert largest(scores, 0).sum() == 0
    assert largest(scores, 4).all()
    assert largest(scores.half(), 1).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("k", [-1, 5, 1.5, "1", True])
def test_a_number_that_there_is_not_is_refused(k: object) -> None:
    with pytest.raises(ValueError, match=f"k must be from 0 to the 4 entries that there are, got {k!r}"):
        largest(torch.zeros(2, 2), k)  # type: ignore[arg-type]


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores must be a tensor.*got \[3.0, 1.0\]"):
        largest([3.0, 1.0], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the score of entry 1 is NaN"):
        largest(torch.tensor([1.0, float("nan")]), 1)


@settings(derandomize=True, max_examples=60)
@given(st.data(), st.integers(0, 100), st.floats(0, 0.6))
def test_floors_and_blocks_hold_and_ties_are_drawn(data: st.DataObject, seed: int, floor: float) -> None:
    widths = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    layer = torch.arange(len(widths)).repeat_interleave(widths)
    scores = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=len(layer), max_size=len(layer)))
    )
    rules = KeepRules(layer, min_keep_ratio=floor)
    for k in range(int(rules.least.sum()), len(layer) + 1):
        stays = rules.keep(scores, k, seed)
        counts = torch.bincount(layer[stays], minlength=len(widths))
        assert int(stays.sum()) == k
        assert (counts >= rules.least).all()
        # Nothing that went is worth more than something that stays, unless a floor keeps it.
        spare = stays & (counts > rules.least)[layer]
        if bool(spare.any()) and not bool(stays.all()):
            assert scores[~stays].max() <= scores[spare].min()
    with pytest.raises(ValueError, match="groups cannot stay"):
        rules.keep(scores, int(rules.least.sum()) - 1, seed)


def test_equal_scores_go_from_all_layers_alike() -> None:
    layer = torch.arange(4).repeat_interleave(50)
    gone = torch.stack([layer[~KeepRules(layer).keep(torch.zeros(200), 100, seed)] for seed in range(20)])
    assert torch.bincount(gone.flatten(), minlength=4).tolist() == pytest.approx([500] * 4, abs=60)


def test_blocks_leave_multiples_or_say_what_they_leave() -> None:
    rules = KeepRules(torch.tensor([0] * 8 + [1] * 6), block=torch.tensor([4, 4]))
    scores = torch.arange(14.0)
    assert rules.keep(scores, 10).nonzero().flatten().tolist() == [4, 5, 6, 7, *range(8, 14)]
    with pytest.raises(ValueError, match=r"9 of the 14 groups cannot stay: .* next to it (8|10)"):
        rules.keep(scores, 9)
