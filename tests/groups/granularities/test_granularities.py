from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ssl_prune.groups import GRANULARITIES, Neuron, partition


def graph_of(fake: Any, **axes: tuple[int, str, list[int]]) -> Any:
    """A graph with axes given as layer_weight=(axis, role, units)."""
    found = tuple(
        type(fake.axes[0])(name.replace("_", "."), axis, role, torch.tensor(units))
        for name, (axis, role, units) in axes.items()
    )
    count = 1 + max(int(a.units.max()) for a in found)
    return type(fake)(count, found, ("0",) * count)


def test_entry_is_every_weight_entry_and_no_vector(residual: nn.Module) -> None:
    groups = partition(residual, "weight")
    weights = [residual.conv1.weight, residual.conv2.weight, residual.fc.weight]
    assert [m.name for m in groups.members] == ["conv1.weight", "conv2.weight", "fc.weight"]
    assert all(m.index is None for m in groups.members)
    torch.testing.assert_close(groups.norms(), torch.cat([w.detach().abs().flatten() for w in weights]))
    assert groups.describe(12 + 9) == "conv2 weight (0, 1, 0, 0)"
    assert groups.layers[groups.layer[-1]] == "fc"


def test_filter_leaves_the_classifier_out(residual: nn.Module, residual_graph: Any) -> None:
    groups = partition(residual, "filter", graph=residual_graph)
    expected = torch.cat([residual.conv1.weight.flatten(1).norm(dim=1), residual.conv2.weight.flatten(1).norm(dim=1)])
    torch.testing.assert_close(groups.norms(), expected.detach())
    assert groups.describe(6) == "conv2 filter 2"
    with pytest.raises(ValueError, match="no filter groups: no output of the selected layers can be removed"):
        partition(residual, "filter", graph=residual_graph, include="fc")


def test_channel_gathers_flattened_columns_and_skips_the_input(residual: nn.Module, residual_graph: Any) -> None:
    groups = partition(residual, "channel", graph=residual_graph)
    conv = residual.conv2.weight.detach().transpose(0, 1).flatten(1).norm(dim=1)
    fc = residual.fc.weight.detach().view(5, 4, 4).transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(groups.norms(), torch.cat([conv, fc]))
    assert groups.sizes.tolist() == [36] * 4 + [20] * 4


def test_shape_is_columns_of_the_matrix(residual: nn.Module) -> None:
    groups = partition(residual, "shape")
    weights = (residual.conv1.weight, residual.conv2.weight, residual.fc.weight)
    torch.testing.assert_close(groups.norms(), torch.cat([w.detach().flatten(1).norm(dim=0) for w in weights]))
    assert groups.describe(3 + 9 + 4) == "conv2 shape (1, 1, 1)"


def test_depth_takes_bias_and_normalisation(residual: nn.Module, residual_graph: Any) -> None:
    groups = partition(residual, "depth", graph=residual_graph)
    names = {m.name for m in groups.members}
    assert names == {"conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias"}
    assert (groups.num_groups, groups.sizes.item(), groups.describe(0)) == (1, 144 + 12, "conv2 depth")
    groups.scale_(torch.zeros(1))
    x = torch.randn(2, 3, 2, 2)
    shortcut = torch.relu(residual.eval().bn1(residual.conv1(x)))
    torch.testing.assert_close(residual(x), residual.fc(shortcut.flatten(1)))
    with pytest.raises(ValueError, match="no shortcut bypasses"):
        partition(residual, "depth", graph=residual_graph, include="conv1")


def test_neuron_out_is_columns_network_inputs_included() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4), nn.Conv1d(4, 4, 1))
    groups = partition(net, "neuron")
    torch.testing.assert_close(groups.norms(), torch.cat([net[i].weight.detach().norm(dim=0) for i in (0, 1)]))


