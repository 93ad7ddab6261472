"""The global random states, for other people's functions that draw from them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

one_at_a_time = threading.RLock()
"""Held while code runs that may draw from the global states, so that threads don't mix draws."""


@contextmanager
def isolated_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Put the random states of Python, numpy and torch back on leaving.

    Those of the processor, and of the GPU that ``device`` is, if it is one.
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    python = random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002 - the state that Quantus's functions use
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def seed_global_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the generators of Python, numpy and torch; ``seed`` is below 2**32.

    Those of the processor, and of the GPU that ``device`` is, if it is one.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
