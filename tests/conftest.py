"""One thread, so that tests are fast beside each other, and a fixed seed for each test."""

import os

import pytest
import torch

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
