"""Smaller kernels and dense layers over chosen columns equal the sparse layers they replace, at every input size."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ssl_prune import SlimPlan, load_slim, save_slim, slim
from ssl_prune.models import LeNet5
from ssl_prune.slimming.modules.column_conv import ColumnConv1d, ColumnConv2d, ColumnLinear
from ssl_prune.slimming.modules.cropped_conv import CroppedConv1d, CroppedConv2d, margins
from ssl_prune.slimming.outcome.exports import export_onnx, export_pt2
from ssl_prune.slimming.plan import kernel_forms as columns
from ssl_prune.slimming.plan.kernel_forms import kernel_forms
from ssl_prune.slimming.plan.plan import ModulePlan

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


def written(layer, used):
    """`layer` with all but the columns `used` set to zero, and every way to write it."""
    with torch.no_grad():
        layer.weight.mul_(used)
        layer.weight.add_(used * (layer.weight == 0))
    net = nn.Sequential(layer)
    several = list(kernel_forms(layer, ModulePlan(), used, len(layer.weight)))
    plans = [SlimPlan.from_json(SlimPlan({"0": form.plan}, {}).to_json()) for form in several]
    layers = [plan.apply(net)[0] for plan in plans]
    assert [form.weights for form in several] == [new.weight.numel() for new in layers]
    return layers


def assert_equal_where_defined(layer, others, inputs):
    """The others give the same wherever the layer gives anything; how often it did."""
    answers = 0
    with torch.no_grad():
        for x in inputs:
            try:
                expected = layer(x)
            except RuntimeError:
                continue
            answers += 1
            for other in others:
                got = other(x)
                assert got.shape == expected.shape, (layer, other, x.shape)
                assert (got - expected).abs().max() < 1e-12, (layer, other, x.shape)
    return answers


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (2, 3), (3, 2)])
def test_every_kernel_position_padding_and_size(stride, dilation):
    inputs = [torch.randn(1, 2, size).double() for size in range(1, 13)]
    answers, kinds = 0, set()
    for kernel in (2, 3, 5):
        for padding in (0, 1, 3, "valid", *(["same"] if stride == 1 else [])):
            for alive in itertools.product((False, True), repeat=kernel):
                if any(alive):
                    layer = nn.Conv1d(2, 1, kernel, stride, padding, dilation).double()
                    layers = written(
                        layer, torch.tensor([alive, [place == alive.index(True) for place in range(kernel)]])
                    )
                    kinds.update(map(type, layers))
                    enough = dilation * (kernel - 1) + 1 - sum(margins(layer)[0])
                    answers += assert_equal_where_defined(layer, layers, inputs[max(enough - 1, 0) :])
    assert answers > 500
    assert kinds == {nn.Conv1d, CroppedConv1d, ColumnConv1d}


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, 2, 3, "same"])
def test_other_paddings_than_zeros(mode, padding):
    inputs = [torch.randn(2, 2, size).double() for size in range(1, 9)]
    for kernel in (3, 4):
        for alive in itertools.product((False, True), repeat=kernel):
            if any(alive):
                layer = nn.Conv1d(2, 40, kernel, padding=padding, padding_mode=mode).double()
                used = torch.tensor(alive).expand(2, -1).clone()
                used[1, alive.index(True)] = False
                used[1, kernel - 1 - alive[::-1].index(True)] = True
                assert assert_equal_where_defined(layer, written(layer, used), inputs) > 0


@settings(max_examples=40)
@given(dims=st.integers(1, 3), data=st.data())
def test_any_kernel_in_any_dimension(dims, data):
    torch.manual_seed(data.draw(st.integers(0, 99)))
    several = st.tuples(*[st.integers(1, 3)] * dims)
    groups, filters = data.draw(st.sampled_from([(1, 6), (1, 200), (2, 6), (4, 4)]))
    layer = CONVOLUTIONS[dims](
        4, filters, data.draw(several), data.draw(several), data.draw(st.tuples(*[st.integers(0, 2)] * dims)),
        data.draw(several), groups, data.draw(st.booleans()),
    ).double()  # fmt: skip
    used = torch.rand(layer.weight.shape[1:]) < 0.5
    used &= (torch.rand(layer.weight.shape[2:]) < 0.6) & (torch.rand(len(used)) < 0.7).view(-1, *[1] * dims)
    used.view(-1)[0] |= not used.any()
    layers = written(layer, used)
    inputs = [torch.randn(2, 4, *torch.randint(2, 9, (dims,)).tolist()).double() for _ in range(4)]
    inputs.append(torch.randn(4, *[8] * dims).double())
    assert_equal_where_defined(layer, layers, inputs)
    # Written again, with another position gone: a frame within a frame.
    again = used & (torch.rand(used.shape) < 0.5)
    again.view(-1)[int(used.flatten().nonzero()[0])] = True
    with torch.no_grad():
        layer.weight.mul_(again)
    first = next(kernel_forms(layer, ModulePlan(), used, filters))
    net = SlimPlan({"0": first.plan}, {}).apply(nn.Sequential(layer))
    left = (net[0].weight != 0).any(0)
    for form in kernel_forms(net[0], ModulePlan(), left, filters):
        assert_equal_where_defined(layer, SlimPlan({"0": form.plan}, {}).apply(net), inputs)


def test_what_a_crop_looks_like():
    centre, row, comb, corner = (torch.zeros(16, *size, dtype=torch.bool) for size in ((3, 3), (3, 3), (5, 5), (5, 5)))
    centre[:, 1, 1] = row[:, 1:, :] = comb[:, ::2, ::2] = corner[:, :2, :2] = True
    layer = written(nn.Conv2d(16, 32, 3, 2, 1), centre)[0]
    assert (type(layer), layer.kernel_size, layer.padding) == (nn.Conv2d, (1, 1), (0, 0))
    layer = written(nn.Conv2d(16, 32, 3, 1, 1), row)[0]
    assert (type(layer), layer.kernel_size, layer.padding, layer.frame) == (
        CroppedConv2d, (2, 3), (0, 1), ((0, 1), (0, 0)),
    )  # fmt: skip
    # With few weights a frame costs more than it saves.
    assert written(nn.Conv2d(16, 16, 3, 1, 1, groups=16), row[:1])[0].kernel_size == (3, 3)
    layer = written(nn.Conv2d(16, 32, 5, 1, 2), comb)[1]
    assert (type(layer), layer.kernel_size, layer.padding, layer.dilation) == (nn.Conv2d, (3, 3), (2, 2), (2, 2))
    layer = written(nn.Conv2d(16, 32, 5), corner)[0]
    assert (type(layer), layer.kernel_size, layer.frame) == (CroppedConv2d, (2, 2), ((0, -3), (0, -3)))


def test_crops_are_made_by_default_and_survive_files_exports_and_a_second_cut(tmp_path):
    pytest.importorskip("onnxscript")

    def network():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Flatten(), nn.Linear(32 * 81, 3),
        )  # fmt: skip

    net, x = network(), torch.randn(2, 1, 9, 9)
    with torch.no_grad():
        net[0].weight[:, :, [0, 4]] = 0
        net[2].weight[:, :, 2] = 0
        net[2].weight[3] = net[2].bias[3] = 0
        net[5].weight[..., [0, 2]] = 0
    result = slim(net, x)
    assert [result.model[i].kernel_size for i in (0, 2, 5)] == [(3, 5), (2, 3), (3, 1)]
    assert [type(result.model[i]) for i in (0, 2, 5)] == [nn.Conv2d, CroppedConv2d, nn.Conv2d]
    save_slim(tmp_path / "a.safetensors", result)
    model = load_slim(tmp_path / "a.safetensors", network()).eval()
    fresh = torch.randn(5, 1, 9, 9)
    with torch.no_grad():
        expected = net.eval()(fresh)
        torch.testing.assert_close(model(fresh), expected, rtol=1e-5, atol=1e-5)
        model[2].weight[:, :, :, 0] = 0
        expected = model(fresh)
        for kind in (False, True):
            again = slim(model, x, columns=kind).model
            assert again[2].kernel_size == (2, 2)
            torch.testing.assert_close(again(fresh), expected, rtol=1e-5, atol=1e-5)
    export_onnx(model, x, tmp_path / "a.onnx")


class Shares(nn.Module):
    """One kernel in two layers, and one that is also read directly: neither can be rewritten on its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x)) + self.c(x) + F.conv2d(x, self.c.weight, dilation=2, padding=2)


