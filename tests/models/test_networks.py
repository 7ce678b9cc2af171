import copy
import pickle

import pytest
import torch
from torch import nn

from ssl_prune import models

COUNTS = {
    "LeNet300100": 266_610,
    "MLP": 545_810,
    "LeNet5": 431_080,
    "ConvNet": 89_578,  # 75 * 32 + 800 * 32 + 800 * 64 weights, 128 biases, 1024 * 10 + 10
    "ResNet20": 272_474,  # 269,722 with identity shortcuts, and two projections: 512 + 64, 2048 + 128
    "ResNet32": 466_906,
    "ResNet56": 855_770,
    "ResNet18": 11_173_962,
    "VGG16BN": 14_728_266,
    "MobileNetV1": 3_217_226,  # 4,231,976 of the ImageNet network, with 10 outputs for 1000
    "MobileNetV2": 2_236_682,  # 3,504,872 of the ImageNet network, with 10 outputs for 1000
    # 4704 of the patches, 6144 of the positions, 111,840 a block, 192 and 970 at the end
    "ViT": 459_370,
}
# ResNet32 and ResNet56 are ResNet20 with more blocks of the same kind.
NETWORKS = [name for name in COUNTS if name not in ("ResNet32", "ResNet56")] + ["DigitsNet"]


def small(name, **arguments):
    """The network, with an eighth of the filters where it would be slow."""
    if name == "ViT" and arguments.get("image_size") == 33:
        arguments["patch"] = 3
    if name == "ResNet18":
        arguments["widths"] = (8, 16, 32, 64)
    if name in ("VGG16BN", "MobileNetV1", "MobileNetV2"):
        arguments["width"] = 0.125
    return getattr(models, name)(**arguments).eval()


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_published_parameter_counts(name, count):
    assert parameters(getattr(models, name)()) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_input_shape_is_what_the_network_takes(name):
    model = small(name)
    with torch.no_grad():
        assert model(torch.randn(2, *model.input_shape)).shape == (2, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_arguments_change_channels_size_and_classes(name):
    model = small(name, in_channels=2, image_size=33, num_classes=7)
    assert model.input_shape == (2, 33, 33)
    with torch.no_grad():
        assert model(torch.randn(2, 2, 33, 33)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_and_pickles(name):
    model = small(name)
    x = torch.randn(2, *model.input_shape)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)


@pytest.mark.parametrize("name", ["MLP", "LeNet5", "ResNet20", "VGG16BN", "MobileNetV2"])
def test_the_first_weights_have_the_variance_of_their_filler(name):
    gain = 1 if name == "LeNet5" else 2  # Caffe's "xavier" for its own network, He's for those with ReLUs
    for layer in small(name).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            if layer.weight.numel() > 1000:
                assert layer.weight.std().item() == pytest.approx((gain / fan_in) ** 0.5, rel=0.15)
            assert layer.bias is None or not layer.bias.any()


def test_lenet5_is_linear_up_to_its_poolings():
    model = models.LeNet5()
    x = torch.zeros(1, 1, 28, 28)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.conv1.bias[0] = -1.0
        model.conv2.weight[0, 0, 0, 0] = 1.0  # channel 0 of conv2 is -1: a ReLU anywhere before fc1 would lose it
        model.fc1.weight[0, 0] = -1.0
        model.fc2.weight[0, 0] = 1.0
        assert model(x)[0, 0] == 1.0


def test_convnet_averages_only_what_lies_inside_the_image():
    model = models.ConvNet()
    seen = []
    model.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.conv3.bias.fill_(3.0)
        model(torch.zeros(1, 3, 32, 32))
    assert torch.equal(seen[0], torch.full((1, 1024), 3.0))


def test_resnet_shortcuts_are_projections_where_the_shape_changes():
    model = models.ResNet20()
    kinds = [type(block.shortcut) for name in ("layer1", "layer2", "layer3") for block in model.get_submodule(name)]
    identity, projection = nn.Identity, nn.Sequential
    assert kinds == [identity] * 3 + [projection, identity, identity] * 2
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 19


def test_a_dead_residual_branch_leaves_the_shortcut():
    block = models.ResNet20().layer1[0].eval()
    x = torch.randn(2, 16, 8, 8).relu()
    with torch.no_grad():
        block.bn2.weight.zero_()
        assert torch.equal(block(x), x)


def test_mobilenet_widths_are_multiples_of_eight():
    for model in (models.MobileNetV1(width=0.35), models.MobileNetV2(width=0.35)):
        filters = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert all(n % 8 == 0 for n in filters)
        assert all(n >= 8 for n in filters)
    assert models.MobileNetV2(width=0.35).fc.in_features == 1280
    assert models.MobileNetV2(width=1.4).fc.in_features == 1792


def test_mobilenetv2_parameters_of_a_published_width():
    # torchvision's mobilenet_v2(width_mult=0.5) has 1,968,680 parameters with 1000 classes.
    assert parameters(models.MobileNetV2(width=0.5, num_classes=1000)) == 1_968_680


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="image_size is 8, expected at least 16"):
        models.LeNet5(image_size=8)
    with pytest.raises(ValueError, match="image_size is 7, expected at least 8"):
        models.ConvNet(image_size=7)
    assert models.ConvNet(image_size=8)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(ValueError, match="expected at least 32"):
        models.VGG16BN(image_size=8)
    with pytest.raises(ValueError, match="3 stages in blocks and 2 in widths"):
        models.ResNet((1, 1, 1), (8, 16))


@pytest.mark.parametrize("build", [models.MobileNetV1, models.MobileNetV2, models.VGG16BN])
@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_a_width_that_is_none_is_refused(build, width):
    with pytest.raises(ValueError, match=f"width is {width}, expected a factor above 0"):
        build(width=width)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"hidden": 0}, "hidden is 0, expected at least 1"), ({"patch": 0}, "patches of 0"), ({"heads": 0}, "0 heads")],
)
def test_a_transformer_of_nothing_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        models.ViT(depth=1, **wrong)


@pytest.mark.parametrize("build", [models.LeNet5, models.LeNet300100])
def test_dropout_acts_in_training_only_and_draws_nothing_when_off(build):
    x = torch.randn(4, 1, 28, 28)
    torch.manual_seed(0)
    dropping, plain = build(dropout=(0.5, 0.5)), build()
    plain.load_state_dict(dropping.state_dict())
    assert torch.equal(dropping.eval()(x), plain.eval()(x))
    assert not torch.equal(dropping.train()(x), plain.train()(x))
    before = torch.get_rng_state()
    plain(x)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=r"dropout is \(1.5, 0\)"):
        build(dropout=(1.5, 0))
