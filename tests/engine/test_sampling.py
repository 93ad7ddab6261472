"""The draw generator, tested as one: against a slow reference, and by its statistics.

The statistical tests have fixed seeds, so that they pass or fail for good. Each accepts a p-value
above ``ERROR_RATE``: of some 500, a sound generator fails one with probability 0.0005.
"""

from __future__ import annotations

import functools
import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quantus_ext.engine import sampling
from quantus_ext.engine.sampling import Purpose
from tests.reference import splitmix

ERROR_RATE = 1e-6
AXES = ["seeds", "samples", "draws", "elements"]
COUNTS = [1, 2, 3, 7, 10, 100, 784, 4096, 50176, 60000]
SEEDS = [0, 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 + 5]


def keys(seed: int = 0, samples: int = 2, draws: int = 3) -> torch.Tensor:
    return sampling.draw_keys(sampling.sample_keys(seed, torch.arange(samples)), 0, draws)


def plausible(p_value: float) -> bool:
    return p_value > ERROR_RATE


def as_frequent_as(frequencies: np.ndarray, expected: np.ndarray | None = None) -> bool:
    """Chi-square; equal frequencies are expected by default."""
    if len(frequencies) == 1:
        return expected is None or frequencies[0] == expected[0]
    return plausible(stats.chisquare(frequencies, expected).pvalue)


def evenly_spread(codes: np.ndarray, categories: int) -> bool:
    """Are integers below ``categories`` equally frequent?"""
    return as_frequent_as(np.bincount(codes, minlength=categories))


# The same numbers as the reference


def test_reference_gives_the_published_numbers():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert list(itertools.islice(splitmix.generator(1234567), 3)) == published


@pytest.mark.parametrize("seed", SEEDS)
def test_keys(seed):
    index = [0, 1, 5, 1000]
    ours = sampling.draw_keys(sampling.sample_keys(seed, torch.tensor(index)), 2, 6)
    theirs = [[splitmix.signed(splitmix.draw_key(seed, i, d)) for d in range(2, 6)] for i in index]
    assert ours.tolist() == theirs


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 52), (torch.float32, 23)])
def test_bits_and_uniform(purpose, dtype, width):
    for sample, draw in itertools.product(range(2), range(3)):
        key = splitmix.draw_key(0, sample, draw)
        numbers = splitmix.bits(key, 5, purpose)
        ours = sampling.bits(keys(), 5, purpose)[sample, draw]
        assert ours.tolist() == list(map(splitmix.signed, numbers))
        uniform = sampling.uniform(keys(), 5, purpose, dtype)[sample, draw]
        assert uniform.dtype == dtype
        # float() of a fraction is exact here, and so is the comparison.
        assert uniform.tolist() == list(map(float, splitmix.uniforms(key, 5, purpose, width)))


def test_integers_subsets_and_windows():
    bounds, shape, sides = [1, 2, 10, 60000], (6, 9), [2, 3, 5]
    integers = sampling.integers(keys(), bounds, Purpose.VALUE)
    subset = sampling.subsets(keys(), 11, 4)
    window = sampling.windows(keys(), shape, sides)
    for sample, draw in itertools.product(range(2), range(3)):
        key = splitmix.draw_key(0, sample, draw)
        assert integers[sample, draw].tolist() == splitmix.integers(key, bounds, Purpose.VALUE)
        expected = splitmix.subset(key, 11, 4, Purpose.SUBSET)
        assert np.array_equal(subset[sample, draw], expected)
        expected = splitmix.window(key, shape, sides, Purpose.PATCH_SIZE, Purpose.PATCH_OFFSET)
        assert np.array_equal(window[sample, draw], expected)


# Uniformity and independence


@functools.cache
def bits_along(axis: str, purpose: Purpose = Purpose.VALUE, seed: int = 0) -> np.ndarray:
    """Numbers whose neighbours differ by one in ``axis`` and in nothing else."""
    if axis == "seeds":
        index = torch.zeros(1, dtype=torch.long)
        along = torch.cat([sampling.sample_keys(s, index) for s in range(3000)])[:, None]
    elif axis == "samples":
        along = keys(seed, samples=20_000, draws=1)
    elif axis == "draws":
        along = keys(seed, samples=1, draws=20_000)
    else:
        along = keys(seed, samples=1, draws=1)
    count = 20_000 if axis == "elements" else 1
    return sampling.bits(along, count, purpose).flatten().numpy().view(np.uint64)


def top(numbers: np.ndarray, bits: int) -> np.ndarray:
    return (numbers >> np.uint64(64 - bits)).astype(np.int64)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("purpose", Purpose)
def test_numbers_are_uniform_along_every_axis(axis, purpose):
    numbers = bits_along(axis, purpose)
    assert plausible(stats.kstest(numbers / 2.0**64, "uniform").pvalue)
    # `distinct` gives its lowest bits away, nothing else does: all of them must be random.
    for shift in range(0, 64, 8):
        assert evenly_spread((numbers >> np.uint64(shift)).astype(np.uint8), 256)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbours_are_independent_along_every_axis(axis, lag):
    numbers = bits_along(axis)
    uniform = numbers / 2.0**64
    assert plausible(stats.pearsonr(uniform[lag:], uniform[:-lag]).pvalue)
    # Correlation sees straight lines only. Disjoint pairs, as chi-square needs.
    pairs = top(numbers, 3)[: len(numbers) // (2 * lag) * 2 * lag].reshape(-1, 2, lag)
    assert evenly_spread((8 * pairs[:, 0] + pairs[:, 1]).ravel(), 64)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(Purpose, 2)))