def test_kernels_with_other_readers_stay():
    net, x = Shares(), torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        for layer in (net.a, net.c):
            layer.weight[:, :, [0, 2]] = 0
    result = slim(net, x, columns=True)
    assert result.report.refused is None
    assert [tuple(p.shape) for p in result.model.parameters()] == [tuple(p.shape) for p in net.parameters()]
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), net(x))


@pytest.mark.parametrize("faster", [True, False])
def test_measured_takes_what_is_faster_and_the_plan_remembers(monkeypatch, faster):
    net, x = LeNet5(), torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        net.conv2.weight[:, 3:, 2] = 0
        net.fc1.weight[:, 0] = 0
    seen = []

    def timed(first, second, inputs, rounds):
        seen.append((type(first).__name__, type(second).__name__, tuple(inputs[0].shape)))
        return 1.0, 0.5 if faster else 0.97

    monkeypatch.setattr(columns, "compare_latency", timed)
    result = slim(net, x, columns="measured")
    assert seen == [("Conv2d", "ColumnConv2d", (3, 20, 12, 12)), ("Linear", "ColumnLinear", (3, 800))]
    assert isinstance(result.model.conv2, ColumnConv2d) == faster
    assert isinstance(result.model.fc1, ColumnLinear) == faster
    monkeypatch.undo()
    again = SlimPlan.from_json(result.plan.to_json()).apply(net)
    assert [type(m) for m in again.modules()] == [type(m) for m in result.model.modules()]


