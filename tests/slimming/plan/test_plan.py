"""Plans are data, and enough to cut a fresh network."""

import copy
import json

import pytest
import torch
from torch import nn

from ssl_prune import SlimPlan, load_slim, save_slim, slim
from ssl_prune.errors import SlimError
from ssl_prune.slimming.plan.plan import Fold, ModulePlan


def network(width=6):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.SiLU(), nn.Conv2d(width, 4, 3, bias=False), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[1].bias.normal_()
        net[3].weight[:, 4] = 0
        net[5].weight[:, 8:12] = 0
    return net


def image():
    return torch.randn(2, 3, 6, 6)


@pytest.fixture(scope="module")
def made():
    net = network()
    return net, slim(net, image())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_json_round_trip(made):
    _, result = made
    text = result.plan.to_json()
    assert SlimPlan.from_json(text) == result.plan
    assert SlimPlan.from_json(text).to_json() == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_apply_gives_the_slim_network(made):
    net, result = made
    again = SlimPlan.from_json(result.plan.to_json()).apply(network())
    assert equal(again.state_dict(), result.model.state_dict())
    assert repr(again) == repr(result.model)
    assert result.model[0].out_channels == 3
    assert result.model[5].in_features == 12
    assert result.model[3].bias is not None
    assert net[3].bias is None


def test_apply_copies_unless_told(made):
    _, result = made
    net = network()
    before = copy.deepcopy(net.state_dict())
    assert result.plan.apply(net) is not net
    assert equal(before, net.state_dict())
    assert result.plan.apply(net, inplace=True) is net
    assert equal(net.state_dict(), result.model.state_dict())


def test_another_width_names_the_layer_and_both_shapes(made):
    _, result = made
    with pytest.raises(SlimError, match=r"^0\.weight: got shape \(7, 3, 3, 3\).*\(6, 3, 3, 3\)"):
        result.plan.apply(network(7))
    with pytest.raises(SlimError, match=r"^0\.weight: got shape"):
        result.plan.apply(result.model)


def test_another_architecture_names_what_is_missing(made):
    _, result = made
    net = nn.Sequential(*[network()[i] for i in range(4)])
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(SlimError, match=r"5\.weight: not in this Sequential"):
        result.plan.apply(net, inplace=True)
    assert equal(before, net.state_dict())


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "modules": [], "shapes": {}}',
                                  '{"format": "1", "modules": {}, "shapes": {}}'])  # fmt: skip
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(SlimError, match="plan"):
        SlimPlan.from_json(text)


def test_a_newer_format_is_refused(made):
    data = json.loads(made[1].plan.to_json())
    data["format"] = 99
    with pytest.raises(SlimError, match=r"99.*newer"):
        SlimPlan.from_json(json.dumps(data))


def test_an_unknown_kind_of_module_is_refused():
    net = nn.Sequential(nn.Linear(2, 2))
    plan = SlimPlan({"0": ModulePlan(becomes={"kind": "Surprise"})}, {})
    with pytest.raises(SlimError, match="Surprise"):
        plan.apply(net)


def test_frozen_parameters_stay_frozen():
    net = network()
    for p in net[0].parameters():
        p.requires_grad_(False)
    net[5].bias.requires_grad_(False)
    with torch.no_grad():
        net[3].weight[0] = 0  # nothing to fold into 5, but its column goes
    result = slim(net, image())
    assert [n for n, p in result.model.named_parameters() if not p.requires_grad] == ["0.weight", "0.bias", "5.bias"]
    for model in (net, result.model):
        model.train()(image()).sum().backward()
        assert model[0].weight.grad is None
    assert all(p.is_leaf for p in result.model.parameters())


@pytest.mark.parametrize("frozen", ["bias", "weight"])
def test_a_fold_into_a_bias_leaves_its_flag(frozen):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    getattr(net[1], frozen).requires_grad_(False)
    plan = SlimPlan({"1": ModulePlan(fold=Fold([0], [2.0]))}, {})
    cut = plan.apply(net)
    assert cut[1].bias.requires_grad == (frozen == "weight")
    torch.testing.assert_close(cut[1].bias, net[1].bias + 2 * net[1].weight[:, 0])


