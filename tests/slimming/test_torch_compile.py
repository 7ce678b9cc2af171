"""Networks that `torch.compile` was told of: looked at as they are, and still compiled afterwards."""

import pytest
import torch
from torch import nn

from ssl_prune import cost, slim
from ssl_prune.graph import trace
from ssl_prune.utils.copies import copied

WAYS = ["in place", "wrapped"]
pytestmark = pytest.mark.filterwarnings("ignore:Using `torch.compile.module.` when there are global hooks")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x)))).flatten(1)


def network():
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        for values in (net.first.weight, net.first.bias, net.norm.bias):
            values[2] = 0
    return net


class Compiled:
    """A network compiled by a backend that counts."""

    def __init__(self, way):
        torch.compiler.reset()
        self.plain, self.compiled, self.ran = network(), 0, 0
        self.net = self.plain
        if way == "wrapped":
            self.net = torch.compile(self.plain, backend=self._backend)
        else:
            self.plain.compile(backend=self._backend)

    def _backend(self, graph, inputs):
        self.compiled += 1

        def run(*values):
            self.ran += 1
            return graph.forward(*values)

        return run


@pytest.mark.parametrize("way", WAYS)
def test_what_is_cut_calls_its_own_weights(way):
    net, x = Compiled(way).net, torch.randn(2, 2, 7, 7)
    for other in (copied(net), slim(net, x).model):
        torch.testing.assert_close(other(x), network()(x))
        with torch.no_grad():
            for param in other.parameters():
                param.zero_()
        assert not other(x).any()
    torch.testing.assert_close(net(x), network()(x))


def test_a_module_that_says_what_is_copied():
    class Keeper(Net):
        def __getstate__(self):
            return dict(vars(self))

    net = Keeper().eval()
    net.compile(backend="eager")
    twin, x = copied(net), torch.randn(1, 2, 7, 7)
    with torch.no_grad():
        for param in twin.parameters():
            param.zero_()
    assert not twin(x).any()
    assert net(x).any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("look", [cost, trace, slim], ids=lambda look: look.__name__)
def test_a_look_compiles_nothing_and_leaves_the_network_compiled(way, look):
    both, x = Compiled(way), torch.randn(2, 2, 7, 7)
    look(both.net, x)
    assert (both.compiled, both.ran) == (0, 0)
    both.net(x)
    assert (both.compiled, both.ran) == (1, 1)
