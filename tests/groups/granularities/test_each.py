"""Each granularity by its name, on one network: its groups are the sets of entries that are written here by hand."""

import pytest
import torch
from torch import nn

from ssl_prune.groups import GRANULARITIES, partition


class Net(nn.Module):
    """a (3 -> 2), then b + shortcut on these two, then c to the outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 2, bias=False), nn.Linear(2, 2), nn.Linear(2, 2, bias=False)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return self.c(y + self.b(y))


def entries(name, *index):
    return {(name, *index)}


def grid(name, rows, columns):
    return {(f"{name}.weight", row, column) for row in rows for column in columns}


SHAPES = {"a": (2, 3), "b": (2, 2), "c": (2, 2)}
HIDDEN, OUTPUTS = range(2), range(2)


def row(name, number):
    return grid(name, [number], range(SHAPES[name][1]))


def column(name, number):
    return grid(name, range(SHAPES[name][0]), [number])


EXPECTED = {
    "weight": [{entry} for name, (n, m) in SHAPES.items() for entry in sorted(grid(name, range(n), range(m)))],
    "filter": [row(name, unit) for name in "ab" for unit in HIDDEN],
    "channel": [column(name, unit) for name in "bc" for unit in HIDDEN],
    "shape": [column(name, position) for name, (_, m) in SHAPES.items() for position in range(m)],
    "depth": [row("b", 0) | row("b", 1) | {("b.bias", 0), ("b.bias", 1)}],
    "neuron": [column(name, position) for name, (_, m) in SHAPES.items() for position in range(m)],
    "coupled": [row("a", unit) | row("b", unit) | {("b.bias", unit)} for unit in HIDDEN],
}


def found(groups):
    """The entries that each group alone leaves when all others are set to zero."""
    sets = []
    for group in range(groups.num_groups):
        laid = groups.expand(torch.arange(groups.num_groups) == group, fill=False)
        sets.append(
            {
                (member.name, *index)
                for member, here in zip(groups.members, laid, strict=True)
                for index in here.expand(member.param.shape).nonzero().tolist()
            }
        )
    return sets


@pytest.mark.parametrize("name", GRANULARITIES)
def test_groups(name):
    net = Net()
    groups = partition(net, name, example_inputs=torch.randn(4, 3))
    assert sorted(map(sorted, found(groups))) == sorted(map(sorted, EXPECTED[name]))
    assert groups.sizes.tolist() == [len(group) for group in found(groups)]


def test_every_granularity_has_a_case():
    assert set(EXPECTED) == set(GRANULARITIES)
