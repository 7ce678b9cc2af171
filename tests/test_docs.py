"""The pages of docs/ name what exists: their Python blocks run, their options, paths, configs and classes are there."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import ssl_prune
from ssl_prune import callbacks

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def everything():
    """Every public name of the rooms that users meet."""
    found = vars(ssl_prune).copy()
    for name in (
        "groups",
        "penalties",
        "scores",
        "selection",
        "schedules",
        "triggers",
        "masks",
        "solvers",
        "callbacks",
    ):
        module = importlib.import_module(f"ssl_prune.{name}")
        found |= {each: getattr(module, each) for each in module.__all__}
    return found


@pages
def test_python_blocks_run(page):
    net = nn.Sequential()
    net.conv1, net.relu, net.layer4 = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3)
    net.pool, net.flat, net.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    x = torch.randn(2, 1, 8, 8)
    batches = [(x, torch.tensor([0, 1]))] * 2
    known = everything() | {"net": net, "x": x, "batches": batches, "loss": nn.functional.cross_entropy}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(block, dict(known))


@pages
def test_options_exist(page):
    takers = [ssl_prune.slim, *(getattr(callbacks, name) for name in callbacks.__all__), *everything().values()]
    known = {
        name for taker in takers if callable(taker) and not inspect.isabstract(taker) for name in parameters(taker)
    }
    known |= {"ckpt_path", "save_distributed_checkpoint", "enable_model_summary", "callbacks"}  # of Lightning
    said = re.findall(r"`[^`]*`", page.read_text())
    options = {name for text in said for name in re.findall(r"\b([a-z_]+)=(?!=)", text)}
    assert options <= known


def parameters(taker):
    try:
        return inspect.signature(taker).parameters
    except (TypeError, ValueError):
        return ()


@pages
def test_paths_exist(page):
    text = page.read_text()
    configs = {ROOT / path for path in re.findall(r"configs/\w+\.yaml", text)}
    configs |= {ROOT / "configs" / name for name in re.findall(r"^\| `(\w+\.yaml)`", text, re.M)}
    links = {page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    assert not [path for path in configs | links if not path.exists()]


def test_the_tree_is_that_of_the_package():
    tree = re.search(r"```\nssl_prune/(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.S)[1]
    names = set(re.findall(r"^  (\w+(?:/|\.py).*?)(?:   |$)", tree, re.M))
    named = {name.rstrip("/") for line in names for name in re.findall(r"\w+/|\w+\.py", line)}
    here = {p.name for p in (ROOT / "ssl_prune").iterdir() if p.is_dir() or p.suffix == ".py"}
    assert named == {name for name in here if not name.startswith("_")} - {"errors.py"}