def test_measured_really_measures():
    net, x = nn.Sequential(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.Conv2d(32, 4, 3)), torch.randn(8, 16, 16, 16)
    with torch.no_grad():
        net[0].weight.view(32, -1)[:, torch.randperm(400)[7:]] = 0
    result = slim(net, x, columns="measured")
    assert isinstance(result.model[0], ColumnConv2d)  # 7 columns of 400
    assert type(result.model[2]) is nn.Conv2d


def test_the_example_that_layers_are_timed_on_is_left_as_it_was():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 2)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return self.a(x.add_(1))

    net, x = Writing(), torch.randn(3, 4)
    before = x.clone()
    (met,) = columns._calls(net, x, ["a"])["a"]
    assert torch.equal(met, before + 1)
    assert torch.equal(x, before)
    assert net.count == 0


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"columns.*'auto'.*measured"):
        slim(nn.Linear(2, 2), torch.randn(1, 2), columns="auto")


def test_channels_that_one_layer_does_not_read_are_chosen_before_a_dense_kernel():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3)

        def forward(self, x):
            x = torch.relu(self.a(x))
            return self.b(x) + self.c(x)

    net, x = Fork(), torch.randn(2, 1, 9, 9)
    with torch.no_grad():
        net.b.weight[:, [0, 2, 3]] = 0
    result = slim(net, x, columns=True)
    assert type(result.model.b) is CroppedConv2d
    assert result.model.b.channels.tolist() == [1, 4, 5]
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), net(x))
        # The writer of a chosen channel dies later: the choice must follow, or the channel stay.
        again = result.model
        again.c.weight[:, 0] = 0
        again.b.weight[:, 0] = again.c.weight[:, 1] = 0
        expected = again(x)
        torch.testing.assert_close(slim(again, x, columns=True).model(x), expected)


@settings(max_examples=40)
@given(kernel=pair, stride=pair, padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=pair,
       bias=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_a_column_convolution_equals_the_sparse_one(kernel, stride, padding, dilation, bias, seed):
    torch.manual_seed(seed)
    dense = nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=bias).double()
    keep = torch.rand(3, *kernel) < 0.4
    keep.view(-1)[seed % keep.numel()] = True
    with torch.no_grad():
        dense.weight.mul_(keep)
    columns = keep.nonzero().tolist()
    layer = ColumnConv2d(4, columns, kernel, stride, padding, dilation, bias).double()
    with torch.no_grad():
        layer.weight.copy_(dense.weight[:, keep][..., None, None])
        if bias:
            layer.bias.copy_(dense.bias)
    x = torch.randn(2, 3, 9, 8).double()
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_a_column_linear_equals_the_sparse_one(shape):
    dense = nn.Linear(5, 4)
    layer = ColumnLinear(4, [1, 4])
    with torch.no_grad():
        dense.weight[:, [0, 2, 3]] = 0
        layer.weight.copy_(dense.weight[:, [1, 4]])
        layer.bias.copy_(dense.bias)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), dense(x))


