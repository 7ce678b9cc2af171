"""Every zero structure that stays is in the report, with the layer it is in."""

import torch
from torch import nn

from ssl_prune import slim


def reasons(model: nn.Module, *inputs: torch.Tensor) -> dict[str, str]:
    return {kept.layer: kept.reason for kept in slim(model, inputs).report.kept}


def test_each_pinned_channel_has_the_reason_of_its_own_layer():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
    )
    with torch.no_grad():
        net[0].weight[:, 1] = 0
        net[0].weight[5] = 0
        net[1].weight[3] = 0
        net[2].weight[:, 6] = 0
        net[4].weight[2] = 0
    found = slim(net, torch.randn(2, 3, 4, 4)).report.kept
    pinned = "its channels can never be removed: "
    assert {(k.layer, k.count, k.reason.removeprefix(pinned)) for k in found} == {
        ("0", 1, "they belong to an input of the network"),
        ("0", 1, "group normalisation runs over the channels (1)"),
        ("1", 1, "group normalisation runs over the channels (1)"),
        ("2", 1, "group normalisation runs over the channels (1)"),
        ("4", 1, "it reaches an output of the network"),
    }


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.shortcut, self.c = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x) + self.shortcut(x))
        return self.b(h) + self.c(h)


def test_the_reason_names_who_still_writes_and_who_still_reads():
    net = Two()
    with torch.no_grad():
        net.shortcut.weight[2] = 0
        net.b.weight[:, 4] = 0
    found = reasons(net, torch.randn(2, 4))
    assert found["shortcut"] == "b still reads a signal there, which a writes"
    assert found["b"] == "c still reads a signal there, which a writes"
    assert set(found) == {"shortcut", "b"}


def test_rows_of_a_table_that_only_the_example_leaves_out():
    net = nn.Sequential(nn.Embedding(6, 5), nn.GELU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[0].weight[:3, 1] = 0
        net[0].weight[4] = 0
    found = {(k.layer, k.count, k.reason.rpartition(": ")[2]) for k in slim(net, torch.tensor([[0, 1, 2]])).report.kept}
    assert found == {
        ("0", 1, "zero in all rows of the table that the example chooses, but not in others"),
        ("0", 1, "the rows of an embedding are chosen by the input (0)"),
    }


def test_units_of_two_kinds_of_tensors_are_told_apart():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        net[0].weight[:4, 1] = 0  # channel 1 of the input, read by the first group alone
    (kept,) = slim(net, torch.randn(2, 4, 5, 5)).report.kept
    assert (kept.layer, kept.count) == ("0", 1)
    assert kept.reason.endswith("they belong to an input of the network")
