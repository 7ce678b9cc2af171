"""What looks at a network leaves it as it was: attributes, containers, hooks, closures, caches, numbers."""

import contextlib
import copy
import functools
from collections import deque

import pytest
import torch
from patterns import PATTERNS
from torch import nn
from torch.nn import functional as F
from whole_state import differences, whole_state

from ssl_prune import cost, slim
from ssl_prune.errors import GraphError
from ssl_prune.graph import trace
from ssl_prune.latency import latency


class Changing(nn.Module):
    """Convolutions around something that the forward writes into."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            self.a.weight[:3] = 0
            self.a.bias[:3] = 0
        self.set_up()

    def set_up(self):
        pass

    def between(self, h):
        return h

    def forward(self, x):
        return self.b(self.between(F.relu(self.a(x))))


class Containers(Changing):
    def set_up(self):
        self.heads, self.seen, self.recent, self.names = [None], {"deep": [{}]}, deque(maxlen=2), set()

    def between(self, h):
        self.heads[0] = h
        self.seen["deep"][0]["h"] = h
        self.recent.append(h)
        self.names.add(h.shape[1])
        self.last = h
        return h


class Closure(Changing):
    def set_up(self):
        seen, count = {}, 0

        def keep(module, inputs, output):
            nonlocal count
            count += 1
            seen["a"] = output

        self.a.register_forward_hook(keep)


class FirstCall(Changing):
    def set_up(self):
        self.ready, self.seen = False, []

    def forward(self, x):
        if not self.ready:
            self.a.register_forward_hook(lambda module, inputs, output: self.seen.append(output))
            self.ready = True
        self.seen = []
        self.a(x)
        return self.b(F.relu(torch.cat(self.seen, 1)))


class DataDependent(Changing):
    """Scales that the first batch sets, as ActNorm has them."""

    def set_up(self):
        self.scale, self.shift, self.ready = nn.Parameter(torch.ones(8, 1, 1)), nn.Parameter(torch.ones(8, 1, 1)), False

    def between(self, h):
        if not self.ready:
            with torch.no_grad():
                self.scale.mul_(2)
                self.shift.data = torch.zeros_like(self.shift)
            self.ready = True
        return h * self.scale + self.shift


class InPlace(Changing):
    def set_up(self):
        self.memory, self.generator = [torch.zeros(1, 8, 1, 1)], torch.Generator()

    def between(self, h):
        self.memory[0].add_(1)
        torch.rand(1, generator=self.generator)
        return h * 2


class Holder:
    def __init__(self):
        self.values = []


class Objects(Changing):
    def set_up(self):
        self.holder = Holder()

    def between(self, h):
        self.holder.values.append(h)
        self.holder.last = h
        return h


class OfTheClass(Changing):
    cache = {}  # noqa: RUF012 - the case

    def between(self, h):
        if h.shape[-1] not in self.cache:
            self.cache[h.shape[-1]] = torch.ones(h.shape[-1])
        return h * self.cache[h.shape[-1]]


_GLOBAL = {}


@functools.lru_cache(maxsize=8)
def _ones(size):
    return torch.ones(size)


class OfTheFile(Changing):
    def between(self, h):
        if "ones" not in _GLOBAL:
            _GLOBAL["ones"] = torch.ones(h.shape[-1])
        return h * _GLOBAL["ones"] * _ones(h.shape[-1])


CHANGING = [Containers, Closure, FirstCall, DataDependent, InPlace, Objects, OfTheClass, OfTheFile]
LOOKS = {
    "trace": trace,
    "cost": cost,
    "cost of shapes": functools.partial(cost, run=False),
    "latency": functools.partial(latency, rounds=1, warmup=1),
    "slim": slim,
}


@pytest.mark.parametrize("called", [False, True], ids=["new", "called"])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", CHANGING)
def test_a_network_that_changes_itself_is_left_as_it_was(kind, look, called):
    _GLOBAL.clear()
    kind.cache = {}
    net, x = kind().eval(), torch.randn(2, 3, 6, 6)
    if called:
        net(x)
    before = whole_state(net)
    LOOKS[look](net, x)
    assert differences(before, whole_state(net)) == []
    assert not _GLOBAL or called
    assert net(x).shape == copy.deepcopy(kind())(x).shape


@pytest.mark.parametrize("called", [False, True], ids=["new", "called"])
@pytest.mark.parametrize("kind", CHANGING)
def test_a_network_that_changes_itself_is_cut(kind, called):
    net, x = kind().eval(), torch.randn(2, 3, 6, 6)
    if called:
        net(x)
    slimmer = slim(net, x).model
    if called or kind is not DataDependent:  # which writes into its parameters at the first call
        assert slimmer.a.weight.shape[0] == 5
    torch.testing.assert_close(slimmer(x), net(x))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.first], ids=lambda p: p.name)
def test_looking_at_a_network_changes_nothing_in_it(pattern):
    net, inputs = pattern.build()
    before = whole_state(net)
    for look in (trace, cost, functools.partial(cost, run=False)):
        with contextlib.suppress(GraphError, RuntimeError):  # a refusal leaves it as it was too
            look(net, inputs)
    assert differences(before, whole_state(net)) == []