def test_lenet_with_dead_kernel_positions_and_pixels():
    torch.manual_seed(0)
    net = LeNet5()
    with torch.no_grad():
        net.conv1.weight[:15] = 0
        net.conv1.bias[:15] = 0
        net.conv2.weight[:, 17, :2] = 0
        net.conv1.weight[:, :, 0] = 0
    x = torch.randn(2, 1, 28, 28)
    plain, result = slim(net, x), slim(net, x, columns=True)
    assert isinstance(result.model.conv2, ColumnConv2d)
    assert result.model.conv2.weight.shape == (50, 5 * 25 - 10, 1, 1)
    assert result.model.conv1.weight.shape == (5, 1, 4, 5)
    assert result.report.params[1] < plain.report.params[1]
    fresh = torch.randn(5, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(result.model(fresh), net.eval()(fresh), rtol=1e-5, atol=1e-5)
    again = SlimPlan.from_json(result.plan.to_json()).apply(net).eval()
    with torch.no_grad():
        assert torch.equal(again(fresh), result.model.eval()(fresh))


def test_a_column_convolution_is_differentiable_at_every_size_and_mode():
    layer = ColumnConv2d(3, [(0, 0, 1), (1, 2, 0)], (3, 3), (2, 1), ((1, 0), (0, -1)), in_channels=2).double()
    with torch.no_grad():
        layer.weight.normal_()
    with torch.inference_mode():
        layer(torch.randn(1, 2, 7, 6).double())  # what it remembers of this call must serve the next
    for size in ((7, 6), (6, 7)):
        x = torch.randn(2, 2, *size).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: layer(x), (x,))
        layer(x).sum().backward()
        expected = layer(x.detach()).flatten(2).sum((0, 2))  # linear in the weights
        got = (layer.weight.grad * layer.weight).sum((1, 2, 3)) + layer.bias.grad * layer.bias
        torch.testing.assert_close(got, expected)
        layer.zero_grad()
    assert layer(torch.randn(2, 9, 9).double()).shape == layer(torch.randn(1, 2, 9, 9).double())[0].shape
    assert layer(torch.randn(0, 2, 9, 9).double()).shape[0] == 0


def test_a_column_convolution_refuses_what_does_not_fit():
    layer = ColumnConv2d(3, [(0, 0, 1), (1, 2, 0)], (3, 3), in_channels=2)
    with pytest.raises(RuntimeError, match="3 channels, expected 2"):
        layer(torch.randn(1, 3, 5, 5))
    with pytest.raises(RuntimeError, match="kernel"):
        layer(torch.randn(1, 2, 2, 5))


def test_other_columns_that_are_loaded_are_used():
    first, second = (ColumnConv2d(1, [(0, i, i)], (3, 3), bias=False) for i in (0, 2))
    x = torch.randn(1, 1, 5, 5)
    for layer in (first, second):
        nn.init.ones_(layer.weight)
    assert torch.equal(first(x), x[..., :3, :3])
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(x), x[..., 2:, 2:])


@pytest.mark.parametrize("kind", [export_onnx, export_pt2])
def test_column_layers_are_exported(tmp_path, kind):
    pytest.importorskip("onnxscript")
    layer = ColumnConv2d(4, [(0, 0, 0), (1, 2, 1)], (3, 3), padding=((1, 0), (-1, 1)), in_channels=2)
    net = nn.Sequential(layer, nn.Flatten(), ColumnLinear(3, [0, 5, 7]))
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    path = tmp_path / ("a.onnx" if kind is export_onnx else "a.pt2")
    kind(net, torch.randn(2, 2, 7, 7), path)  # writes only what it loaded back and found equal
    assert path.stat().st_size > 0


def test_plans_of_the_first_version_are_read():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1))
    with torch.no_grad():
        net[0].weight.view(3, -1)[:, 2:] = 0
    text = (
        '{"format":1,"modules":{"0":{"keep":{},"attributes":{},"fold":null,"becomes":'
        '{"kind":"Columns","columns":[[0,0,0],[0,0,1]]}}},"shapes":{"0.weight":[3,2,3,3],"0.bias":[3]}}'
    )
    new, x = SlimPlan.from_json(text).apply(net), torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(new(x), net(x))
    assert new[0].weight.shape == (3, 2, 1, 1)


def test_input_features_that_nobody_reads_are_gathered_away():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].bias.requires_grad_(False)
    with torch.no_grad():
        net[0].weight[:, [0, 5]] = 0
    result = slim(net, torch.randn(2, 6), columns=True)
    assert isinstance(result.model[0], ColumnLinear)
    assert result.model[0].columns.tolist() == [1, 2, 3, 4]
    assert isinstance(result.model[2], nn.Linear)
    assert (result.model[0].weight.requires_grad, result.model[0].bias.requires_grad) == (True, False)
    assert isinstance(slim(net, torch.randn(2, 6)).model[0], nn.Linear)


def test_a_layer_without_any_weight_keeps_one_column():
    net = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        net[0].weight.zero_()
    result = slim(net, torch.randn(2, 6), columns=True)
    assert result.model[0].weight.shape == (4, 1)
    assert torch.equal(result.model(torch.randn(1, 6))[0], net[0].bias)
