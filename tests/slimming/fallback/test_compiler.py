"""Networks that export refuses: the second tracer cuts them exactly, or keeps what it cannot prove."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune import SlimPlan, slim
from ssl_prune.errors import GraphError, SlimError
from ssl_prune.graph import by_export


class Net(nn.Module):
    """`function(self, x)` behind a question that export cannot answer."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)
        self.double()

    def forward(self, x):
        if x.double().sum() > 1e30:
            x = x / 2
        return self.function(self, x)


def zero_rows(layer, rows, *norms):
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, *(t for norm in norms for t in (norm.weight, norm.bias))):
            if tensor is not None:
                tensor[rows] = 0
        for norm in norms:
            norm.running_mean[rows] = 0


def conv(i, o, k=3, **more):
    return nn.Conv2d(i, o, k, padding=k // 2, **more)


def norm(n):
    layer = nn.BatchNorm2d(n)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean):
            tensor.uniform_(-0.5, 0.5)
    return layer


def image(*shape):
    return torch.randn(*(shape or (2, 3, 6, 6)), dtype=torch.double)


def exact(net, x, result=None, scale=(0.1, 1.0, 4.0)):
    result = result or slim(net, x, tolerance=1e-9)
    net.eval(), result.model.eval()
    with torch.no_grad():
        for factor in scale:
            for shift in (-1.0, 0.0, 1.0):
                trial = torch.randn_like(x) * factor + shift if x.is_floating_point() else torch.randint_like(x, 0, 5)
                torch.testing.assert_close(result.model(trial), net(trial), atol=1e-9, rtol=1e-9)
    assert result.report.tracer == "torch-pruning"
    return result


def sequence():
    net = Net(
        lambda s, x: s.fc(s.c(torch.relu(s.n(s.a(x)))).relu().mean((2, 3))),
        a=conv(3, 8), n=norm(8), c=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip
    zero_rows(net.a, [0, 3, 4], net.n)
    zero_rows(net.c, [1])
    return net, {"a": 3, "c": 1}


def residual():
    net = Net(
        lambda s, x: s.d(torch.relu(s.a(x) + s.c(torch.relu(s.n(s.b(s.a(x))))))).mean((2, 3)),
        a=conv(3, 8), b=conv(8, 6), n=norm(6), c=conv(6, 8), d=conv(8, 4),
    )  # fmt: skip
    zero_rows(net.a, [1, 5])
    zero_rows(net.c, [1, 5])
    zero_rows(net.b, [0, 2], net.n)
    return net, {"a": 2, "b": 2}


def one_branch_of_a_residual():
    net, _ = residual()
    with torch.no_grad():
        net.a.weight.copy_(torch.randn_like(net.a.weight))
    return net, {"b": 2}


def shift_before_relu():
    net, _ = sequence()
    with torch.no_grad():
        net.n.bias[:] = torch.tensor([0.3, 0.0, 0.1, -0.7, 0.0, 0.2, 0.1, 0.4])
    return net, {"a": 2, "c": 1}  # the first carries relu(0.3) > 0, the other two nothing


def concat_and_depthwise():
    net = Net(
        lambda s, x: s.e(s.d(torch.cat([s.a(x), s.b(x)], 1)).relu()).mean((2, 3)),
        a=conv(3, 4), b=conv(3, 6), d=conv(10, 10, groups=10), e=conv(10, 4),
    )  # fmt: skip
    zero_rows(net.a, [1])
    zero_rows(net.b, [0, 5])
    zero_rows(net.d, [1, 4, 9])
    return net, {"a": 1, "b": 2}


def chunk_in_another_order():
    net = Net(
        lambda s, x: (lambda p, q: s.d(q) + s.c(p))(*s.a(x).chunk(2, 1)), a=conv(3, 8), c=conv(4, 5), d=conv(4, 5)
    )
    zero_rows(net.a, [1, 4, 6])
    return net, {"a": 3}


def chunk_read_later_first():
    net = Net(
        lambda s, x: (lambda p, q: torch.relu(s.c(p)) + s.d(q))(*s.a(x).chunk(2, 1)),
        a=conv(3, 8),
        c=conv(4, 5),
        d=conv(4, 5),
    )
    zero_rows(net.a, [1, 4])
    return net, None


def every_second():
    net = Net(lambda s, x: s.b(s.a(x)[:, ::2]), a=conv(3, 8), b=conv(4, 5))
    zero_rows(net.a, [1, 2, 5])
    return net, None


def first_channels():
    net = Net(lambda s, x: s.b(s.a(x)[:, :5]) + s.c(s.a(x)[:, 5:]), a=conv(3, 8), b=conv(5, 5), c=conv(3, 5))
    zero_rows(net.a, [1, 2, 6])
    return net, None


def shuffle():
    def forward(s, x):
        y = s.a(x)
        n, c, h, w = y.shape
        return s.b(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))

    net = Net(forward, a=conv(3, 8), b=conv(8, 5))
    zero_rows(net.a, [1, 2])
    return net, None


