"""Few masks: the list is complete, and its random order is one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from quantus_ext.engine import populations, sampling
from quantus_ext.engine.populations import (
    FEW,
    Population,
    Subsets,
    Windows,
    by_population,
    draws_of,
)

# One false alarm in a million a test, with fixed seeds.
ERROR_RATE = 1e-6


def listed(population: Population) -> Tensor:
    return population.lister(torch.device("cpu"))(torch.arange(population.total))


def drawn(population: Population, n: int, among: Tensor | None = None) -> Tensor:
    """Return all draws of n samples, bool, shape (n, total, T)."""
    keys = sampling.sample_keys(3, torch.arange(n))
    if among is None:
        among = torch.ones(n, listed(population).shape[1], dtype=torch.bool)
    return draws_of(population, keys, among)(slice(0, n), slice(0, population.total))


@pytest.mark.parametrize("count", range(8))
def test_subsets_are_all_of_them_in_order(count):
    for size in range(count + 1):
        expected = list(itertools.combinations(range(count), size))
        masks = listed(Subsets(count, size))
        assert [tuple(mask.nonzero().flatten().tolist()) for mask in masks] == expected


@pytest.mark.parametrize(
    ("lengths", "side"), [((1,), 1), ((5,), 2), ((5,), 5), ((3, 4), 2), ((4, 4), 1), ((2, 3, 4), 2)]
)
def test_windows_are_all_of_them_in_order(lengths, side):
    masks = listed(Windows(lengths, side)).reshape(-1, *lengths).numpy()
    firsts = list(np.ndindex(*(length - side + 1 for length in lengths)))
    assert len(masks) == len(firsts)
    for mask, first in zip(masks, firsts, strict=True):
        expected = np.zeros(lengths, dtype=bool)
        expected[tuple(slice(place, place + side) for place in first)] = True
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("population", "few"),
    [
        (Subsets(FEW, 1), True),
        (Subsets(FEW, FEW - 1), True),
        (Subsets(FEW + 1, 1), False),
        (Subsets(45, 2), True),
        (Subsets(46, 44), False),
        (Subsets(50_000, 50_000), True),
        (Subsets(50_000, 0), True),
        (Subsets(50_000, 25_000), False),
        (Windows((32, 32), 1), True),
        (Windows((33, 32), 1), False),
        (Windows((33, 33), 2), True),
        (Windows((FEW + 3,), 4), True),
        (Windows((FEW + 4,), 4), False),
    ],
)
def test_up_to_1024_are_few(population, few):
    assert population.few == few


@given(count=st.integers(0, 1100), data=st.data())
def test_few_is_what_the_count_says(count, data):
    size = data.draw(st.integers(0, count) | st.sampled_from([0, count]))
    assert Subsets(count, size).few == (math.comb(count, size) <= FEW)


EACH = [Subsets(1, 0), Subsets(5, 1), Subsets(6, 3), Subsets(12, 10), Windows((4, 5), 2)]


@pytest.mark.parametrize("population", EACH)
def test_a_samples_draws_are_an_order_of_the_list(population):
    expected = sorted(map(tuple, listed(population).tolist()))
    for masks in drawn(population, 50):
        assert sorted(map(tuple, masks.tolist())) == expected


def test_each_order_is_equally_likely():
    masks = drawn(Subsets(4, 1), 48_000).int().argmax(2).numpy()
    codes = masks @ 4 ** np.arange(4)
    frequencies = np.unique(codes, return_counts=True)[1]
    assert len(frequencies) == 24
    assert stats.chisquare(frequencies).pvalue > ERROR_RATE


@pytest.mark.parametrize("population", [Subsets(10, 4), Windows((16, 16), 3)])
def test_each_mask_is_equally_likely_at_each_draw(population):
    total = population.total
    codes = {tuple(mask): number for number, mask in enumerate(listed(population).tolist())}
    masks = drawn(population, 20 * total)[:, [0, 1, 7, total - 1]]
    for draw in range(masks.shape[1]):
        numbers = [codes[tuple(mask)] for mask in masks[:, draw].tolist()]
        frequencies = np.bincount(numbers, minlength=total)
        assert stats.chisquare(frequencies).pvalue > ERROR_RATE


@settings(max_examples=50, deadline=None)
@given(
    samples=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=4),
    start=st.integers(0, 5),
    padding=st.integers(0, 3),
)
def test_a_samples_draws_do_not_depend_on_what_else_is_drawn(samples, start, padding):
    own = torch.tensor([*samples, [True] * 4 + [False] * 5])
    own = own[own.sum(1) == own[-1].sum()]
    population = Subsets(4, 2)
    whole = drawn(population, len(own), torch.nn.functional.pad(own, (0, padding)))
    assert not whole[..., 9:].any()
    last = len(own) - 1
    keys = sampling.sample_keys(3, torch.arange(last, last + 1))
    alone = draws_of(population, keys, own[-1:])(slice(0, 1), slice(start, start + 1))
    assert torch.equal(alone, whole[-1:, start : start + 1, :9])
    # Elements count in their own order, wherever they are.
    for among, masks in zip(own, whole, strict=True):
        assert not masks[:, :9][:, ~among].any()
    keys = sampling.sample_keys(3, torch.zeros(len(own), dtype=torch.long))
    same = draws_of(population, keys, own)(slice(0, len(own)), slice(0, 6))
    for among, masks in zip(own, same, strict=True):
        assert torch.equal(masks[:, among], same[-1][:, :4])


def test_samples_are_grouped_by_population():
    many = [Subsets(60, 30), Windows((5000,), 1)]
    given = [Subsets(5, 2), many[0], Subsets(5, 2), None, many[1], Subsets(5, 3)]

    def group(populations: list[Population | None], listed: bool = True) -> dict[object, object]:
        groups = by_population(populations, listed=listed, device=torch.device("cpu"))
        return {its: rows if rows == slice(None) else rows.tolist() for rows, its in groups}

    assert group(given) == {Subsets(5, 2): [0, 2], None: [1, 4], Subsets(5, 3): [5]}
    assert group(given, listed=False) == {None: [0, 1, 2, 4, 5]}
    assert group(many) == {None: slice(None)}
    assert group(given[:1] * 3) == {given[0]: slice(None)}
    assert group([None, None]) == {}


def test_lists_that_are_kept_are_bounded():
    for count in range(900, 900 + 2 * populations._KEPT):
        listed(Subsets(count, 1))
    kept = populations._subsets.cache_info()
    assert kept.currsize == kept.maxsize == populations._KEPT
