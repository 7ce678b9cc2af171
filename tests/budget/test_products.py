"""Sums of products of counts."""

import pytest
import torch

from ssl_prune.sizes.products import Products

UNITS = 12


def drawn(seed):
    """Some products of one to three sets, and what they are by a loop."""
    generator = torch.Generator().manual_seed(seed)
    products, terms = Products(UNITS), []
    for wide in (1, 2, 3, 0):
        scale = float(torch.randint(1, 9, (1,), generator=generator))
        sets = [torch.randint(-1, UNITS, (5,), generator=generator) for _ in range(wide)]
        products.add(scale, sets, owner=f"layer{wide}")
        terms.append((scale, sets))
    return products, terms, torch.rand(UNITS, generator=generator) < 0.6


def by_hand(terms, alive):
    total = 0.0
    for scale, sets in terms:
        for units in sets:
            scale *= sum(1 for unit in units.tolist() if unit < 0 or alive[unit])
        total += scale
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_is_that_of_a_loop(seed):
    products, terms, alive = drawn(seed)
    assert products.total(alive) == by_hand(terms, alive)
    assert products.total(alive, {"layer2"}) == by_hand([*terms[:1], *terms[2:]], alive)


@pytest.mark.parametrize("seed", range(5))
def test_each_is_the_derivative_by_the_count(seed):
    products, terms, alive = drawn(seed)
    found = products.each(alive)
    for unit in range(UNITS):
        wanted = 0.0
        for scale, sets in terms:
            counts = [sum(1 for u in units.tolist() if u < 0 or alive[u]) for units in sets]
            for place, units in enumerate(sets):
                others = torch.tensor([scale, *counts[:place], *counts[place + 1 :]]).prod()
                wanted += float(others) * int((units == unit).sum()) * bool(alive[unit])
        assert found[unit] == pytest.approx(wanted)


def test_a_group_counts_what_it_keeps_and_a_dead_one_nothing():
    products = Products(8)
    products.add(1.0, [torch.tensor([6, 7]), torch.arange(6)], groups=3)
    assert products.total(torch.ones(8, dtype=torch.bool)) == 2 * 2
    alive = torch.tensor([True, False, False, True, False, False, True, True])  # one of two in two of three groups
    assert products.total(alive) == 2 * 1


def test_widths_count_as_the_next_multiple_and_no_more_than_there_are():
    products = Products(10, round_to=4)
    products.add(1.0, [torch.arange(10)])
    for left, expected in ((10, 10), (9, 10), (8, 8), (5, 8), (1, 4), (0, 0)):
        assert products.total(torch.arange(10) < left) == expected


def test_nothing_sums_to_nothing():
    assert Products(3).total(torch.ones(3, dtype=torch.bool)) == 0
    assert not Products(3).each(torch.ones(3, dtype=torch.bool)).any()
