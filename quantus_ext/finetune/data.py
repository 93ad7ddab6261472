"""Training data: read once, checked, and owned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quantus_ext import checks
from quantus_ext.arrays import numbers_of
from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators
from quantus_ext.identity import content_key

_READ = 256
"""Rows at a time from a data set without a loader."""


@dataclass(frozen=True)
class TrainingData:
    """Inputs and labels that nobody else changes, so that copies can share them.

    Attributes
    ----------
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
    y : Tensor, int64, shape (n,), or None
        None stands for the predictions of the model that is tuned.
    s : Tensor of int, shape (n, \\*spatial), optional
        Segment ids.
    """

    x: Tensor
    y: Tensor | None
    s: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingData:
        return self

    @cached_property
    def key(self) -> str:
        """The content's key."""
        return content_key(self.x, self.y, self.s)


def read(x: object, y: object = None, s: object = None, *, seed: int = 0) -> TrainingData:
    """Read training data into memory.

    Parameters
    ----------
    x : array, tensor or table; or DataLoader or Dataset
        Inputs, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W); or what gives ``(x, y)``
        pairs.
    y : array or tensor of int, shape (n,), optional
        Labels.
    s : array or tensor of int, shape (n, \\*spatial), optional
        Segment ids.
    seed : int, default 0
        Of the global generators while a loader shuffles: the order is always the same.

    Raises
    ------
    ValueError, TypeError
        If shapes or labels don't fit, or a value is NaN or infinite.
    """
    if isinstance(x, (DataLoader, Dataset)):
        if y is not None:
            raise ValueError("y must be None with a DataLoader or Dataset as x, which gives labels")
        x, y = _read_loader(x, seed)
    numbers = numbers_of("x", x)
    # A copy: the caller's may change between two trainings.
    inputs = numbers.clone() if isinstance(numbers, Tensor) else torch.from_numpy(np.array(numbers))
    checks.inputs(inputs, "x")
    if len(inputs) < 3:
        raise ValueError(
            f"x must hold at least 3 samples, 2 to train on and 1 to hold out, holds {len(inputs)}"
        )
    segments = None
    if s is not None:
        segments = checks.segments("s", s, inputs).clone()
        spatial = tuple(inputs.shape[2:] or inputs.shape[1:])
        if tuple(segments.shape) != (len(inputs), *spatial):
            raise ValueError(
                f"s must hold segment ids of shape {(len(inputs), *spatial)}, has "
                f"{tuple(segments.shape)}"
            )
    labels = None if y is None else torch.from_numpy(checks.labels(y, len(inputs), "y"))
    return TrainingData(inputs, labels, segments)


@contextmanager
def _own_generators(loader: DataLoader[Any]) -> Iterator[None]:
    """Put the states of the loader's and its samplers' own generators back on leaving."""
    batches = loader.batch_sampler
    owners = (loader, loader.sampler, batches, getattr(batches, "sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _read_loader(source: DataLoader[Any] | Dataset[Any], seed: int) -> tuple[Tensor, Tensor]:
    loader = source if isinstance(source, DataLoader) else DataLoader(source, batch_size=_READ)
    pairs = []
    with isolated_random_state(), _own_generators(loader):
        seed_global_generators(seed % 2**32)
        for batch in loader:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(
                    f"x must give (x, y) pairs as a {type(source).__name__}, "
                    f"gives {type(batch).__name__}"
                )
            pairs.append((torch.as_tensor(batch[0]), torch.as_tensor(batch[1])))
            if pairs[-1][1].ndim == 0:
                raise ValueError(
                    "x must give batches, gives single samples: a DataLoader needs a batch_size"
                )
    if not pairs:
        raise ValueError(f"x must hold at least one batch, the {type(source).__name__} is empty")
    inputs, labels = zip(*pairs, strict=True)
    return torch.cat(inputs), torch.cat(labels)
