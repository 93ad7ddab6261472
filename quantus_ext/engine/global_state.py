"""The global random states, for other people's functions that draw from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Put the processor's random states of Python, numpy and torch back on leaving."""
    python = random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002 - the state that Quantus's functions use
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def seed_global_generators(seed: int) -> None:
    """Seed the processor's generators of Python, numpy and torch; ``seed`` is below 2**32."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
