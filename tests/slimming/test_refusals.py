"""What `slim` refuses, in which words, and that it leaves everything as it was."""

import copy

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune.errors import GraphError, SlimError
from ssl_prune.models import ImageClassifier, ResNet


class Net(nn.Module):
    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, torch.Tensor):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, *args):
        return self.function(self, *args)


def mlp(dead=0, **more):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight[:dead] = 0
        net[0].bias[:dead] = 0
    return net


@pytest.mark.parametrize("tolerance", [-1e-9, float("nan"), float("inf")])
def test_a_tolerance_that_is_none(tolerance):
    with pytest.raises(ValueError, match=r"tolerance must be a finite number >= 0, got"):
        slim(mlp(), torch.randn(2, 4), tolerance=tolerance)


@pytest.mark.parametrize("wrong", [None, 4, "image"])
def test_an_input_of_another_type(wrong):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        slim(mlp(), wrong)


@pytest.mark.parametrize("none", [(), [], {}])
def test_an_example_without_an_argument(none):
    with pytest.raises(ValueError, match=r"example inputs: got .*, expected what Sequential is called with: input"):
        slim(mlp(), none)


@pytest.mark.parametrize("none", [torch.zeros(0, 4), [torch.zeros(0, 4)], {"input": torch.zeros(0, 4)}])
def test_an_example_without_a_sample(none):
    with pytest.raises(ValueError, match=r"example inputs: got tensors of shapes \(0, 4\) without an entry"):
        slim(mlp(), none)


@pytest.mark.parametrize("wrong", ["net", nn.Linear])
def test_what_is_no_network(wrong):
    with pytest.raises(TypeError, match=r"model: got .*, expected a network"):
        slim(wrong, torch.randn(2, 4))


def test_a_network_without_inputs_has_an_empty_example():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.net = nn.Parameter(torch.randn(3, 4)), mlp()

        def forward(self):
            return self.net(self.rows)

    net = Table()
    assert torch.equal(slim(net, ()).model(), net())


