"""Sizes that depend on data: what is computed from them is no constant, and other data have others."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune import slim
from ssl_prune.graph import by_export


class Masked(nn.Module):
    """Rows of a layer's output, chosen by a mask, and something that depends on how many they are."""

    def __init__(self, count) -> None:
        super().__init__()
        self.a, self.b, self.count = nn.Linear(5, 8), nn.Linear(8, 3), count

    def forward(self, x, mask):
        h = torch.sigmoid(self.a(x))
        return self.b(self.count(h, h[mask]))


COUNTS = {
    "times": lambda h, chosen: chosen * chosen.shape[0],
    "added": lambda h, chosen: h + chosen.shape[0],
    "sum": lambda h, chosen: chosen.sum(0, keepdim=True),
    "filled": lambda h, chosen: h + torch.full((8,), 1.0 * chosen.shape[0]),
    "first channels": lambda h, chosen: F.pad(h[:, : chosen.shape[0]], (0, 8 - chosen.shape[0])),
    "moved": lambda h, chosen: h.roll(chosen.shape[0], 1),
}


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("constant", [True, False])
def test_what_a_count_makes_of_dead_channels_follows_the_data(count, constant):
    torch.manual_seed(0)
    net = Masked(count).eval()
    with torch.no_grad():
        if constant:  # a sigmoid of their biases
            net.a.weight[:3] = 0
        else:
            net.b.weight[:, :3] = 0
    masks = [torch.arange(7) < n for n in (4, 2, 6)]
    slimmed = slim(net, (torch.randn(7, 5), masks[0])).model
    for mask in masks:
        x = torch.randn(7, 5)
        torch.testing.assert_close(slimmed(x, mask), net(x, mask))


def test_the_program_has_the_sizes_of_the_example():
    net = Masked(COUNTS["times"]).eval()
    program = by_export(net, (torch.randn(7, 5), torch.arange(7) < 4)).program
    assert (4, 8) in {tuple(n.meta["val"].shape) for n in program.graph.nodes if hasattr(n.meta.get("val"), "shape")}
