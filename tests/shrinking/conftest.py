"""Networks with random groups at zero, and optimizers with a state."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssl_prune.graph import trace
from ssl_prune.groups import partition
from ssl_prune.models import ResNet, ViT


class Residual(nn.Module):
    """Convolutions with normalisations, a residual sum and a classifier with a hidden layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.conv3, self.bn3 = nn.Conv2d(10, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x))))))
        return self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))


class Inverted(nn.Module):
    """A depthwise convolution between two of one position, in a branch, and one of two groups."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.branch = nn.Sequential(
            nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.grouped, self.fc = nn.Conv2d(8, 12, 3, groups=2), nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(torch.relu(self.grouped(x + self.branch(x))).mean((2, 3)))


class Plain(nn.Module):
    """Biases and no normalisation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc1, self.fc2 = nn.Linear(8 * 16, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(torch.relu(self.conv(x)).flatten(1))))


class Attending(nn.Module):
    """`nn.MultiheadAttention`, whose one matrix of three projections becomes three in a cut."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(6, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.embed(x.flatten(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.fc2(torch.relu(self.fc1(x))).mean(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.lstm(x.flatten(1, 2))[0][:, -1])


NETWORKS = {
    "residual": (Residual, (1, 6, 6)),
    "plain": (Plain, (1, 6, 6)),
    "resnet": (lambda: ResNet((1, 1, 1), (8, 8, 16), image_size=12), (3, 12, 12)),
    "inverted": (Inverted, (1, 6, 6)),
    "vit": (lambda: ViT(4, 16, 2, 2, image_size=8), (3, 8, 8)),
    "attention": (Attending, (1, 6, 6)),
    "lstm": (Recurrent, (1, 6, 6)),
}


def made(name, seed=0):
    build, shape = NETWORKS[name]
    torch.manual_seed(seed)
    return build(), torch.randn(2, *shape)


def zeroed(net, x, share=0.3, seed=0):
    """Set a share of the coupled groups to zero."""
    groups = partition(net, "coupled", graph=trace(net, x))
    keep = torch.rand(groups.num_groups, generator=torch.Generator().manual_seed(seed)) > share
    groups.scale_(keep.float())
    return groups


def stepped(net, x, build, steps=2):
    """An optimizer after some steps."""
    optimizer = build(net.parameters())
    for seed in range(steps):
        step(net, x, optimizer, seed)
    return optimizer


def step(net, x, optimizer, seed):
    optimizer.zero_grad()
    batch = torch.randn(8, *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    loss = net(batch).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


# What the slow ones have, the others have too: a residual sum, normalisations, attention.
SLOW = {"plain", "resnet", "vit"}


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS])
def name(request):
    return request.param


@pytest.fixture
def kit():
    return SimpleNamespace(made=made, zeroed=zeroed, stepped=stepped, step=step, Residual=Residual, Plain=Plain)