def test_an_input_of_another_shape():
    with pytest.raises(GraphError, match=r"\(2, 5\)"):
        slim(mlp(), torch.randn(2, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    net = mlp(3)
    with torch.no_grad():
        net[2].weight[0, 5] = value
        net[0].bias[5] = 1.0
    with pytest.raises(SlimError, match="not finite"):
        slim(net, torch.randn(2, 4))


def test_a_random_forward():
    net = Net(lambda s, x: s.fc(nn.functional.dropout(x, 0.5, training=True)), fc=nn.Linear(4, 2))
    with pytest.raises(SlimError, match="random"):
        slim(net, torch.randn(8, 4))


def test_what_goes_through_numpy_is_kept_and_said():
    net = Net(lambda s, x: torch.from_numpy(s.fc(x).detach().numpy()), fc=nn.Linear(4, 2))
    report = slim(net, torch.randn(2, 4)).report
    assert report.params[0] == report.params[1]
    assert report.tracer == "torch-pruning"
    assert "numpy" in report.because


def wide(s, x):
    y = s.a(x)
    return s.b(y / y.shape[1])


def test_code_that_reads_its_width_is_proven_wrong_and_kept():
    net = Net(wide, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        net.a.weight[:3] = 0
        net.a.bias[:3] = 0
    x = torch.randn(2, 3, 4, 4)
    result = slim(net, x)
    assert result.report.params[0] == result.report.params[1]
    assert "differ" in result.report.refused
    assert [(k.layer, k.count, k.reason) for k in result.report.kept] == [("a", 3, "the proof did not hold without it")]
    assert torch.equal(result.model(x), net(x))
    loose = slim(net, x, exact=False)
    assert loose.model.a.out_channels == 3
    assert loose.report.max_error > 1e-3


def fragile(s, x):
    y = s.a(x)
    if y.shape[1] < 5:
        raise ValueError("too narrow")
    return s.b(y)


def test_repair_keeps_as_much_as_the_code_needs():
    net = Net(fragile, a=nn.Linear(3, 8), b=nn.Linear(8, 2))
    with torch.no_grad():
        net.a.weight[:6] = 0
        net.a.bias[:6] = 0
    result = slim(net, torch.randn(2, 3))
    assert result.model.a.out_features == 5
    assert result.report.removed == {"a": 3}
    assert "too narrow" in result.report.refused
    x = torch.randn(7, 3)
    torch.testing.assert_close(result.model(x), net(x))


def residual():
    torch.manual_seed(0)
    net = ResNet(blocks=(1,), widths=(6,), image_size=6)
    with torch.no_grad():
        net.layer1[0].conv1.weight[:3] = 0
        net.layer1[0].bn1.bias[:3] = 0
    return net


def test_the_given_network_is_left_bit_for_bit():
    net = residual()
    net.layer1[0].bn2.eval()
    net.fc.bias.requires_grad_(False)
    net.conv1.weight.grad = torch.ones_like(net.conv1.weight)
    calls = []
    net.conv1.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(net.state_dict())
    tensors = [(id(t), t._version) for t in net.state_dict(keep_vars=True).values()]
    flags = [m.training for m in net.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()]
    x = torch.randn(2, 3, 6, 6)
    kept, rng = x.clone(), torch.get_rng_state()
    result = slim(net, x)
    assert result.report.removed == {"layer1.0.conv1": 3}
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, kept)
    assert [(id(t), t._version) for t in net.state_dict(keep_vars=True).values()] == tensors
    assert all(torch.equal(before[k], t) for k, t in net.state_dict().items())
    assert [m.training for m in net.modules()] == flags
    assert [m.training for m in result.model.modules()] == flags
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()] == hooks
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["fc.bias"]
    assert [n for n, p in result.model.named_parameters() if not p.requires_grad] == ["fc.bias"]
    assert torch.equal(net.conv1.weight.grad, torch.ones_like(net.conv1.weight))
    assert torch.is_grad_enabled()


def test_forwards_that_write_into_input_and_buffers():
    def forward(s, x):
        s.count += 1
        return s.b(torch.relu(s.a(x.sub_(1.0))))

    net = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2), count=torch.zeros(()))
    with torch.no_grad():
        net.a.weight[:3] = 0
        net.a.bias[:3] = 0
    x = torch.randn(2, 4)
    kept = x.clone()
    result = slim(net, x)
    assert result.model.a.out_features == 3
    assert torch.equal(x, kept)
    assert net.count == 0


def test_a_lightning_module():
    net = ImageClassifier(residual())
    result = slim(net, net.example_input_array)
    assert isinstance(result.model, ImageClassifier)
    assert result.model.network.layer1[0].conv1.out_channels == 3
    assert result.report.removed == {"network.layer1.0.conv1": 3}


def test_several_inputs_and_outputs():
    def forward(s, x, y, scale=1):
        return {"sum": s.b(torch.relu(s.a(x))) * scale + y, "rest": (s.c(torch.relu(s.a(y))),)}

    net = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 4), c=nn.Linear(6, 3))
    with torch.no_grad():
        net.b.weight[:, :4] = 0
        net.c.weight[:, 2:] = 0
    result = slim(net, (torch.randn(2, 4), torch.randn(2, 4)))
    assert result.model.a.out_features == 4  # the union of what each of the outputs reads
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.allclose(result.model(x, y, 2)["sum"], net(x, y, 2)["sum"], atol=1e-6)
    assert torch.allclose(result.model(x, y)["rest"][0], net(x, y)["rest"][0], atol=1e-6)


def test_two_equal_inputs_are_told_apart_by_the_proof():
    net = Net(lambda s, x, y: s.b(torch.relu(s.a(x))) - s.b(torch.relu(s.a(y))), a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    with torch.no_grad():
        net.a.weight[:3] = 0
        net.a.bias[:3] = 1.0
    x = torch.zeros(2, 4)
    result = slim(net, (x, x))
    assert result.report.max_error < 1e-5
