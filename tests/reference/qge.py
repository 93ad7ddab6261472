"""QGE, slowly, from equations 4, 5 and 7 of the paper: one sample and one variable at a time."""

from __future__ import annotations

import numpy as np

from quantus_ext.engine.sampling import Purpose
from tests.harness import Predict, Reference
from tests.reference import infidelity, splitmix


def _numbers(seed: int, index: int, draw: int, count: int, purpose: Purpose) -> list[int]:
    """Random integers that never tie, because their lowest bits are the variable's position."""
    width = max(count - 1, 1).bit_length()
    key = splitmix.draw_key(seed, index, draw)
    return [
        splitmix.signed(z >> width << width | i)
        for i, z in enumerate(splitmix.bits(key, count, purpose))
    ]


def inverse(a: np.ndarray, index: int, *, seed: int = 0) -> np.ndarray:
    """Equation 4 for one sample: the most attributed variable gets the smallest value, …"""
    values = a.ravel().tolist()
    ties = _numbers(seed, index, 0, len(values), Purpose.REFERENCE_TIE)
    least_first = sorted(range(len(values)), key=lambda i: (values[i], ties[i]))
    largest_first = sorted(values, reverse=True)
    swapped = [0.0] * len(values)
    for variable, value in zip(least_first, largest_first, strict=True):
        swapped[variable] = value
    return np.array(swapped, dtype=a.dtype).reshape(a.shape)


def permuted(a: np.ndarray, index: int, *, draw: int, seed: int = 0) -> np.ndarray:
    """A random order of one sample's values."""
    values = a.ravel().tolist()
    numbers = _numbers(seed, index, draw, len(values), Purpose.REFERENCE_ORDER)
    order = sorted(range(len(values)), key=lambda i: numbers[i])
    return np.array([values[i] for i in order], dtype=a.dtype).reshape(a.shape)


def squared_residual(
    predict: Predict, x: np.ndarray, y: np.ndarray, a: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Infidelity where the one draw replaces every element by 0.25."""
    result = []
    for sample, label, phi in zip(x, y, a, strict=True):
        masks = [np.ones(sample.shape, dtype=bool)]
        pair = infidelity.changes(predict, sample, int(label), phi, masks, baseline=0.25)
        result.append(float(np.mean((pair[0] - pair[1]) ** 2)))
    return np.array(result)


def qge(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    quality: Reference = squared_residual,
    n_random: int = 0,
) -> np.ndarray:
    """Equation 5, or 7 with ``n_random``, turned because a low quality measure is good here."""
    score = quality(predict, x, y, a, index)
    # The variables of a series are numbered time by time.
    maps = [map_.T if map_.ndim == 2 else map_ for map_ in a]
    made = [[inverse(map_, int(i)) for map_, i in zip(maps, index, strict=True)]]
    if n_random:
        made = [
            [permuted(map_, int(i), draw=draw) for map_, i in zip(maps, index, strict=True)]
            for draw in range(n_random)
        ]
    references = [np.stack([m.T if m.ndim == 2 else m for m in each]) for each in made]
    compared = [quality(predict, x, y, reference, index) for reference in references]
    return np.mean(compared, axis=0) - score
