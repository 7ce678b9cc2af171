"""One thread, so that tests are fast beside each other, a fixed seed for each test, and no rule fails unheard."""

import os

import pytest
import torch
from hypothesis import settings

from ssl_prune.graph import faults

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
torch.set_num_threads(1)
faults.RAISE = True
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