@pytest.mark.parametrize("axis", ["draws", "elements"])
def test_purposes_are_independent(one, other, axis):
    cells = 16 * top(bits_along(axis, one), 4) + top(bits_along(axis, other), 4)
    assert evenly_spread(cells, 256)


@pytest.mark.parametrize("axis", ["samples", "draws", "elements"])
def test_neighbouring_seeds_are_independent(axis):
    cells = 16 * top(bits_along(axis, seed=0), 4) + top(bits_along(axis, seed=1), 4)
    assert evenly_spread(cells, 256)


def test_sample_and_draw_are_not_exchangeable():
    square = keys(samples=50, draws=50)
    assert len(square.unique()) == 2500


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_uniform_excludes_its_ends_and_normal_is_finite(dtype):
    numbers = sampling.uniform(keys(draws=1000), 100, Purpose.VALUE, dtype)
    assert numbers.dtype == dtype
    assert numbers.min() > 0
    assert numbers.max() < 1
    normal = sampling.normal(keys(draws=1000), 100, Purpose.VALUE, dtype)
    assert normal.dtype == dtype
    assert normal.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1, 20_000, 1), (20_000, 1, 1), (1, 1, 20_000)])
def test_normal(dtype, shape):
    samples, draws, count = shape
    numbers = sampling.normal(keys(0, samples, draws), count, Purpose.VALUE, dtype).double().numpy()
    assert plausible(stats.kstest(numbers.ravel(), "norm").pvalue)
    # The sample's mean, variance, skewness and kurtosis, each by its own standard error.
    n = numbers.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        z = ((numbers**power).mean() - moment) / math.sqrt(variance / n)
        assert plausible(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 784])
def test_integers_are_equally_likely(bound):
    numbers = sampling.integers(keys(draws=20_000), [bound], Purpose.PATCH_OFFSET).flatten().numpy()
    assert numbers.min() >= 0
    assert numbers.max() < bound
    assert evenly_spread(numbers, bound)


def test_integers_stay_below_their_bound_even_for_the_largest_number(monkeypatch):
    monkeypatch.setattr(sampling, "bits", lambda keys, count, purpose: torch.full((count,), -1))
    bounds = [*range(1, 3000), 2**15, 2**16 - 1, 60_000, 2**31]
    numbers = sampling.integers(keys(), bounds, Purpose.VALUE)
    assert torch.equal(numbers, torch.tensor(bounds) - 1)


# Subsets


