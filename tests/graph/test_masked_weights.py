"""Layers that mask their weight in each forward: in a product, or in its data."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune import slim


class Masked(nn.Conv2d):
    def __init__(self, how, *args, **kwargs):
        super().__init__(*args, **kwargs)
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 2] = 0
        mask[:, :, 2] = 0
        self.how = how
        self.register_buffer("mask", mask)

    def forward(self, x):
        if self.how == "product":
            return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)
        if self.how == "in place":
            self.weight.data *= self.mask
        elif self.how == "assigned":
            self.weight.data = self.weight.data * self.mask
        return super().forward(x)


@pytest.mark.parametrize("how", ["product", "in place", "assigned"])
def test_masked_layers_are_cut(how):
    net = nn.Sequential(
        Masked(how, 1, 8, 3, padding=1), nn.ReLU(), Masked(how, 8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[:3] = 0
            layer.bias[:3] = 0
    x = torch.randn(2, 1, 6, 6)
    before = net[0].weight.detach().clone()
    result = slim(net, x)
    assert torch.equal(net[0].weight, before)
    assert result.report.tracer == "torch.export"
    assert result.model[0].weight.shape == (5, 1, 3, 3)
    assert result.model[2].weight.shape == (5, 5, 3, 3)
    torch.testing.assert_close(result.model(x), net(x))
