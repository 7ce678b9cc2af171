"""Random networks from random operators with random zeros: slim equals sparse, and slimming again changes nothing."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ssl_prune.slimming import SlimPlan, slim

SIZE = 6  # of the images; every operator keeps it


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width, inner):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class Mix(nn.Module):
    """A layer over the channels as the last axis, with its norm."""

    def __init__(self, width, hidden, norm):
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)


class Attend(nn.Module):
    """Attention over the positions."""

    def __init__(self, width, heads, dim):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2)
        return self.out(mixed).transpose(1, 2).view(x.shape[0], -1, *x.shape[2:])


class Recipe(nn.Module):
    """Steps over a growing list of values; each names the values it reads."""

    def __init__(self, steps, layers, outputs):
        super().__init__()
        self.steps, self.layers, self.outputs = steps, nn.ModuleDict(layers), outputs
        width = sum(width for _, width in outputs)
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x):
        values = [x]
        for i, (kind, sources, detail) in enumerate(self.steps):
            first = values[sources[0]]
            if str(i) in self.layers:
                values.append(self.layers[str(i)](first))
            elif kind == "add":
                values.append(first + values[sources[1]])
            elif kind == "multiply":
                values.append(first * values[sources[1]].sigmoid())
            elif kind == "cat":
                values.append(torch.cat([first, values[sources[1]]], 1))
            elif kind == "half":
                values.append(first.chunk(2, 1)[detail])
            elif kind == "flip":
                values.append(first.flip(1))
            elif kind == "glu":
                values.append(F.glu(first, 1))
            elif kind == "maximum":
                values.append(torch.maximum(first, values[sources[1]]))
            elif kind == "in place":
                values.append(F.relu(first.clone(), inplace=True))
        return self.head(torch.cat([values[i] for i, _ in self.outputs], 1))


CONVS = ("conv", "conv", "conv", "grouped", "depthwise")
LAYERS = ("norm", "norm", "activation", "activation", "gate", "mix", "attend", "pool", "shuffle", "upsample")
MOVES = ("add", "add", "multiply", "cat", "half", "flip", "glu", "maximum", "in place")


def layer(draw, kind, width):
    """A module that keeps the image size, and its number of output channels."""
    if kind == "conv":
        out, kernel = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3]))
        mode = draw(st.sampled_from(["zeros", "zeros", "circular"]))
        return nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=draw(st.booleans()), padding_mode=mode), out
    if kind == "grouped":
        groups = 2 if width % 2 == 0 else 1
        out = groups * draw(st.integers(1, 3))
        return nn.Conv2d(width, out, 3, padding=1, groups=groups), out
    if kind == "depthwise":
        out = width * draw(st.integers(1, 2))
        return nn.Conv2d(width, out, 3, padding=1, groups=width), out
    if kind == "norm":
        choices = [nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.InstanceNorm2d(width, affine=True), nn.GroupNorm(1, width)]  # fmt: skip
        return draw(st.sampled_from(choices)), width
    if kind == "activation":
        return draw(st.sampled_from([nn.ReLU(), nn.SiLU(), nn.Sigmoid(), nn.Hardtanh(), nn.PReLU(width)])), width
    if kind == "gate":
        return Gate(width, draw(st.integers(1, 3))), width
    if kind == "mix":
        return Mix(width, draw(st.integers(1, 6)), draw(st.booleans())), width
    if kind == "attend":
        return Attend(width, draw(st.integers(1, 2)), draw(st.integers(1, 3))), width
    if kind == "pool":
        return draw(st.sampled_from([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)])), width
    if kind == "shuffle":
        return nn.ChannelShuffle(2 if width % 2 == 0 else 1), width
    out = draw(st.integers(1, 4))  # up and down again
    return nn.Sequential(nn.ConvTranspose2d(width, out, 2, 2), nn.ReLU(), nn.Conv2d(out, out, 2, 2)), out


@st.composite
def networks(draw):
    torch.manual_seed(draw(st.integers(0, 1000)))
    widths, steps, layers = [2], [], {}
    for i in range(draw(st.integers(2, 8))):
        kind = draw(st.sampled_from(draw(st.sampled_from([CONVS, LAYERS, MOVES]))))
        source = draw(st.integers(max(0, i - 2), i))
        width, sources, detail = widths[source], [source], draw(st.integers(0, 1))
        twins = [j for j, other in enumerate(widths) if other == width]
        if kind in ("half", "glu") and width % 2:
            kind = "flip"
        if kind in ("add", "multiply", "maximum", "cat"):
            sources.append(draw(st.sampled_from(twins)))
        if kind in MOVES:
            width = {"cat": 2 * width, "half": width // 2, "glu": width // 2}.get(kind, width)
        else:
            layers[str(i)], width = layer(draw, kind, width)
        steps.append((kind, sources, detail))
        widths.append(width)
    read = {source for _, sources, _ in steps for source in sources}
    chosen = [i for i in range(1, len(widths)) if i not in read]  # nothing is computed in vain
    return Recipe(steps, layers, [(i, widths[i]) for i in chosen]).double().eval()


@torch.no_grad()
def spoil(net, share, shifted):
    """Set random rows, columns and scales to zero, some of them with a shift that stays."""
    for module in net.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, nn.Parameter) or module is net.head:
            continue
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)):
            weight.uniform_(0.5, 1.5)
            bias.normal_()
        rows = weight.movedim(1, 0) if isinstance(module, nn.ConvTranspose2d) else weight
        dead = torch.rand(len(rows)) < share
        rows[dead] = 0
        if bias is not None and not shifted:
            bias[dead] = 0
        if weight.dim() > 1 and getattr(module, "groups", 1) == 1:
            columns = weight if isinstance(module, nn.ConvTranspose2d) else weight.movedim(1, 0)
            columns[torch.rand(len(columns)) < share / 2] = 0


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)
@given(net=networks(), share=st.sampled_from([0.3, 0.6, 0.9]), shifted=st.booleans(), columns=st.booleans())
def test_slim_equals_sparse(net, share, shifted, columns):
    spoil(net, share, shifted)
    x = torch.randn(2, 2, SIZE, SIZE).double()
    result = slim(net, x, columns=columns, tolerance=1e-10)
    fresh = torch.randn(3, 2, SIZE, SIZE).double() * 2 + 1
    with torch.no_grad():
        expected = net(fresh)
        bound = 1e-9 * expected.abs().max()
        assert (result.model(fresh) - expected).abs().max() <= bound
        assert torch.equal(SlimPlan.from_json(result.plan.to_json()).apply(net)(fresh), result.model(fresh))
    again = slim(result.model, x, columns=columns, tolerance=1e-10)
    assert again.report.params[1] == result.report.params[1]
    assert again.plan.modules == {}
