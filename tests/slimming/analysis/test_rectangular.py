"""The nearest array, and what may take whose place in it."""

import torch

from ssl_prune.slimming.analysis.rectangular import box


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


def test_whole_slices_go_and_fibres_along_one_axis_may_differ():
    assert torch.equal(box(mask("xx..", "..xx")), mask("xx..", "..xx"))
    assert torch.equal(box(mask("x.", "x.")), mask("x.", "x."))


def test_fibres_along_an_outer_axis_differ_only_in_order():
    # Columns keep one each: closed up they are read 0, 1, as before ...
    assert torch.equal(box(mask("x..", ".x."), outer=[0], slices=[1]), mask("x..", ".x."))
    # ... but here what is left of the second column would come first.
    assert torch.equal(box(mask(".x", "x."), outer=[0], slices=[1]), mask("xx", "xx"))


def test_nothing_takes_the_place_of_another_head():
    heads = mask("xx..", "...x")
    assert torch.equal(box(heads), heads)  # three columns with one each
    assert torch.equal(box(heads, slices=[0]), mask("xx..", "x..x"))


def test_a_short_fibre_is_filled_where_the_others_have_entries():
    assert torch.equal(box(mask("..xx", "..x."), slices=[0]), mask("..xx", "..xx"))


def test_whole_slices_are_what_is_left_where_no_axis_is_free():
    assert torch.equal(box(mask("x..", ".x."), slices=[0, 1]), mask("xx.", "xx."))
