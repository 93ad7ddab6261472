"""Degraded explanations: the slow reference, what stays, what is nested, what is uniform."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from quantus_ext.engine.sampling import Purpose
from quantus_ext.protocols import degrade
from tests.reference import splitmix

LEVELS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def maps(n: int = 5, shape: tuple[int, ...] = (1, 5, 4)) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, *shape)).astype(np.float32)


def order(key: int, count: int, purpose: int) -> list[int]:
    width = max(count - 1, 1).bit_length()
    numbers = [z >> width << width | i for i, z in enumerate(splitmix.bits(key, count, purpose))]
    return sorted(range(count), key=lambda i: splitmix.signed(numbers[i]))


def slowly(a: np.ndarray, fraction: float, index: list[int], seed: int) -> np.ndarray:
    result = a.copy()
    for row, sample in zip(result, index, strict=True):
        values = row.reshape(-1)
        # One key a sample; places and lots are ranks of its numbers.
        key = splitmix.nth(splitmix.nth(seed, 0), sample)
        count = len(values)
        places = order(key, count, Purpose.DEGRADED_PLACE)
        chosen = places[: math.floor(round(fraction * count, 9))]
        lots = order(key, count, Purpose.DEGRADED_VALUE)
        sources = [place for place in lots if place in set(chosen)]
        values[chosen] = values[sources].copy()
    return result


def test_by_the_slow_reference():
    a, index = maps(), [3, 0, 40, 7, 1]
    degraded = degrade(a, LEVELS, seed=9, index_batch=np.array(index))
    for level, fraction in zip(degraded, LEVELS, strict=True):
        np.testing.assert_array_equal(level, slowly(a, fraction, index, seed=9))


def test_keeps_values_and_nests_places():
    a = maps()
    levels = degrade(a, LEVELS)
    np.testing.assert_array_equal(levels[0], a)
    for level, fraction in zip(levels, LEVELS, strict=True):
        assert level.dtype == a.dtype
        np.testing.assert_array_equal(
            np.sort(level.reshape(5, -1)), np.sort(a.reshape(5, -1)), strict=True
        )
        # A permutation leaves about one value where it was.
        changed = (level != a).reshape(5, -1).sum(1)
        assert (changed <= round(fraction * 20)).all()
        assert fraction == 0 or (changed >= round(fraction * 20) - 5).all()
    # A million values have no neighbours by chance: what moves stays among the moved.
    wide = np.arange(1_000_000.0)[None]
    moved = [level != wide for level in degrade(wide, [0.2, 0.5, 0.9])]
    for smaller, larger in pairwise(moved):
        assert (smaller & ~larger).mean() < 1e-5


def test_permutations_are_uniform():
    a = np.broadcast_to(np.arange(3.0), (6000, 3))
    counts = np.unique(degrade(a, 1.0), axis=0, return_counts=True)[1]
    # Chi-squared with 5 degrees of freedom stays below 20.5 (p = .001).
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5


def test_a_sample_is_degraded_alike_wherever_it_stands():
    a = maps()
    whole = degrade(a, LEVELS, seed=4)
    part = degrade(a[2:4], LEVELS, seed=4, index_batch=np.array([2, 3]))
    np.testing.assert_array_equal(whole[:, 2:4], part)
    assert (whole[-1] != degrade(a, 1, seed=5)).any()


def test_the_seed_may_come_third():
    np.testing.assert_array_equal(degrade(maps(), 0.4, 5), degrade(maps(), 0.4, seed=5))


def test_tensors_come_back_as_tensors():
    a = torch.from_numpy(maps())
    assert isinstance(degrade(a, 0.4), torch.Tensor)
    np.testing.assert_array_equal(degrade(a, 0.4), degrade(maps(), 0.4))


@pytest.mark.parametrize("fractions", [-0.1, 1.5, [0.5, 2], float("nan")])
def test_fractions_outside_their_range(fractions):
    with pytest.raises(ValueError, match="fractions must be"):
        degrade(maps(), fractions)


def test_shapes_and_indices_that_do_not_fit():
    with pytest.raises(ValueError, match="a_batch must have shape"):
        degrade(np.ones(3), 0.5)
    with pytest.raises(ValueError, match="index_batch must have shape"):
        degrade(maps(), 0.5, index_batch=np.arange(3))