def groups():
    net = Net(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x))))).mean((2, 3)),
        a=conv(3, 8), b=conv(8, 8, groups=2), c=conv(8, 4),
    )  # fmt: skip
    zero_rows(net.a, [0, 5])
    zero_rows(net.b, [1, 6])
    return net, {}


def channels_last():
    net = Net(lambda s, x: s.fc(s.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 4), fc=nn.Linear(144, 5))
    zero_rows(net.a, [1, 2])
    return net, None


def flattened():
    net = Net(lambda s, x: s.fc(s.a(x).relu().flatten(1)), a=conv(3, 4), fc=nn.Linear(144, 5))
    zero_rows(net.a, [1, 2])
    return net, {"a": 2}


def normalised(layer):
    def build():
        net = Net(lambda s, x: s.fc(s.n(s.a(x).mean((2, 3)))), a=conv(3, 8), n=layer(8), fc=nn.Linear(8, 5))
        zero_rows(net.a, [1, 2])
        return net, {}

    build.__name__ = layer(8)._get_name()
    return build


def not_zero_at_zero(function):
    def build():
        net = Net(lambda s, x: s.b(function(s.a(x))).mean((2, 3)), a=conv(3, 8), b=conv(8, 5))
        zero_rows(net.a, [1, 2])
        return net, {}

    build.__name__ = function.__name__
    return build


def softmax(x):
    return x.softmax(1)


def attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x):
            q, k, v = (f(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = Net(lambda s, x: s.fc(s.at(s.a(x).flatten(2).mT)), a=conv(3, 8), at=Attention(), fc=nn.Linear(8, 2))
    for layer in (net.at.q, net.at.k):
        zero_rows(layer, [1, 5])
    zero_rows(net.at.v, [0, 4])
    return net, None


def multihead():
    net = Net(
        lambda s, x: s.m(*[s.a(x).flatten(2).mT] * 3)[0], a=conv(3, 8), m=nn.MultiheadAttention(8, 2, batch_first=True)
    )
    zero_rows(net.a, [1, 5])
    return net, {}


def transposed():
    net = Net(lambda s, x: s.c(s.b(s.a(x)).relu()), a=conv(3, 6), b=nn.ConvTranspose2d(6, 5, 2, 2), c=conv(5, 2))
    zero_rows(net.a, [1, 2])
    with torch.no_grad():
        net.b.weight[:, 3], net.b.bias[3] = 0, 0
    return net, {"a": 2, "b": 1}


def squeeze_and_excite():
    net = Net(
        lambda s, x: (lambda y: s.b(y * torch.sigmoid(s.e(s.r(y.mean((2, 3), keepdim=True)).relu()))))(s.a(x)),
        a=conv(3, 8), r=conv(8, 4, 1), e=conv(4, 8, 1), b=conv(8, 3),
    )  # fmt: skip
    for layer in (net.a, net.e):
        zero_rows(layer, [1, 2])
    zero_rows(net.r, [0])
    return net, {"a": 2, "r": 1}


def shared():
    net = Net(lambda s, x: s.c(s.b(s.b(s.a(x)).relu()).relu()), a=conv(3, 6), b=conv(6, 6), c=conv(6, 2))
    zero_rows(net.a, [1])
    zero_rows(net.b, [1])
    return net, {"a": 1}


def tied():
    net = Net(lambda s, x: s.c(s.d(s.b(s.a(x)).relu()).relu()), a=conv(3, 6), b=conv(6, 6), d=conv(6, 6), c=conv(6, 2))
    net.d.weight = net.b.weight
    for layer in (net.a, net.b, net.d):
        zero_rows(layer, [1])
    return net, {"a": 1}


def prelu_and_scale():
    net = Net(
        lambda s, x: s.b(s.p(s.a(x)) * s.g),
        a=conv(3, 6),
        p=nn.PReLU(6),
        b=conv(6, 2),
        g=nn.Parameter(torch.randn(6, 1, 1)),
    )
    zero_rows(net.a, [1, 4])
    return net, {"a": 2}


def unread():
    net, _ = sequence()
    with torch.no_grad():
        net.a.weight.normal_()
        net.c.weight.normal_()
        net.c.weight[:, [1, 7]] = 0
        net.fc.weight[:, 2:4] = 0
    return net, {"a": 5, "c": 2}  # two unread, three that the norm's scale takes away


def unread_through(function):
    def build():
        net = Net(lambda s, x: s.b(function(s.a(x))).mean((2, 3)), a=conv(3, 8), b=conv(8, 5))
        with torch.no_grad():
            net.b.weight[:, :3] = 0
            net.a.weight[:2] *= 1e-3  # so small that a maximum over channels never meets it in a few trials
        return net, {}

    build.__name__ = f"unread_through_{function.__name__}"
    return build


def highest(x):
    return x * x.amax(1, keepdim=True)


def norm_of(x):
    return x / x.norm(dim=1, keepdim=True)


def detached_highest(x):
    return x * x.detach().amax(1, keepdim=True)


def highest_without_gradients(x):
    with torch.no_grad():
        scale = x.amax(1, keepdim=True)
    return x * scale


def scale_by_item(x):
    return x / float(x.abs().max().item())


def numpy_scale(x):
    return x / float(np.abs(x.detach().numpy()).max())


PATTERNS = [
    sequence, residual, one_branch_of_a_residual, shift_before_relu, concat_and_depthwise, chunk_in_another_order,
    chunk_read_later_first, every_second, first_channels, shuffle, groups, channels_last, flattened,
    normalised(nn.LayerNorm), normalised(lambda n: nn.GroupNorm(2, n)), not_zero_at_zero(softmax),
    not_zero_at_zero(torch.sigmoid), not_zero_at_zero(F.softplus), attention, multihead, transposed,
    squeeze_and_excite, shared, tied, prelu_and_scale, unread,
    *map(unread_through, [highest, norm_of, detached_highest, highest_without_gradients, scale_by_item, numpy_scale]),
]  # fmt: skip


@pytest.mark.parametrize("build", PATTERNS, ids=lambda build: build.__name__)
def test_exact_or_kept(build):
    net, removed = build()
    x = image()
    with pytest.raises(GraphError):
        by_export(net, x)
    result = exact(net, x)
    if removed is not None:
        assert result.report.removed == removed
    again = SlimPlan.from_json(result.plan.to_json()).apply(copy.deepcopy(net))
    assert torch.equal(again(x), result.model(x))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.a, self.b, self.c, self.last = (
            nn.Linear(*n) for n in ((4, 8), (8, 6), (8, 6), (6, 6), (6, 2))
        )

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = self.a(y) if x.sum() > 0 else self.c(torch.relu(self.b(y)))
        return self.last(torch.relu(y))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("threshold", [0.0, 1e4])
def test_branches_that_the_inputs_never_take_are_cut_with_the_others(sign, threshold):
    class Far(Branching):
        def forward(self, x):
            y = torch.relu(self.first(x))
            y = self.a(y) if x.sum() > threshold else self.c(torch.relu(self.b(y)))
            return self.last(torch.relu(y))

    net = Far().double()
    zero_rows(net.first, [1, 2])
    for layer in (net.a, net.c):
        zero_rows(layer, [0, 5])
    zero_rows(net.b, [3])
    x = sign * torch.rand(2, 4).double()
    result = exact(net, x, scale=(0.1, 1.0, 1e5))
    assert result.report.removed == {"first": 2, "a": 2, "b": 1}
    assert result.model.b.in_features == result.model.a.in_features == 6


def test_a_branch_by_item_and_a_loop_by_int():
    class Loop(Branching):
        def forward(self, x):
            y = torch.relu(self.first(x))
            y = self.a(y) if x.sum().item() > 1e3 else self.b(y)
            for _ in range(min(int(x.abs().max()), 2)):
                y = torch.relu(self.c(y))
            return self.last(y)

    net = Loop().double()
    for layer in (net.a, net.b, net.c):
        zero_rows(layer, [0, 5])
    assert exact(net, torch.full((2, 4), 0.5).double(), scale=(1e-3, 1.0, 4.0, 1e4)).report.removed == {"a": 2}


class Aside(nn.Module):
    """`extra` never runs in evaluation; a block that does not hold it is cut, what `extra` might read is not."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
        self.last, self.extra = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        if x.sum() > 1e30:
            x = x / 2
        y = torch.relu(self.block(x))
        if self.training:
            return self.last(y), self.extra(y)
        return self.last(y)


def test_what_a_module_that_never_ran_might_read_is_kept():
    net = Aside().double().eval()
    zero_rows(net.block[0], [1, 2])
    zero_rows(net.block[2], [3])
    result = exact(net, image(2, 4))
    assert result.report.removed == {"block.0": 2}
    assert "extra, which never ran" in str(result.report)
    x = image(3, 4)
    for expected, got in zip(net.train()(x), result.model.train()(x), strict=True):
        torch.testing.assert_close(got, expected)


def test_an_inner_value_that_leaves_its_block_is_kept():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 6)

        def forward(self, x):
            y = torch.relu(self.a(x))
            return y, self.b(y)

    class Leaks(Aside):
        def __init__(self):
            super().__init__()
            self.block, self.extra = Block(), nn.Linear(8, 3)

        def forward(self, x):
            if x.sum() > 1e30:
                x = x / 2
            y, z = self.block(x)
            return (self.extra(y), self.last(z)) if self.training else self.last(z)

    net = Leaks().double().eval()
    zero_rows(net.block.a, [1, 2])
    result = exact(net, image(2, 4))
    assert result.report.removed == {}
    assert "inner values of other shapes" in result.report.refused
    net.train()(image(2, 4)), result.model.train()(image(2, 4))


def test_tied_to_a_module_that_never_ran():
    net = Aside().double().eval()
    net.extra = nn.Linear(8, 6).double()
    net.extra.weight = net.block[2].weight
    zero_rows(net.block[0], [1, 2])
    assert exact(net, image(2, 4)).report.removed == {}


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, torch.round(x * 4) / 4, torch.zeros_like(x))

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.saved_tensors[0] > 0)


class Highest(Sign):
    @staticmethod
    def forward(ctx, x):
        return x / x.abs().amax(1, keepdim=True)


class ByNumpy(Sign):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.maximum(x.numpy(), 0))


@pytest.mark.parametrize(("function", "removed"), [(Sign, {"a": 2, "b": 1}), (Highest, {"b": 1}), (ByNumpy, {"b": 1})])
def test_custom_functions(function, removed):
    net = Net(lambda s, x: s.c(torch.relu(s.b(function.apply(s.a(x))))), a=conv(3, 6), b=conv(6, 5), c=conv(5, 2))
    zero_rows(net.a, [1, 2])
    zero_rows(net.b, [3])
    assert exact(net, image()).report.removed == removed


def test_a_round_trip_through_numpy_keeps_what_it_meets():
    def forward(s, x):
        y = torch.relu(s.b(torch.from_numpy(s.a(x).detach().numpy())))
        return s.c(y)

    net = Net(forward, a=conv(3, 6), b=conv(6, 5), c=conv(5, 2))
    zero_rows(net.a, [1, 2])
    zero_rows(net.b, [3])
    assert exact(net, image()).report.removed == {"b": 1}


def test_an_embedding():
    net = Net(lambda s, x: s.b(torch.relu(s.a(s.e(x)))), e=nn.Embedding(5, 6), a=nn.Linear(6, 7), b=nn.Linear(7, 2))
    with torch.no_grad():
        net.e.weight[:, [0, 4]] = 0
    zero_rows(net.a, [1])
    result = exact(net, torch.randint(0, 5, (2, 3)))
    assert result.report.removed == {"e": 2, "a": 1}
    assert result.model.e.embedding_dim == 4


@pytest.mark.parametrize("enabled", [True, False])
def test_the_given_network_is_left_bit_for_bit(enabled):
    net, removed = residual()
    net.n.eval()
    for layer in (net.a, net.b):
        layer.requires_grad_(False)
    net.d.weight.grad = torch.ones_like(net.d.weight)
    calls = []
    net.a.register_forward_hook(lambda *_: calls.append(1))
    before, flags = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    tensors = [(id(t), t._version) for t in net.state_dict(keep_vars=True).values()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    x, rng = image(), torch.get_rng_state()
    kept = x.clone()
    rng = torch.get_rng_state()
    with torch.set_grad_enabled(enabled):
        result = slim(net, x)
        assert torch.is_grad_enabled() is enabled
    assert result.report.removed == removed
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, kept)
    assert [(id(t), t._version) for t in net.state_dict(keep_vars=True).values()] == tensors
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert [m.training for m in net.modules()] == flags
    assert [m.training for m in result.model.modules()] == flags
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()] == hooks
    frozen = ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == frozen
    assert [n for n, p in result.model.named_parameters() if not p.requires_grad] == frozen
    assert torch.equal(net.d.weight.grad, torch.ones_like(net.d.weight))
    assert all(p.grad is None for n, p in net.named_parameters() if n != "d.weight")


def test_dead_layers_keep_one_channel():
    net, _ = sequence()
    zero_rows(net.a, list(range(8)), net.n)
    result = exact(net, image())
    assert result.model.a.out_channels == 1


def test_code_that_reads_its_width():
    net = Net(lambda s, x: s.b(s.a(x) / s.a(x).shape[1]), a=conv(3, 6), b=conv(6, 2))
    zero_rows(net.a, [1, 2])
    result = exact(net, image())
    assert result.report.removed == {}
    loose = slim(net, image(), exact=False)
    assert loose.model.a.out_channels == 4
    assert loose.report.max_error > 1e-3


def test_a_random_forward():
    net = Net(lambda s, x: s.b(s.a(x) + float(np.random.rand())), a=conv(3, 6), b=conv(6, 2))
    zero_rows(net.a, [1])
    with pytest.raises(SlimError, match="random"):
        slim(net, image())


def test_the_report_says_which_tracer_and_why():
    net, _ = sequence()
    text = str(slim(net, image()).report)
    assert "traced by torch-pruning" in text
    assert "torch.export could not trace" in text
