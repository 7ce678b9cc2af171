"""One thread, so that tests are fast beside each other, a fixed seed for each test, and no rule fails unheard."""

import gc
import os

# Threads that wait for each other on a busy processor make a convolution a hundred times slower. By the environment, so
# that processes which tests start have one too, and Lightning's strategies leave the number as it is.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls

import pytest
import torch
from hypothesis import settings

from ssl_prune.graph import faults

torch.set_num_threads(1)
faults.RAISE = True
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a benchmark under test may have asked for more


@pytest.hookimpl(tryfirst=True)  # before the names are made by which the workers share them out
def pytest_collection_modifyitems(items):
    """On several workers tests that share what a file makes once go to the same one."""
    for item in items:
        shared = {d.scope for name in item.fixturenames for d in item._fixtureinfo.name2fixturedefs.get(name, ())}
        if "module" in shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


def pytest_collection_finish():
    # What is loaded by now stays; looking through all of it at each collection takes a tenth of the tests' time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
