import platform
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from ssl_prune.latency import compare_latency, latency, without_zeros
from ssl_prune.utils.inputs import batch_of

CALLS = []  # of no network, each of which is left as it was


class Sleeps(nn.Module):
    """Sleeps as long as it is told; the first call only looks what the network writes into."""

    def __init__(self, name, seconds):
        super().__init__()
        self.name, self.seconds = name, [0.0, *seconds]

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        globals()["CALLS"] = [*CALLS, self.name]
        time.sleep(self.seconds[CALLS.count(self.name) - 1])
        return x


@pytest.fixture(autouse=True)
def no_calls(monkeypatch):
    monkeypatch.setitem(globals(), "CALLS", [])


def test_median_without_the_warmup():
    net = Sleeps("a", [0.2, 0.001, 0.001, 0.1])
    assert 0.001 <= latency(net, torch.zeros(1), rounds=3, warmup=1) < 0.05
    assert CALLS == ["a"] * 5
    assert net.training


def test_two_networks_run_in_turns():
    first, second = Sleeps("a", [0.02] * 4), Sleeps("b", [0.001] * 4)
    slow, fast = compare_latency(first, second, torch.zeros(1), rounds=3, warmup=1)
    assert CALLS[2:] == list("abbaabba")
    assert slow > fast


FAULTS = """
import resource, torch
from ssl_prune.latency import latency

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def ones():
    before = faults()
    outputs = [torch.ones(3 * 2**19) for _ in range(4)]  # of 6 MiB each, as of the layers of a network
    del outputs
    return faults() - before

latency(torch.nn.Identity(), torch.zeros(1), rounds=1)
for _ in range(4):  # in which the heap may grow
    ones()
print(sum(ones() for _ in range(12)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_pass_takes_the_memory_of_the_one_before_it():
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 500  # each of the 12 passes has 6,144 pages


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds is 0"):
        latency(nn.Identity(), torch.zeros(1), rounds=0)


def test_a_batch_to_time_has_the_numbers_of_the_example_in_other_orders():
    image = torch.randn(1, 2, 5, 5)
    tokens, scale = torch.arange(6)[None], torch.tensor(3.0)
    made = batch_of({"image": image, "tokens": tokens, "scale": scale}, 8)
    assert made["image"].shape == (8, 2, 5, 5)
    assert torch.equal(made["image"][0], image[0])
    assert torch.equal(made["image"].flatten(1).sort(1).values, image.flatten(1).sort(1).values.expand(8, -1))
    assert len(made["image"].unique(dim=0)) == 8
    assert torch.equal(made["tokens"], tokens.expand(8, -1))  # they name things
    assert made["scale"] is scale
    assert torch.equal(image, batch_of(image, 1))
    again = batch_of(image, 8)
    assert torch.equal(again, made["image"])  # every process times the same


def test_a_copy_to_time_has_no_channel_at_zero():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2], net[1].weight[2], net[2].bias[:] = 0, 0, 0, 0
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    filled = without_zeros(net)
    assert all((p != 0).all() for name, p in filled.named_parameters() if name != "1.bias")
    assert filled[0].weight[2].abs().max() <= net[0].weight.abs().max()  # values of the same size
    assert torch.equal(filled[0].weight[:2], net[0].weight[:2])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
