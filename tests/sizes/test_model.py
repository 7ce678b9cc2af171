"""Sizes without a cut are those of the cut network."""

import pytest
import torch
import torch.nn.functional as F
from patterns import PATTERNS

from ssl_prune import models, slim
from ssl_prune.budget import SizeModel, indivisible
from ssl_prune.costs import cost
from ssl_prune.errors import GraphError
from ssl_prune.graph import trace
from ssl_prune.groups import partition
from ssl_prune.sizes.remaining import remaining

DEEP = {"ResNet32", "ResNet56", "MobileNetV1", "MobileNetV2"}
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name
    for name in models.__all__
    if name not in ("ImageClassifier", "ResNet")
]
SOME = [
    pattern if place % 2 == 0 else pytest.param(pattern, marks=pytest.mark.slow)
    for place, pattern in enumerate([p for p in PATTERNS if p.first][3::7])
]


def killed(parts, dead):
    """Set the dead groups to zero."""
    parts.groups.scale_((~dead).to(parts.groups.dtype))


@pytest.mark.parametrize("name", NAMES)
def test_the_dense_size_is_what_a_network_costs(name):
    net = getattr(models, name)().eval()
    x = torch.zeros(1, *net.input_shape)
    sizes, expected = SizeModel(trace(net, x), net), cost(net, x)
    assert sizes.dense == {"macs": expected.macs, "params": expected.params}


@pytest.mark.parametrize("pattern", PATTERNS[4::9], ids=lambda pattern: pattern.name)
def test_the_dense_size_is_what_a_pattern_costs(pattern):
    net, x = pattern.build()
    try:
        graph = trace(net, x)
    except GraphError as error:
        pytest.skip(f"no graph: {error}")
    if graph.refusal is not None:
        pytest.skip(f"no program: {graph.refusal}")
    expected = cost(net, x)
    assert SizeModel(graph, net).dense == {"macs": expected.macs, "params": expected.params}


class Product(torch.nn.Module):
    """Two layers, and between them what is multiplied with the channels of the first one."""

    def __init__(self, between, width=32):
        super().__init__()
        self.a, self.b, self.between = torch.nn.Linear(5, width), torch.nn.Linear(width, 4), between
        self.register_buffer("matrix", torch.rand(6, 6))

    def forward(self, x):
        return self.b(self.between(self, torch.relu(self.a(x)), x.mean(-1, keepdim=True)))


PRODUCTS = {  # what is multiplied, and what of it falls with the channels: 6 positions of 32 channels
    "a buffer by the input": (lambda s, h, x: h + (s.matrix @ x), 0),
    "a matrix by the channels": (lambda s, h, x: torch.matmul(s.matrix * x, h), 1),
    "one value three times": (lambda s, h, x: h + F.scaled_dot_product_attention(h, h, h, scale=0.2), 2),
    "values alone": (lambda s, h, x: F.scaled_dot_product_attention(x, x, h), 1),
    "a single head, written": (lambda s, h, x: (h @ h.mT * 0.2).softmax(-1) @ h, 2),
}  # fmt: skip


@pytest.mark.parametrize("dead", [0, 5, 31])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_values_falls_with_its_channels(name, dead):
    between, products = PRODUCTS[name]
    net, x = Product(between).eval(), torch.randn(1, 6, 5)
    graph = trace(net, x)
    sizes = SizeModel(graph, net)
    assert sizes.dense == {"macs": (expected := cost(net, x)).macs, "params": expected.params}
    (written,) = [a.units for a in graph.axes if (a.name, a.axis) == ("a.weight", 0)]
    gone = torch.zeros(graph.num_units, dtype=torch.bool)
    gone[written[:dead]] = True
    fell = sizes.dense["macs"] - sizes(gone)["macs"]
    assert fell == dead * (6 * 5 + 6 * 4 + products * 6 * 6)


@pytest.mark.parametrize("pattern", SOME, ids=lambda pattern: pattern.name)
def test_a_size_is_that_of_a_cut_pattern_or_something_is_said_to_be_kept(pattern):
    net, x = pattern.build()
    try:
        graph = trace(net, x)
        groups = partition(net, "coupled", graph=graph)
    except (GraphError, ValueError) as error:
        pytest.skip(f"no groups: {error}")
    if graph.refusal is not None:
        pytest.skip(f"no program: {graph.refusal}")
    parts = indivisible(graph, groups)
    with torch.no_grad():
        for p in net.parameters():
            p[p == 0] = 0.1  # only what the test kills
    dead = (torch.rand(len(parts.fixed), generator=torch.Generator().manual_seed(0)) < 0.4) & ~parts.fixed
    for layer in parts.groups.layer.unique():
        dead[(parts.groups.layer == layer).nonzero()[0]] = False
    planned, sizes = parts.dead_units(dead), SizeModel(graph, net)
    killed(parts, dead)
    result = slim(net, x)
    got = cost(result.model, x)
    if torch.equal(planned, result.dead):
        assert {"macs": got.macs, "params": got.params} == sizes(planned)
    elif bool((planned & ~result.dead).any()):
        assert result.report.kept or result.report.refused


