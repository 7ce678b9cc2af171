"""Random small networks with random zeros: the slim network equals the sparse one in float64."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_prune import SlimPlan, slim


class Block(nn.Module):
    def __init__(self, width, inner, padding, activation, stride, short):
        super().__init__()
        padding = 1 if stride > 1 else padding  # the shortcut must have the same size
        self.conv1 = nn.Conv2d(width, inner, 3, stride, padding)
        self.bn = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, 1, 2 - padding)
        self.act, self.short = (
            activation(),
            nn.Conv2d(width, width, 1, stride) if short or stride > 1 else nn.Identity(),
        )

    def forward(self, x):
        return self.act(self.conv2(self.act(self.bn(self.conv1(x)))) + self.short(x))


class Plain(nn.Module):
    def __init__(self, width, out, kernel, padding, stride, norm, activation, depthwise):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, out, kernel, stride, padding if kernel > 1 else 0, bias=not norm),
            *([nn.BatchNorm2d(out)] if norm else []),
            activation(),
            *([nn.Conv2d(out, out, 3, padding=1, groups=out)] if depthwise else []),
        )

    def forward(self, x):
        return self.layers(x)


activations = st.sampled_from([nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Identity, nn.Hardtanh])


@st.composite
def networks(draw):
    torch.manual_seed(draw(st.integers(0, 1000)))
    width, parts = 2, []
    for _ in range(draw(st.integers(1, 3))):
        act = draw(activations)
        if draw(st.booleans()):
            parts.append(Block(width, draw(st.integers(1, 4)), draw(st.integers(0, 2)), act, draw(st.integers(1, 2)),
                               draw(st.booleans())))  # fmt: skip
        else:
            out = draw(st.integers(1, 5))
            parts.append(Plain(width, out, draw(st.sampled_from([1, 3])), draw(st.integers(0, 1)),
                               draw(st.integers(1, 2)), draw(st.booleans()), act, draw(st.booleans())))  # fmt: skip
            width = out
    if draw(st.booleans()):
        head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3))
    else:
        head = nn.Conv2d(width, 3, 1)
    return nn.Sequential(*parts, head).double().eval()


@torch.no_grad()
def spoil(net, share, shifted):
    """Set random filters, input channels and normalised channels to zero."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.bias.normal_()
            dead = torch.rand(len(module.weight)) < share
            module.weight[dead] = 0
            if not shifted:
                module.bias[dead] = 0
        elif isinstance(module, nn.Conv2d | nn.Linear):
            rows = torch.rand(module.weight.shape[0]) < share
            module.weight[rows] = 0
            if module.bias is not None and not shifted:
                module.bias[rows] = 0
            if getattr(module, "groups", 1) == 1:
                module.weight[:, torch.rand(module.weight.shape[1]) < share / 2] = 0


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(net=networks(), share=st.sampled_from([0.3, 0.6, 0.9]), shifted=st.booleans(), columns=st.booleans())
def test_slim_equals_sparse(net, share, shifted, columns):
    spoil(net, share, shifted)
    x = torch.randn(2, 2, 26, 25).double()
    result = slim(net, x, columns=columns, tolerance=1e-10)
    assert result.report.params[1] <= result.report.params[0]
    applied = SlimPlan.from_json(result.plan.to_json()).apply(net)
    fresh = torch.randn(3, 2, 29, 25).double() * 2 + 1
    with torch.no_grad():
        expected = net(fresh)
        bound = 1e-9 * expected.abs().max()
        assert (result.model(fresh) - expected).abs().max() <= bound
        assert torch.equal(applied(fresh), result.model(fresh))