@pytest.mark.parametrize("count", COUNTS)
def test_subsets_have_exact_sizes(count):
    few = keys(samples=2, draws=1)
    for size in {1, (count + 1) // 2, max(count - 1, 1), count}:
        chosen = sampling.subsets(few, count, size)
        assert chosen.shape == (2, 1, count)
        assert (chosen.sum(-1) == size).all()
        same = sampling.subsets(few, count, torch.full((2, 1, 1), size))
        assert torch.equal(chosen, same)


@pytest.mark.parametrize("count", COUNTS)
def test_subsets_have_a_size_for_each_draw(count):
    sizes = sampling.integers(keys(), [count], Purpose.PATCH_SIZE) + 1
    chosen = sampling.subsets(keys(), count, sizes)
    assert torch.equal(chosen.sum(-1, keepdim=True), sizes)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("random_bits", [0, 1, 3])
def test_distinct_where_random_bits_tie(monkeypatch, count, random_bits):
    few = sampling.bits(keys(), count, Purpose.SUBSET)
    few = few << (64 - random_bits) if random_bits else few * 0
    monkeypatch.setattr(sampling, "bits", lambda *arguments: few)
    ranks = sampling.distinct(keys(), count, Purpose.SUBSET).sort(-1).values
    assert (ranks[..., 1:] > ranks[..., :-1]).all()
    size = (count + 1) // 2
    assert (sampling.subsets(keys(), count, size).sum(-1) == size).all()


@pytest.mark.parametrize("axis", ["samples", "draws"])
@pytest.mark.parametrize(("count", "size"), [(2, 1), (3, 2), (7, 3), (10, 5)])
def test_every_subset_is_equally_likely(axis, count, size):
    shape = {"samples": 1, "draws": 1, axis: 20_000}
    chosen = sampling.subsets(keys(**shape), count, size).reshape(-1, count).numpy()
    _, frequencies = np.unique(chosen, axis=0, return_counts=True)
    assert len(frequencies) == math.comb(count, size)
    assert as_frequent_as(frequencies)


@pytest.mark.parametrize(
    ("count", "size", "draws"),
    [
        (100, 30, 10_000),
        (784, 78, 3000),
        (4096, 2000, 500),
        (50176, 5000, 100),
        (60000, 30000, 100),
    ],
)
def test_every_element_and_pair_is_equally_likely(count, size, draws):
    chosen = sampling.subsets(keys(samples=1, draws=draws), count, size)[0].numpy()
    share = size / count
    # Elements of one draw exclude each other, hence the variance count / (count - 1) times that
    # of independent ones and one degree of freedom less.
    excess = chosen.sum(0) - draws * share
    variance = draws * share * (1 - share) * count / (count - 1)
    statistic = (excess**2).sum() / variance
    tails = stats.chi2.sf(statistic, count - 1), stats.chi2.cdf(statistic, count - 1)
    assert plausible(2 * min(tails))
    # Neighbours, and elements as far apart as they can be, are chosen together by chance.
    for distance in (1, count // 2):
        together = (chosen & np.roll(chosen, distance, axis=1)).sum(1)
        expected = size * (size - 1) / (count - 1)
        assert plausible(stats.ttest_1samp(together, expected).pvalue)


# Windows


@pytest.mark.parametrize("shape", [(4,), (11,), (5, 5), (4, 7)])
@pytest.mark.parametrize("sizes", [[1], [4], [3, 1, 2]])
def test_windows_lie_inside_and_every_position_is_equally_likely(shape, sizes):
    n = 10_000
    masks = sampling.windows(keys(samples=1, draws=n), shape, sizes)[0].flatten(1).numpy()
    windows, frequencies = np.unique(masks, axis=0, return_counts=True)
    expected = {}
    for size in sizes:
        positions = list(itertools.product(*(range(length - size + 1) for length in shape)))
        for position in positions:
            mask = np.zeros(shape, dtype=bool)
            mask[tuple(slice(start, start + size) for start in position)] = True
            expected[mask.tobytes()] = n / len(sizes) / len(positions)
    # Every window that was drawn is one that fits, and all that fit were drawn.
    assert {window.tobytes() for window in windows} == set(expected)
    predicted = np.array([expected[window.tobytes()] for window in windows])
    assert as_frequent_as(frequencies, predicted)


# A draw is a function of its own seed, sample, draw and element

DRAWS = {
    "bits": lambda keys: sampling.bits(keys, 13, Purpose.VALUE),
    "uniform": lambda keys: sampling.uniform(keys, 13, Purpose.VALUE),
    "normal64": lambda keys: sampling.normal(keys, 13, Purpose.VALUE),
    "normal32": lambda keys: sampling.normal(keys, 13, Purpose.VALUE, torch.float32),
    "integers": lambda keys: sampling.integers(keys, [5, 600], Purpose.VALUE),
    "distinct": lambda keys: sampling.distinct(keys, 13, Purpose.SUBSET),
    "subsets": lambda keys: sampling.subsets(keys, 13, 4),
    "windows": lambda keys: sampling.windows(keys, (7, 9), [2, 3]),
}


@functools.cache
def whole_block(name: str) -> torch.Tensor:
    return DRAWS[name](keys(seed=3, samples=10, draws=25))


@pytest.mark.parametrize("name", DRAWS)
@settings(max_examples=25, deadline=None)
@given(
    samples=st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True),
    span=st.tuples(st.integers(0, 24), st.integers(1, 25)).filter(lambda s: s[0] < s[1]),
)
def test_a_draw_does_not_depend_on_its_block(name, samples, span):
    part = sampling.draw_keys(sampling.sample_keys(3, torch.tensor(samples)), *span)
    assert torch.equal(DRAWS[name](part), whole_block(name)[samples, slice(*span)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 70))
def test_an_element_does_not_depend_on_the_number_of_elements(dtype, count):
    # Vector instructions work on 4, 8 or 16 values and handle the rest one by one.
    whole = sampling.normal(keys(), 70, Purpose.VALUE, dtype)
    assert torch.equal(sampling.normal(keys(), count, Purpose.VALUE, dtype), whole[..., :count])


def test_fresh_seeds_differ_and_leave_the_global_generators_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert len({sampling.fresh_seed() for _ in range(100)}) == 100
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_snapped_floor_of_every_two_digit_share():
    for percent, total in itertools.product(range(101), range(2001)):
        assert sampling.snapped_floor(percent / 100 * total) == percent * total // 100


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 60), draws=st.integers(1, 9), data=st.data())
def test_subsets_of_members_are_those_of_their_mask(count, draws, data):
    n = 3
    members = data.draw(st.integers(1, count))
    size = data.draw(st.integers(0, members))
    keys = sampling.draw_keys(sampling.sample_keys(4, torch.arange(n)), 0, draws)
    indices = sampling.distinct(keys[:, 0], count, Purpose.TIE).argsort(1)[:, :members]
    mask = torch.zeros(n, count, dtype=torch.bool).scatter_(1, indices, True)
    for sizes in (size, torch.full((1, 1, 1), size)):
        chosen = sampling.subsets(keys, count, sizes, indices)
        assert torch.equal(chosen, sampling.subsets(keys, count, sizes, mask))
        assert (chosen.sum(2) == size).all()
        assert not (chosen & ~mask.unsqueeze(1)).any()
