"""A slim file, once written, is read for ever: stored files of each format give the very outputs they gave then.

Weights are multiples of 1/4, inputs whole numbers and variances powers of 4, so every sum here is exact in float64 and
the outputs are the same bits on every machine. A new format adds a file and a test; the old ones are never remade.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from ssl_prune.slimming import load_slim
from ssl_prune.slimming.modules.column_conv import ColumnConv2d
from ssl_prune.slimming.modules.constant import Constant

DATA = Path(__file__).parent / "data"


class Everything(nn.Module):
    """A bit of everything a plan can say: folds, a constant branch, columns, tied weights, depthwise, no bias."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6, eps=0.0)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.branch = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 1))
        self.lower = nn.Conv2d(6, 5, 3, bias=False)
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = self.depthwise(x)
        x = x + self.branch(x)
        x = torch.relu(self.lower(x)).sum((2, 3))
        return self.head(self.second(torch.relu(self.first(x))))


def images():
    """(2, 2, 5, 5) whole numbers from -3 to 3."""
    return torch.tensor([(7 * i * i + 3 * i) % 7 - 3 for i in range(100)], dtype=torch.float64).view(2, 2, 5, 5)


def test_format_1_gives_the_same_bits_for_ever():
    """Written by version 0.1.0 with `slim(Everything().double(), images(), columns=True)`."""
    dense = Everything().double().eval()
    model = load_slim(DATA / "slim_format1.safetensors", dense)
    assert isinstance(model.lower, ColumnConv2d)
    assert isinstance(model.branch[2], Constant)
    assert model.first.weight is model.second.weight
    with torch.no_grad():
        outputs = model(images())
    assert outputs.tolist() == [[0.0625, 1.578125, -0.4375], [-15.066650390625, -13.504150390625, 5.76416015625]]


def test_the_stored_file_is_of_format_1():
    """And says everything that a plan of that format can say."""
    with safe_open(DATA / "slim_format1.safetensors", "pt") as file:
        metadata = file.metadata()
    plan = json.loads(metadata["plan"])
    assert (json.loads(metadata["ssl_prune"])["format"], plan["format"]) == (1, 1)
    assert json.loads(metadata["ssl_prune"])["aliases"] == {"second.weight": "first.weight"}
    kinds = {m["becomes"]["kind"] for m in plan["modules"].values() if m["becomes"]}
    assert kinds == {"Identity", "Constant", "Columns"}
    assert any(m["fold"] for m in plan["modules"].values())
