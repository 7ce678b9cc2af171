"""Copies of networks are those that `copy.deepcopy` makes."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from ssl_prune.models import ResNet20
from ssl_prune.utils.copies import copied


class Linked(nn.Module):
    """Modules that know each other, outside of their lists of children too."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.order = [self.b, self.a]
        self.table = {"first": self.a, "numbers": [1, 2]}
        self.empty, self.kept = OrderedDict(), torch.ones(2)
        object.__setattr__(self.a, "owner", self)

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return x * self.kept.sum()


class Own(nn.Linear):
    def __deepcopy__(self, memo):
        twin = Own(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        twin.copied_by_itself = True
        return twin


NETWORKS = {
    "resnet": lambda: (ResNet20(), torch.randn(2, 3, 32, 32)),
    "lstm": lambda: (nn.LSTM(3, 4, 2), torch.randn(5, 2, 3)),
    "attention": lambda: (nn.TransformerEncoderLayer(8, 2, 16), torch.randn(5, 2, 8)),
    "parametrized": lambda: (
        nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.ReLU()),
        torch.randn(2, 3),
    ),
    "linked": lambda: (Linked(), torch.randn(2, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_copy_computes_the_same_and_shares_nothing(name):
    torch.manual_seed(0)
    net, x = NETWORKS[name]()
    net.eval()
    twin, reference = copied(net), copy.deepcopy(net)
    assert [(n, type(m)) for n, m in twin.named_modules()] == [(n, type(m)) for n, m in reference.named_modules()]
    assert [vars(m).keys() for m in twin.modules()] == [vars(m).keys() for m in reference.modules()]
    own = {id(t) for t in (*net.parameters(), *net.buffers())}
    assert not any(id(t) in own for t in (*twin.parameters(), *twin.buffers()))
    torch.testing.assert_close(twin(x), net(x))
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data.zero_()
    torch.testing.assert_close(net(x), reference(x))


def test_links_between_modules_lead_into_the_copy():
    net = Linked()
    twin = copied(net)
    assert twin.order[0] is twin.b
    assert twin.table["first"] is twin.a
    assert twin.a.owner is twin
    assert twin.kept is not net.kept
    twin.empty["x"] = 1
    twin.table["numbers"].append(3)
    assert not net.empty
    assert net.table["numbers"] == [1, 2]


def test_hooks_and_shared_modules_are_kept():
    shared, seen = nn.Linear(2, 2), []
    net = nn.Sequential(shared, nn.ReLU(), shared)
    shared.register_forward_hook(lambda *_: seen.append(1))
    twin = copied(net)
    assert twin[0] is twin[2]
    twin(torch.zeros(1, 2))
    assert len(seen) == 2
    twin[0].register_forward_hook(lambda *_: seen.append(1))
    assert len(shared._forward_hooks) == 1


def test_a_module_with_a_copy_of_its_own_makes_it():
    net = nn.Sequential(Own(2, 2))
    assert copied(net)[0].copied_by_itself


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_known_parts_stand_in_and_computed_tensors_are_copied():
    net = nn.Sequential(weight_norm(nn.Linear(2, 2)))
    net(torch.zeros(1, 2))
    new = nn.Parameter(torch.zeros(2))
    twin = copied(net, {id(net[0].bias): new})
    assert twin[0].bias is new
    assert not twin[0].weight.requires_grad
