import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_prune.data.split import stratified_order, validation_count


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 1000))
def test_every_beginning_has_the_shares_of_the_whole(classes, seed):
    labels = torch.tensor(classes)
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(classes)))
    share = labels.bincount() / len(labels)
    for k in range(1, len(classes) + 1):
        counts = labels[order[:k]].bincount(minlength=len(share))
        # Classes that stand at the same place come one after the other, so one image a class is the best there is.
        assert ((counts - k * share).abs() <= len(share)).all()


def test_balanced_classes_are_dealt_in_turns():
    labels = torch.arange(10).repeat(6)
    assert labels[stratified_order(labels, 3)].view(6, 10).tolist() == [list(range(10))] * 6


def test_the_order_depends_on_the_seed_alone():
    labels = torch.arange(200) % 10
    torch.manual_seed(1)
    first = stratified_order(labels, 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(stratified_order(labels, 0), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(stratified_order(labels, 1), first)


def test_counts_and_shares():
    assert validation_count(0, 100) == 0
    assert validation_count(0.0, 100) == 0
    assert validation_count(1, 100) == 1
    assert validation_count(0.25, 100) == 25


@pytest.mark.parametrize("validation", [100, -1, 1.0, -0.1])
def test_nothing_left_to_train_on_is_refused(validation):
    with pytest.raises(ValueError, match=f"validation is {validation}, which is .* of 100 images"):
        validation_count(validation, 100)
