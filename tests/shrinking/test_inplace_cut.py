"""After a cut in place the network and its optimizers go on as if the zeros had never been there."""

import gc

import pytest
import torch
from torch import nn

from ssl_prune import SlimError
from ssl_prune.penalties import GroupLasso
from ssl_prune.shrinking import carry, graft, training_cut
from ssl_prune.shrinking.inplace_cut import replace_data
from ssl_prune.solvers import ProximalSolver

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "lion-like": lambda p: Lion(p),
}


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum, kept under a name of its own."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure=None):
        for settings in self.param_groups:
            for param in settings["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                momentum = state.setdefault("lion_momentum", torch.zeros_like(param))
                param.sub_(settings["lr"] * (0.9 * momentum + 0.1 * param.grad).sign())
                momentum.lerp_(param.grad, 0.01)


@pytest.fixture(params=list(OPTIMIZERS))
def build(request):
    return OPTIMIZERS[request.param]


def test_outputs_stay(kit, name):
    net, x = kit.made(name)
    kit.zeroed(net, x)
    with torch.no_grad():
        before = net.eval()(x)
        graft(training_cut(net, x).plan, net)
        assert (net(x) - before).abs().max() <= 1e-5 * before.abs().max()


def test_states_of_what_is_left_are_those_of_before(kit, build):
    net, x = kit.made("residual")
    optimizer = kit.stepped(net, x, build)
    kit.zeroed(net, x)
    params = dict(net.named_parameters())
    states = {name: dict(optimizer.state[p]) for name, p in params.items()}
    gradients = {name: p.grad for name, p in params.items()}
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    origin = graft(training_cut(net, x).plan, net, [optimizer])
    assert any(not source.whole for source in origin.values())
    for name, param in net.named_parameters():
        source = origin[name]
        assert param is params[source.name]
        assert torch.equal(param.grad, source.take(gradients[source.name]))
        for key, value in states[source.name].items():
            now = optimizer.state[param][key]
            if isinstance(value, torch.Tensor) and value.numel() > 1:
                assert torch.equal(now, source.take(value))
                assert all(n in (1, m) for n, m in zip(now.shape, param.shape, strict=True))
            else:
                assert now is value
    assert {id(p) for s in optimizer.param_groups for p in s["params"]} == {id(p) for p in net.parameters()}
    assert {id(p) for p in optimizer.state} <= {id(p) for p in net.parameters()}
    kit.step(net, x, optimizer, 9)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] < 0.05


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "adagrad"])
def test_training_goes_on_as_without_a_cut(kit, name, optimizer):
    """Where dead groups are held at zero, what is left moves as it would."""
    nets = []
    for cut in (False, True):
        net, x = kit.made(name)
        net, x = net.double(), x.double()
        made = kit.stepped(net, x, OPTIMIZERS[optimizer])
        groups = kit.zeroed(net, x)
        solver = ProximalSolver(groups, GroupLasso(), 1.0)
        solver.attach(made)
        solver.freeze()
        if cut:
            origin = graft(training_cut(net, x).plan, net, [made])
            left = carry(groups, origin, net)
            # Dead channels that stay for the sake of a shape are held as before.
            solver.rebind(left, origin)
        losses = [kit.step(net, x, made, 10 + i) for i in range(5)]
        nets.append((losses, sum(p.numel() for p in net.parameters())))
    (dense, many), (slim, few) = nets
    assert few < many
    torch.testing.assert_close(torch.tensor(slim), torch.tensor(dense), rtol=1e-9, atol=0)


def test_hooks_and_modules_stay(kit):
    net, x = kit.made("residual")
    kit.zeroed(net, x)
    modules, seen = dict(net.named_modules()), []
    net.conv1.weight.register_hook(lambda g: seen.append(g.shape))
    net.conv2.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    held = net(x).sum()  # whoever keeps an old loss keeps the graph of the old shapes
    graft(training_cut(net, x).plan, net)
    net(x).sum().backward()
    assert dict(net.named_modules()) == modules
    assert seen[-2:] == [net.conv2.out_channels, net.conv1.weight.shape]
    assert held.requires_grad


def test_groups_of_parameters_keep_their_settings(kit):
    net, x = kit.made("residual")
    decayed = [p for p in net.parameters() if p.dim() > 1]
    other = [p for p in net.parameters() if p.dim() == 1]
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 0.1}, {"params": other, "lr": 0.5}], lr=0.01)
    kit.zeroed(net, x, share=0.5)
    graft(training_cut(net, x).plan, net, [optimizer])
    assert [p.dim() > 1 for p in optimizer.param_groups[0]["params"]] == [True] * len(decayed)
    assert (optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[1]["lr"]) == (0.1, 0.5)


