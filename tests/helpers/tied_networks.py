"""Networks whose channels are tied in several ways."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_prune.models import LeNet5, MobileNetV1, ResNet20


class Attention(nn.Module):
    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Block(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def transformer():
    return nn.Sequential(nn.Linear(8, 16), Block(), Block(), nn.LayerNorm(16), nn.Linear(16, 5))


def grouped():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 2, 3)
    )


NETWORKS = {
    "lenet": (LeNet5, (1, 28, 28)),
    "resnet": (ResNet20, (3, 32, 32)),
    "mobilenet": (MobileNetV1, (3, 32, 32)),
    "grouped": (grouped, (3, 9, 9)),
    "transformer": (transformer, (6, 8)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network in evaluation mode and one input."""
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    return make().eval(), torch.randn(1, *shape)


@pytest.fixture
def transformer_network():
    """Two blocks of attention with four heads."""
    torch.manual_seed(0)
    return transformer().eval(), torch.randn(1, 6, 8)
