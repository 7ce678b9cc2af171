"""What the graph says about layers: shortcuts, normalisations, writers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ssl_prune.graph import trace
from ssl_prune.models import ResNet


class Cat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(5, 1, 1)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x):
        return self.c(self.norm(torch.cat([self.a(x), self.b(x)], 1)))


@pytest.fixture(scope="module")
def resnet():
    return trace(ResNet(blocks=(1, 1), widths=(4, 8), image_size=8), torch.randn(2, 3, 8, 8))


@pytest.fixture(scope="module")
def cat():
    return trace(Cat(), torch.randn(2, 3, 4, 4))


def test_bypassed_are_the_layers_inside_blocks(resnet):
    # The projection is bypassed too: without it the block's own branch still carries the input.
    assert set(resnet.bypassed) == {
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer2.0.shortcut.0",
    }


def test_a_chain_bypasses_nothing():
    assert trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(1, 2)).bypassed == ()


def test_followers_are_norms_right_after(resnet, cat):
    assert resnet.followers["conv1"] == ("bn1",)
    assert resnet.followers["layer2.0.shortcut.0"] == ("layer2.0.shortcut.1",)
    assert resnet.followers["fc"] == ()
    assert cat.followers == {"a": (), "b": (), "c": ()}  # the norm reads the concatenation, not one of them


def test_the_length_of_a_vector_is_no_norm():
    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)

        def forward(self, x):
            y = self.a(x)
            return self.norm(y) + y / torch.linalg.vector_norm(y)

    assert trace(Unit(), torch.randn(2, 3)).followers == {"a": ("norm",)}


def test_unit_layer_is_the_first_writer(resnet, cat):
    assert (
        resnet.unit_layer
        == ("conv1",) * 4 + ("layer1.0.conv1",) * 4 + ("layer2.0.conv1",) * 8 + ("layer2.0.conv2",) * 8
    )
    assert cat.unit_layer == ("a", "a", "b", "b", "b")
    for graph in (resnet, cat):
        assert len(graph.unit_layer) == graph.num_units


class Once(tuple):
    """Counts how often it is gone through."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()


def test_layers_are_looked_up_without_a_search(resnet):
    graph = replace(resnet, readers=Once(resnet.readers))
    assert [graph.layers_at[reader.node] for reader in resnet.readers] == list(resnet.readers)
    assert all(graph.layers_at[node].node is node for node in graph.layers_at)
    assert graph.readers.times == 1


def test_units_that_no_contraction_writes_are_their_tables():
    graph = trace(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3), nn.Linear(3, 2)), torch.arange(5))
    assert graph.unit_layer == ("0",) * 4 + ("1",) * 3


def test_the_stage_is_one_set_of_units(resnet):
    units = {(a.name, a.axis): a.units.tolist() for a in resnet.axes}
    assert units["conv1.weight", 0] == units["layer1.0.conv2.weight", 0] == units["layer2.0.shortcut.0.weight", 1]
    assert units["layer2.0.conv2.weight", 0] == units["layer2.0.shortcut.0.weight", 0] == units["fc.weight", 1]
