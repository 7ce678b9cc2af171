"""Multiply-accumulates by shapes are those of a run."""

import pytest
import torch
import torch.nn.functional as F
from patterns import PATTERNS, Pattern
from torch import nn

from ssl_prune import cost, models
from ssl_prune.errors import GraphError
from ssl_prune.graph.export.example_sizes import with_example_sizes
from ssl_prune.graph.export.macs import macs, program_macs
from ssl_prune.graph.export.program import export, module_of
from ssl_prune.graph.rules import has_rule

NETWORKS = [name for name in models.__all__ if name not in ("ImageClassifier", "ResNet")]
# A result that nothing uses is computed by a run, but not in the program.
UNUSED = {"head_of_zeros_at_the_start"}


class Products(nn.Module):
    """A function of the input and of parameters of some shapes."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])

    def forward(self, x):
        return self.function(x, *self.weights)


def einsum(equation, *shapes):
    return Products(lambda x, *weights: torch.einsum(equation, x, *weights), *shapes)


def attention(queries, keys, values):
    return Products(lambda x: F.scaled_dot_product_attention(queries(x), keys(x), values(x), enable_gqa=True))


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def whole(x):
    return x


OPERATORS = {
    "linear": (nn.Linear(3, 5), draw(7, 3), 7 * 3 * 5),
    "linear of a vector": (nn.Linear(3, 5), draw(3), 15),
    "conv": (nn.Conv2d(4, 6, 3, groups=2), draw(2, 4, 8, 8), 2 * 6 * 36 * 2 * 9),
    "conv same": (nn.Conv1d(2, 4, 3, padding="same"), draw(1, 2, 5), 5 * 2 * 4 * 3),
    "conv of no batch": (nn.Conv2d(2, 3, 3), draw(2, 5, 5), 9 * 2 * 3 * 9),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), draw(2, 4, 8, 8), 2 * 8 * 36 * 9),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), draw(2, 4, 8, 8), 2 * 4 * 64 * 3 * 9),
    "lstm": (nn.LSTM(3, 5, batch_first=True), draw(2, 7, 3), 14 * 4 * 5 * (3 + 5)),
    "lstm with a projection": (nn.LSTM(3, 6, proj_size=2), draw(5, 1, 3), 5 * (24 * (3 + 2) + 2 * 6)),
    "gru": (nn.GRU(3, 5, bidirectional=True), draw(7, 2, 3), 14 * 2 * 3 * 5 * (3 + 5)),
    "cell": (nn.LSTMCell(3, 5), draw(2, 3), 2 * 20 * (3 + 5)),
    "embedding": (nn.Embedding(5, 4), torch.tensor([[1, 2]]), 0),
    "activation": (nn.ReLU(), draw(2, 3), 0),
    "product": (Products(torch.matmul, (3, 4)), draw(2, 5, 3), 2 * 5 * 3 * 4),
    "product of batches": (Products(torch.matmul, (2, 1, 3, 4)), draw(5, 7, 3), 10 * 7 * 3 * 4),
    "product of the left": (Products(lambda x, w: w @ x, (4, 3)), draw(2, 3, 5), 2 * 5 * 3 * 4),
    "product with a vector": (Products(torch.matmul, (3,)), draw(2, 3), 0),
    "addmm": (Products(lambda x, b, w: torch.addmm(b, x, w), (4,), (3, 4)), draw(2, 3), 24),
    "baddbmm": (Products(lambda x, b: torch.baddbmm(b, x, x.mT), (2, 5, 5)), draw(2, 5, 3), 150),
    "tensordot": (Products(lambda x, w: torch.tensordot(x, w, 1), (3, 4)), draw(2, 5, 3), 120),
    "einsum": (einsum("bi,io->bo", (3, 4)), draw(2, 3), 24),
    "einsum of three": (einsum("bi,eio,be->bo", (2, 3, 4), (5, 2)), draw(5, 3), 5 * 2 * 3 * 4 + 5 * 2 * 4),
    "einsum that sums one alone": (einsum("bi,oj->bo", (4, 3)), draw(2, 3), 0),
    "einsum over a diagonal": (einsum("bii,io->bo", (3, 4)), draw(2, 3, 3), 24),
    "attention": (attention(whole, whole, whole), draw(2, 4, 5, 6), 2 * 2 * 4 * 25 * 6),
    "attention to fewer values": (
        attention(whole, whole, lambda x: x[..., :3]), draw(2, 4, 5, 6), 2 * 4 * 25 * (6 + 3),
    ),
    "attention of shared heads": (
        attention(whole, lambda x: x[:, :2], lambda x: x[:, :2]), draw(2, 4, 5, 6), 2 * 2 * 4 * 25 * 6,
    ),
    "attention of one query": (
        attention(lambda x: x[:1], whole, whole), draw(2, 4, 5, 6), 2 * 2 * 4 * 25 * 6,
    ),
}  # fmt: skip


def layers(net, x):
    """Multiply-accumulates of each module by shapes."""
    found, first = {}, {module: name for name, module in net.named_modules()}  # a module of two names has its first one
    for node in with_example_sizes(export(net, x, has_rule), net, x).graph.nodes:
        name = first[net.get_submodule(module_of(node))]
        for count in macs(node):
            found[name] = found.get(name, 0) + count
    return {name: count for name, count in found.items() if count}


def run(net, x):
    """The same in a run."""
    return {name: layer.macs for name, layer in cost(net, x).layers.items() if layer.macs}


@pytest.mark.parametrize("operator", OPERATORS)
def test_each_operator_counts_as_in_a_run_and_by_hand(operator):
    net, x, expected = OPERATORS[operator]
    assert program_macs(export(net.eval(), x, has_rule)) == expected
    assert cost(net, x).macs == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_networks_count_as_in_a_run(name):
    net = getattr(models, name)().eval()
    x = torch.zeros(1, *net.input_shape)
    assert layers(net, x) == run(net, x)


SOME = [p if place % 2 == 0 else pytest.param(p, marks=pytest.mark.slow) for place, p in enumerate(PATTERNS[::9])]


@pytest.mark.parametrize("pattern", SOME, ids=lambda pattern: pattern.name)
def test_layers_of_patterns_count_as_in_a_run(pattern: Pattern):
    net, x = pattern.build()
    if pattern.name in UNUSED:
        pytest.skip("a result that nothing uses")
    try:
        assert layers(net, x) == run(net, x)
    except GraphError as error:
        pytest.skip(f"no program: {error}")