def test_one_parameter_that_becomes_three(kit):
    net, x = kit.made("attention")
    optimizer = kit.stepped(net, x, OPTIMIZERS["momentum"])
    with torch.no_grad():  # of each head one value channel: queries and values come to differ in width
        for head in range(4):
            net.attention.in_proj_weight[32 + 4 * head] = 0
            net.attention.in_proj_bias[32 + 4 * head] = 0
            net.attention.out_proj.weight[:, 4 * head] = 0
    whole = optimizer.state[net.attention.in_proj_weight]["momentum_buffer"]
    origin = graft(training_cut(net, x).plan, net, [optimizer])
    assert origin["attention.v_proj.weight"].name == "attention.in_proj_weight"
    assert optimizer.param_groups[0]["params"] == list(net.parameters())  # as a new optimizer would have them
    value = net.attention.v_proj.weight
    assert torch.equal(optimizer.state[value]["momentum_buffer"], whole[[32 + i for i in range(16) if i % 4 != 0]])
    kit.step(net, x, optimizer, 3)


def test_layers_stay_in_their_memory_format(kit):
    net, x = kit.made("resnet")
    net = net.to(memory_format=torch.channels_last)
    kit.zeroed(net, x)
    graft(training_cut(net, x).plan, net)
    weights = [p for p in net.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


class Flat(torch.optim.SGD):
    """Keeps its momentum as one vector."""

    def step(self, closure=None):
        super().step(closure)
        for settings in self.param_groups:
            for param in settings["params"]:
                self.state[param]["history"] = param.detach().flatten()


def test_an_optimizer_that_cannot_follow_is_refused_and_nothing_changes(kit):
    net, x = kit.made("residual")
    optimizer = kit.stepped(net, x, lambda p: Flat(p, lr=0.1))
    kit.zeroed(net, x)
    before = {name: p.clone() for name, p in net.named_parameters()}
    with pytest.raises(SlimError, match=r"Flat keeps 'history' for conv1.weight .* expected .*Train with another"):
        graft(training_cut(net, x).plan, net, [optimizer])
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    with pytest.raises(SlimError, match=r"LBFGS keeps a history"):
        graft(training_cut(net, x).plan, net, [torch.optim.LBFGS(net.parameters())])


def test_channels_with_constants_stay_where_a_cut_would_make_a_bias(kit):
    class Unbiased(kit.Plain):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(8 * 16, 12, bias=False)

    for build, left in ((kit.Plain, 6), (Unbiased, 8)):
        torch.manual_seed(0)
        net, x = build(), torch.randn(1, 1, 6, 6)
        with torch.no_grad():
            net.conv.weight[:2] = 0
            net.conv.bias[:2] = 1.0
        before, count = net(x), len(list(net.parameters()))
        graft(training_cut(net, x).plan, net)
        torch.testing.assert_close(net(x), before)
        assert (net.conv.out_channels, len(list(net.parameters()))) == (left, count)


def test_constants_of_running_means_are_not_folded(kit):
    """In training the channel gives its shift, in evaluation something else."""
    net, x = kit.made("residual")
    with torch.no_grad():
        net.conv1.weight[0] = 0
        net.bn1.running_mean[0] = 0.7
        net.conv2.weight[3] = 0
        net.bn2.weight[3] = net.bn2.bias[3] = 0
    graft(training_cut(net, x).plan, net)
    assert net.conv1.out_channels == 8
    assert net.conv2.out_channels == 9


def test_memory_of_what_went_is_let_go(kit):
    net, x = kit.made("residual")
    with torch.no_grad():
        for layer in (net.conv3, net.bn3):
            layer.weight.zero_()
        net.bn3.bias.zero_()
    held = net.conv2.weight
    graft(training_cut(net, x).plan, net)
    gc.collect()
    assert held.numel() == 0
    assert "conv2.weight" not in dict(net.named_parameters())


def test_a_parameter_takes_another_shape_while_its_old_graph_lives():
    layer = nn.Linear(3, 4)
    held = layer(torch.randn(2, 3)).sum()
    replace_data(layer.weight, torch.randn(2, 3))
    replace_data(layer.bias, torch.randn(2))
    layer(torch.randn(2, 3)).sum().backward()
    assert layer.weight.grad.shape == (2, 3)
    assert held.grad_fn is not None
