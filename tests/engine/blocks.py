"""Blocks of draws for the tests of perturbations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.perturb import Perturbation

SHAPES = {"image-1": (1, 5, 6), "image-3": (3, 5, 6), "series": (2, 9), "table": (7,)}


def samples(shape: tuple[int, ...], n: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).normal(size=(n, *shape))).to(dtype)


def masks(
    shape: tuple[int, ...], n: int = 2, draws: int = 3, *, each_channel: bool = False
) -> Tensor:
    """Random masks with at least one element, of one channel or all of them."""
    element = shape if each_channel or len(shape) == 1 else (1, *shape[1:])
    chosen = np.random.default_rng(6).random((n, draws, *element)) < 0.4
    chosen.reshape(n, draws, -1)[..., 0] = True
    return torch.from_numpy(chosen)


def apply(
    perturbation: Perturbation,
    x: Tensor,
    mask: Tensor,
    *,
    rows: slice = slice(None),
    first: int = 0,
    seed: int = 0,
) -> Tensor:
    """Perturb some samples in draws ``first``, ``first + 1``, …, as many as ``mask`` has."""
    keys = sampling.sample_keys(seed, torch.arange(len(x)))[rows]
    draws = sampling.draw_keys(keys, first, first + mask.shape[1])
    buffer = torch.full((*draws.shape, *x.shape[1:]), torch.nan, dtype=x.dtype)
    return perturbation.prepare(x).apply(rows, mask, draws, buffer)
