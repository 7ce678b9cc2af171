"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import ssl_prune
import ssl_prune.callbacks

ABSTRACT = {
    "BudgetProblem",
    "IndivisibleGroups",
    "LatencyModel",
    "Reader",
    "Solver",
}  # shown by what builds on them, or makes them
ROOMS = [
    "budget",
    "callbacks",
    "costs",
    "data",
    "errors",
    "graph",
    "groups",
    "masks",
    "models",
    "penalties",
    "report",
    "schedules",
]
ROOMS += ["scores", "selection", "shrinking", "slimming", "solvers", "timing", "triggers"]
MODULES = sorted(
    {m.name for m in pkgutil.walk_packages(ssl_prune.__path__, "ssl_prune.")}
    | {m.name for m in pkgutil.walk_packages(ssl_prune.callbacks.__path__, "ssl_prune.callbacks.")}
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_public_classes_have_examples():
    finder = doctest.DocTestFinder(recurse=False)
    for room in ROOMS:
        module = importlib.import_module(f"ssl_prune.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type) and name not in ABSTRACT:
                assert any(test.examples for test in finder.find(thing, name)), f"{room}.{name} has no example"
