"""Networks that return objects of any class, and walks of the second tracer that have no end."""

import dataclasses

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune.errors import GraphError
from ssl_prune.graph.fallback.tracer import by_autograd
from ssl_prune.groups import partition


class Cache:
    def __init__(self, key):
        self.key, self.length, self.owner = key, key.shape[0], self


@dataclasses.dataclass
class Result:
    value: torch.Tensor
    name: str = "result"


@dataclasses.dataclass(slots=True)
class Slotted:
    value: torch.Tensor


class Rotating(nn.Module):
    """Halves that change places: positions grow at each round of the walk."""

    def __init__(self, make):
        super().__init__()
        self.q, self.o, self.make = nn.Linear(5, 2), nn.Linear(2, 3), make

    def forward(self, x):
        t = self.q(x)
        half = t.shape[-1] // 2
        t = t + torch.cat([-t[..., half:], t[..., :half]], -1)
        return self.o(t), self.make(t)


class Returning(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.a, self.b, self.make = nn.Linear(4, 6), nn.Linear(6, 3), make
        with torch.no_grad():
            self.a.weight[:2] = 0
            self.a.bias[:2] = 0

    def forward(self, x):
        return self.make(self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize("make", [Cache, Result, Slotted, lambda y: {"deep": [Cache(y), "text"]}])
def test_an_object_that_is_returned_gives_its_tensors(make):
    result = slim(Returning(make), torch.randn(2, 4))
    assert result.report.tracer == "torch.export"
    assert result.model.a.out_features == 4
    assert type(result.model(torch.randn(2, 4))) is type(make(torch.zeros(2, 3)))


def test_a_returned_object_keeps_the_channels_that_it_holds():
    with pytest.raises(ValueError, match="no coupled groups"):
        partition(Rotating(Cache), "coupled", example_inputs=torch.randn(2, 5))


def test_a_walk_without_an_end_names_the_layer():
    with pytest.raises(GraphError, match=r"q: what its 2 channels meet has no end"):
        by_autograd(Rotating(lambda t: t), torch.randn(2, 5))
