"""Weights files of any kind: what is no state dict of plain tensors is refused with its name, and at once."""

import pytest
import torch
from torch import nn

from ssl_prune.checkpoints import load_weights, read_state_dict
from ssl_prune.errors import SlimError
from ssl_prune.shrinking.checkpoint_widths import KEY, widths_in


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_dict_that_holds_itself(tmp_path, depth):
    names = ["model", "state_dict", "net"][:depth]
    first = inner = {}
    for name in names[:-1]:
        inner[name] = {}
        inner = inner[name]
    inner[names[-1]] = first
    torch.save(first, tmp_path / "net.pt")
    with pytest.raises(SlimError, match=r"net\.pt: .* holds itself"):
        read_state_dict(tmp_path / "net.pt")


KINDS = {
    "quantised": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    "sparse": lambda weight: weight.to_sparse(),
    "sparse_csr": lambda weight: weight.to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:TypedStorage", "ignore:.*quantize")
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_plain_are_named(tmp_path, kind):
    torch.save({**net().state_dict(), "0.weight": KINDS[kind](torch.randn(4, 3))}, tmp_path / "net.pt")
    network = net()
    before = network[0].weight.clone()
    with pytest.raises(SlimError, match=r"net\.pt: 0\.weight (is (quantised|sparse).*expects dense|.*)"):
        load_weights(network, tmp_path / "net.pt")
    assert torch.equal(network[0].weight, before)


def test_tensors_without_entries_are_refused(tmp_path):
    torch.save({**net().state_dict(), "0.weight": torch.empty(4, 3, device="meta")}, tmp_path / "net.pt")
    with pytest.raises(SlimError, match=r"0\.weight"):
        load_weights(net(), tmp_path / "net.pt")


WIDTHS = {
    "one entry many times": torch.zeros(1, dtype=torch.uint8).expand(3_000_000_000),
    "no row": torch.zeros(2, 2, dtype=torch.uint8),
    "empty on meta": torch.zeros(5, dtype=torch.uint8, device="meta"),
    "no tensor": "text",
    "no text": torch.full((5,), 255, dtype=torch.uint8),
}


@pytest.mark.parametrize("kind", WIDTHS)
def test_widths_that_cannot_be(kind):
    with pytest.raises(SlimError, match="the widths in this checkpoint cannot be read"):
        widths_in({f"0.{KEY}": WIDTHS[kind]})


def test_widths_of_a_tiny_file_take_no_memory(tmp_path):
    torch.save({**net().state_dict(), KEY: WIDTHS["one entry many times"]}, tmp_path / "net.pt")
    with pytest.raises(SlimError, match=KEY):
        load_weights(net(), tmp_path / "net.pt")