def test_tied_weights_stay_tied():
    a, b = nn.Linear(6, 6), nn.Linear(6, 6)
    b.weight = a.weight
    net = nn.Sequential(nn.Linear(3, 6), a, nn.ReLU(), b, nn.Linear(6, 2))
    with torch.no_grad():
        for layer in (net[0], a, b):
            layer.weight[:2] = 0
            layer.bias[:2] = 0
    result = slim(net, torch.randn(2, 3))
    assert result.model[1].weight is result.model[3].weight
    assert result.model[1].weight.shape == (4, 4)
    assert result.model[1].bias is not result.model[3].bias


def test_slim_without_anything_dead_is_the_network_itself():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    result = slim(net, torch.randn(2, 3))
    assert result.plan.modules == {}
    assert equal(net.state_dict(), result.model.state_dict())
    assert result.model is not net
    assert result.report.max_error == 0


class Attention(nn.Module):
    """Attention over a sequence to itself."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_a_plan_may_have_a_second_step(tmp_path):
    net = Attention().eval()
    with torch.no_grad():
        for tensor in (net.attention.in_proj_weight, net.attention.in_proj_bias):
            tensor[[8, 9]] = 0  # the values of the first head, which takes it away
        net.attention.in_proj_weight[:4, 1:] = 0  # queries read one feature of four
    x = torch.randn(2, 5, 4)
    result = slim(net, x, columns=True)
    assert result.plan.then is not None
    assert list(result.plan.then.modules) == ["attention.q_proj"]
    assert result.report.params[1] == sum(p.numel() for p in result.model.parameters())
    text = result.plan.to_json()
    assert json.loads(text)["format"] == 2
    assert SlimPlan.from_json(text) == result.plan
    torch.testing.assert_close(SlimPlan.from_json(text).apply(net)(x), net(x))
    save_slim(tmp_path / "net.safetensors", result)
    assert torch.equal(load_slim(tmp_path / "net.safetensors", Attention().eval())(x), result.model(x))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_tensors_that_a_step_of_training_left_are_no_obstacle():
    class Remembers(nn.Sequential):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    net = Remembers(nn.Linear(4, 8), nn.ReLU(), torch.nn.utils.weight_norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight[:3], net[0].bias[:3] = 0, 0
    net(torch.randn(3, 4)).sum().backward()
    result = slim(net, torch.randn(2, 4))
    torch.testing.assert_close(result.model(torch.ones(1, 4)), net(torch.ones(1, 4)))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("a word", "not a slim plan"),
        ({"modules": {}}, "not a slim plan"),
        ({"modules": {}, "shapes": {"nowhere.weight": [2, 3]}}, "nowhere.weight: not in this"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_damaged_second_step_is_refused(second, words, inplace):
    net = nn.Linear(2, 3)
    first = SlimPlan({"": ModulePlan({"weight": {1: [0]}}, {"in_features": 1})}, {"weight": [3, 2]})
    data = {**json.loads(first.to_json()), "format": 2, "then": second}
    with pytest.raises(SlimError, match=words):
        SlimPlan.from_json(json.dumps(data)).apply(net, inplace=inplace)
    assert net.weight.shape == (3, 2)
    assert net.in_features == 2


def test_a_plan_of_a_newer_format_is_refused():
    with pytest.raises(SlimError, match="plan format 3: this version reads up to 2"):
        SlimPlan.from_json(json.dumps({"format": 3, "modules": {}, "shapes": {}}))


def test_a_cut_keeps_channels_last_in_memory():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[0].bias[:3] = 0
    net = net.to(memory_format=torch.channels_last)
    cut = slim(net, torch.randn(1, 3, 8, 8)).model
    assert cut[0].out_channels == 5
    assert all(cut[i].weight.is_contiguous(memory_format=torch.channels_last) for i in (0, 2))
