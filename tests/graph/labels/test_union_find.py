import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from ssl_prune.graph.labels.union_find import PINNED, WILDCARD, UnionFind

SIZE = 12
labels = st.integers(min_value=-1, max_value=SIZE)
rounds = st.lists(st.lists(st.tuples(labels, labels), max_size=8), max_size=5)


class Looks(TorchFunctionMode):
    """Counts how often all labels are compared with those above them."""

    number = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.equal
        return func(*args, **(kwargs or {}))


class Naive:
    """The same by relabelling a list."""

    def __init__(self):
        self.root = list(range(SIZE + 1))

    def unite(self, a, b):
        if a < 0 or b < 0:
            return
        low, high = sorted((self.root[a], self.root[b]))
        self.root = [low if r == high else r for r in self.root]


def fresh():
    sets = UnionFind()
    assert sets.new(SIZE).tolist() == list(range(1, SIZE + 1))
    return sets


@settings(max_examples=100)
@given(rounds)
def test_equals_a_naive_implementation(script):
    sets, naive = fresh(), Naive()
    for pairs in script:
        first, second = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
        sets.unite(first, second)
        for a, b in pairs:
            naive.unite(a, b)
        assert sets.find(torch.arange(SIZE + 1)).tolist() == naive.root


def test_the_smallest_label_is_the_root_along_a_chain_united_backward():
    sets = fresh()
    chain = torch.arange(1, SIZE + 1)
    sets.unite(chain[1:].flip(0), chain[:-1].flip(0))
    assert sets.find(chain).tolist() == [1] * SIZE


def test_one_label_that_meets_many_in_one_call_joins_them_all():
    sets = fresh()
    sets.unite(torch.full((4,), 9), torch.tensor([8, 3, 5, 7]))
    assert sets.find(torch.tensor([3, 5, 7, 8, 9])).tolist() == [3] * 5


def test_wildcards_join_nothing_and_stay():
    sets = fresh()
    sets.unite(torch.tensor([WILDCARD, 1]), torch.tensor([2, WILDCARD]))
    assert sets.find(torch.tensor([1, 2, WILDCARD])).tolist() == [1, 2, WILDCARD]


def test_pinned_swallows_what_joins_it_later():
    sets = fresh()
    sets.pin(torch.tensor([4]))
    sets.unite(torch.tensor([4]), torch.tensor([6]))
    assert sets.find(torch.tensor([4, 6, 5])).tolist() == [PINNED, PINNED, 5]


def test_shapes_broadcast():
    sets = fresh()
    sets.unite(torch.tensor([[1], [2]]), torch.tensor([[3, 4], [5, 6]]))
    assert sets.find(torch.tensor([[3, 4], [5, 6]])).tolist() == [[1, 1], [2, 2]]


def test_new_labels_after_a_union_are_alone():
    sets = fresh()
    sets.unite(torch.tensor([1]), torch.tensor([SIZE]))
    assert sets.find(sets.new(2)).tolist() == [SIZE + 1, SIZE + 2]


def test_empty_requests():
    sets = fresh()
    nothing = torch.zeros(0, dtype=torch.long)
    sets.unite(nothing, nothing)
    sets.pin(nothing)
    assert sets.find(nothing).shape == (0,)
    assert sets.new(0).shape == (0,)


def test_a_long_path_is_followed_once():
    """Layers registered in reverse are united from the last label to the first."""
    sets = fresh()
    with Looks() as looks:
        for label in range(SIZE, 1, -1):
            sets.unite(torch.tensor([label]), torch.tensor([label - 1]))
        assert sets.find(torch.arange(1, SIZE + 1)).tolist() == [1] * SIZE
        deep, looks.number = looks.number, 0
        sets.find(torch.arange(1, SIZE + 1))
    assert deep > looks.number == 1


def test_how_a_label_was_pinned_outlives_the_paths():
    """Labels 2 and 3 were one set, and 5 another, when they met label 0."""
    sets = fresh()
    sets.unite(torch.tensor([3]), torch.tensor([2]))
    sets.pin(torch.tensor([5]))
    sets.pin(torch.tensor([3]))
    gone = torch.tensor([2, 3, 5])
    assert sets.find(gone).tolist() == [PINNED] * 3
    assert sets.before_pinned(gone).tolist() == [2, 2, 5]
