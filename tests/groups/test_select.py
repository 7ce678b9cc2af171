import pytest
from torch import nn

from ssl_prune.groups import partition, select_layers


@pytest.fixture
def net() -> nn.Module:
    block = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.ConvTranspose1d(2, 2, 1))
    return nn.ModuleDict({"stem": nn.Conv1d(1, 2, 1), "block": block, "head": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ["stem", "block.0", "block.2", "head"]),
        ("block", None, ["block.0", "block.2"]),
        ("block.*", None, ["block.0", "block.2"]),
        (nn.Sequential, None, ["block.0", "block.2"]),
        ([nn.Conv1d, "head"], None, ["stem", "block.0", "head"]),
        (None, "head", ["stem", "block.0", "block.2"]),
        ("block", nn.ConvTranspose1d, ["block.0"]),
        ("*", ["stem", "head"], ["block.0", "block.2"]),
    ],
)
def test_selection(net: nn.Module, include: object, exclude: object, expected: list[str]) -> None:
    assert list(select_layers(net, include, exclude)) == expected


@pytest.mark.parametrize("role", ["include", "exclude"])
@pytest.mark.parametrize("pattern", ["conv9", nn.Conv3d, ["head", "nothing*"]])
def test_no_match_names_the_layers(net: nn.Module, role: str, pattern: object) -> None:
    with pytest.raises(ValueError, match=rf"{role}: .* matches no layer; the layers are stem, block.0, block.2, head"):
        select_layers(net, **{role: pattern})


def test_nothing_left(net: nn.Module) -> None:
    with pytest.raises(ValueError, match="leave no layer of stem"):
        select_layers(net, "head", "head")


def test_nothing_to_group() -> None:
    with pytest.raises(ValueError, match="ReLU has no convolution or linear layer"):
        select_layers(nn.ReLU())


@pytest.mark.parametrize("wrong", ["net", None, nn.Linear])
def test_what_is_no_network_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"model: got .*, expected a network, an object of torch.nn.Module"):
        partition(wrong, "weight")  # type: ignore[arg-type]


def test_a_module_is_not_a_pattern(net: nn.Module) -> None:
    with pytest.raises(TypeError, match="expected a name pattern or a module type"):
        select_layers(net, [3])
