"""Settings of every test run."""

import os

import pytest
import torch

# The tests' models are tiny: handing their operations to a second thread costs far more than it
# saves, by a factor of ten where the cores are shared. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a dry run of the tests marked ``gpu`` choose the processor."""
    parser.addoption("--device", default="cuda", help="of the tests marked gpu: cuda or cpu")