def test_the_channels_that_a_transposed_convolution_of_groups_writes_stay():
    """Of its weight no group has what writes one of them alone, so to set a group to zero would not be to remove it."""
    net, x = Shuffled().eval(), torch.randn(1, 3, 5, 5)
    graph = trace(net, x)
    parts = indivisible(graph, partition(net, "coupled", graph=graph))
    own = [parts.groups.layers[i] == "4" for i in parts.groups.layer.tolist()]
    assert parts.fixed.tolist() == own
    assert any(own)


WRITTEN_OUT = (
    "hidden_units_of_experts-einsum", "hidden_units_of_experts-gated", "layers_that_are_an_addmm-zero",
    "selective_state_space-inner", "messages_between_nodes-index_add",
)  # fmt: skip


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.name in WRITTEN_OUT], ids=lambda p: p.name)
def test_products_written_as_code_count_like_layers(pattern):
    net, x = pattern.build()
    graph = trace(net, x)
    expected = cost(net, x)
    assert SizeModel(graph, net).dense == {"macs": expected.macs, "params": expected.params}
    left, small = remaining(graph, net, x), slim(net, x, graph=graph).model
    assert left.macs[1] == cost(small, x).macs


class Shuffled(torch.nn.Sequential):
    """A convolution of groups between two others, and a transposed one."""

    def __init__(self):
        super().__init__(
            torch.nn.Conv2d(3, 12, 1), torch.nn.ReLU(), torch.nn.Conv2d(12, 9, 3, groups=3), torch.nn.ReLU(),
            torch.nn.ConvTranspose2d(9, 6, 2, groups=3), torch.nn.ReLU(), torch.nn.Conv2d(6, 2, 1),
        )  # fmt: skip


@pytest.mark.parametrize("groups", [0, 1, 2])
def test_a_group_that_goes_takes_all_of_its_channels_along(groups):
    net, x = Shuffled().eval(), torch.randn(1, 3, 5, 5)
    graph = trace(net, x)
    with torch.no_grad():
        for layer, each in ((net[0], 4), (net[2], 3)):
            layer.weight[: groups * each], layer.bias[: groups * each] = 0, 0
        net[4].weight[: groups * 3], net[4].bias[: groups * 2] = 0, 0
    left, result = remaining(graph, net, x), slim(net, x)
    got = cost(result.model, x)
    assert (left.macs[1], left.params[1]) == (got.macs, got.params)
    assert result.model[2].groups == 3 - groups


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_size_is_that_of_the_cut_network(network, seed):
    net, x = network
    graph = trace(net, x)
    parts, sizes = indivisible(graph, partition(net, "coupled", graph=graph)), SizeModel(graph, net)
    generator = torch.Generator().manual_seed(seed)
    dead = (torch.rand(parts.groups.num_groups, generator=generator) < 0.4) & ~parts.fixed
    for layer in parts.groups.layer.unique():  # no layer goes as a whole
        dead[(parts.groups.layer == layer).nonzero()[0]] = False
    expected = sizes(parts.dead_units(dead))
    killed(parts, dead)
    result = slim(net, x)
    got = cost(result.model, x)
    assert {"macs": got.macs, "params": got.params} == expected
    assert got.macs < sizes.dense["macs"]


@pytest.mark.parametrize("network", ["lenet", "resnet", "mobilenet"], indirect=True)
def test_savings_are_differences_of_sizes(network):
    net, x = network
    graph = trace(net, x)
    sizes = SizeModel(graph, net)
    assert not graph.arrays  # every unit may go alone
    assert not graph.equal
    dead = torch.zeros(graph.num_units, dtype=torch.bool)
    dead[::3] = True
    savings, before = sizes.savings(dead), sizes(dead)
    for unit in (1, graph.num_units // 2, graph.num_units - 1):
        if dead[unit]:
            continue
        more = dead.clone()
        more[unit] = True
        after = sizes(more)
        # A layer that the unit writes and reads is counted from both sides.
        for kind in ("macs", "params"):
            assert savings[kind][unit].item() == pytest.approx(before[kind] - after[kind], rel=0.1)
    assert not savings["macs"][dead].any()


def test_widths_count_as_the_next_multiple():
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    x = torch.randn(1, 4)
    sizes = SizeModel(trace(net, x), net, round_to=8)
    counts = [sizes(torch.arange(16) < gone)["macs"] for gone in (0, 1, 7, 8, 9, 15)]
    assert counts == [96, 96, 96, 48, 48, 48]