def test_neuron_in_is_rows_with_bias_outputs_left_out(residual_graph: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    graph = graph_of(residual_graph, **{"0_weight": (0, "writer", [0, 1]), "1_weight": (0, "writer", [-1] * 4)})
    groups = partition(net, Neuron(side="in"), graph=graph)
    rows = torch.cat([net[0].weight, net[0].bias[:, None]], 1).detach().norm(dim=1)
    torch.testing.assert_close(groups.norms(), rows)
    with pytest.raises(ValueError, match='side must be "out" or "in"'):
        Neuron(side="up")  # type: ignore[arg-type]


def test_coupled_is_all_that_writes_a_unit(residual: nn.Module, residual_graph: Any) -> None:
    groups = partition(residual, "coupled", graph=residual_graph)
    assert groups.sizes.tolist() == [3 + 36 + 5] * 4
    assert groups.describe(2) == "conv1 unit 2"
    groups.scale_(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    x = torch.randn(2, 3, 2, 2)
    y = torch.relu(residual.eval().bn1(residual.conv1(x)))
    assert not (y + residual.bn2(residual.conv2(y)))[:, 1].any()  # the whole unit is silent


def test_coupled_groups_are_whole_or_absent(residual: nn.Module, residual_graph: Any) -> None:
    with pytest.raises(ValueError, match="no unit is written by the selected layers alone"):
        partition(residual, "coupled", graph=residual_graph, include="conv1")
    kept = partition(residual, "coupled", graph=residual_graph, exclude="fc")
    assert kept.num_groups == 4


def test_no_coupled_groups_says_why_layer_by_layer() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"; 0: softmax runs over the channels \(1\); 2: it reaches an output"):
        partition(net, "coupled", example_inputs=torch.randn(2, 3))


def test_coupled_leaves_out_units_that_cross_in_one_parameter(residual_graph: Any) -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    axis = type(residual_graph.axes[0])
    axes = (
        axis("0.weight", 0, "writer", torch.tensor([0, 1, 2])),
        axis("0.weight", 1, "writer", torch.tensor([3, 4])),
        axis("0.bias", 0, "writer", torch.tensor([0, 1, 2])),
    )
    groups = partition(net, "coupled", graph=type(residual_graph)(5, axes, ("0",) * 5))
    assert groups.num_groups == 3


def test_a_stale_graph_is_named(residual_graph: Any) -> None:
    with pytest.raises(ValueError, match=r"the graph names conv1\.weight, which Sequential does not have"):
        partition(nn.Sequential(nn.Linear(2, 2)), "coupled", graph=residual_graph)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("blocks", [1, 2])
def test_transposed_filters_are_output_channels(residual_graph: Any, dims: int, blocks: int) -> None:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    layer = kind(4, 6, 2, groups=blocks, bias=False)
    units = list(range(6 // blocks))
    graph = graph_of(residual_graph, **{"0_weight": (1, "writer", units)})
    groups = partition(nn.Sequential(layer), "filter", graph=graph)
    assert groups.num_groups == 6
    for n in range(6):  # a group at zero is an output channel at zero, for each of them
        saved = layer.weight.detach().clone()
        groups.scale_(torch.arange(6).ne(n).float())
        silent = layer(torch.randn(2, 4, *[3] * dims)).abs().sum(dim=[0, *range(2, dims + 2)]) == 0
        assert silent.nonzero().tolist() == [[n]]
        layer.weight.data.copy_(saved)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_shape_groups_tile_any_convolution(dims: int, blocks: int, transposed: bool) -> None:
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    layer = getattr(nn, name)(4, 6, 2, groups=blocks)
    groups = partition(nn.Sequential(layer), "shape")
    # Each input channel has 2^dims positions, read by the 6 / blocks outputs of its block.
    assert groups.num_groups == 4 * 2**dims
    assert groups.sizes.tolist() == [6 / blocks] * groups.num_groups


def test_depthwise_layers_have_no_shapes_or_channels(residual_graph: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3))
    with pytest.raises(ValueError, match="all the selected layers are depthwise"):
        partition(net, "shape")
    graph = graph_of(residual_graph, **{"0_weight": (0, "reader", [0, 1, 2])})
    with pytest.raises(ValueError, match="or are depthwise"):
        partition(net, "channel", graph=graph)


@pytest.mark.parametrize("granularity", ["weight", "shape", "neuron"])
def test_shared_parameters_are_one_member(granularity: str) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert len(partition(net, granularity).members) == 1


def test_errors_tell_the_way_out(residual: nn.Module) -> None:
    for given in (3, Neuron, None):
        with pytest.raises(TypeError, match=r"granularity: got .*, expected one of weight, "):
            partition(nn.Sequential(nn.Linear(2, 2)), given)
    with pytest.raises(ValueError, match=f"unknown granularity 'row'; expected one of {', '.join(GRANULARITIES)}"):
        partition(residual, "row")
    with pytest.raises(ValueError, match=r"pass graph=trace\(model, example_inputs\), or example_inputs"):
        partition(residual, "filter")
    with pytest.raises(ValueError, match=r"0: weight is not a parameter of .*exclude the layer"):
        partition(nn.Sequential(weight_norm(nn.Linear(2, 2))), "weight")


def test_the_model_itself_may_be_the_layer() -> None:
    assert partition(nn.Linear(2, 3), "neuron").members[0].name == "weight"
