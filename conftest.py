"""Settings of every test run."""

import os

import torch

# The tests' models are tiny: handing their operations to a second thread costs far more than it
# saves, by a factor of ten where the cores are shared. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
