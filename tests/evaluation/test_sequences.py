"""Confidence sequences equal their definition, and err as seldom as they say at any look."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quantus_ext.evaluation.sequences import interval, p_value, sides
from tests.reference import sequences as reference

RUNS, N = 300, 400
ALPHA = 0.1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.sampled_from([0.5, 0.05, 1e-3]),
)
def test_sides_are_those_of_the_capital(values, mean, alpha):
    moved = np.array(values) * 6 - 2
    assert sides(moved, [mean * 6 - 2], alpha, (-2.0, 4.0)).tolist() == [
        reference.side(values, mean, alpha)
    ]


@pytest.mark.parametrize("alpha", [0.05, 1e-3])
def test_intervals_without_bounds_are_those_of_the_mixture(alpha):
    values = np.random.default_rng(0).normal(3, 2, size=200)
    assert interval(values, alpha, None) == pytest.approx(reference.t_mixture(values, alpha))


def streams(name: str) -> tuple[np.ndarray, float, tuple[float, float] | None]:
    """Return runs of values, their mean and their bounds."""
    generator = np.random.default_rng(1)
    shape = (RUNS, N)
    if name == "equal explainers":
        hard = generator.normal(size=shape)
        return np.tanh(hard) / 2 - np.tanh(generator.permuted(hard, axis=1)) / 2, 0.0, (-1, 1)
    if name == "alike on most samples":
        rare = generator.random(shape) < 0.05
        return np.where(rare, 0.8 * generator.random(shape), 0.0), 0.02, (-1, 1)
    if name == "one answer in fifty":
        return (generator.random(shape) < 0.02).astype(float), 0.02, (0, 1)
    if name == "answers":
        return generator.integers(0, 2, shape).astype(float), 0.5, (0, 1)
    if name == "normal":
        return generator.normal(size=shape), 0.0, None
    if name == "heavy tails":
        return generator.standard_t(3, size=shape), 0.0, None
    # A fixed set of samples, sorted by class, in random order.
    classes = np.repeat(np.linspace(0.95, 0.05, 10), N // 10)
    fixed = (generator.random(N) < classes).astype(float)
    return generator.permuted(np.tile(fixed, (RUNS, 1)), axis=1), float(fixed.mean()), (0, 1)


EXACT = ["equal explainers", "alike on most samples", "one answer in fifty", "answers"]
STREAMS = [*EXACT, "fixed set", "normal", "heavy tails"]


@pytest.mark.parametrize("name", STREAMS)
def test_the_mean_is_seldom_excluded_at_any_look(name):
    values, mean, bounds = streams(name)
    wrong = sum(bool(sides(row, [mean], ALPHA, bounds)[0]) for row in values)
    # So many that a true rate of ALPHA would exceed it once in a thousand.
    assert wrong <= stats.binom.ppf(0.999, RUNS, ALPHA)


def test_an_ordinary_interval_excludes_it_often_so_that_the_streams_can_tell():
    values, mean, _ = streams("normal")
    counts = np.arange(1, N + 1)
    means = values.cumsum(1) / counts
    spread = np.sqrt((values**2).cumsum(1) / counts - means**2)
    half = stats.t.ppf(1 - ALPHA / 2, np.maximum(counts - 1, 1)) * spread / np.sqrt(counts)
    excluded = (np.abs(means - mean) > half)[:, 9::10].any(1)
    assert excluded.sum() > 3 * RUNS * ALPHA


@pytest.mark.parametrize(("bounds", "least"), [((-1, 1), 0.95), (None, 0.95)])
def test_what_differs_is_found(bounds, least):
    generator = np.random.default_rng(2)
    values = np.clip(generator.normal(0.1, 0.2, size=(RUNS, N)), -1, 1)
    found = np.array([sides(row, [0.0], ALPHA, bounds)[0] for row in values])
    assert (found == 1).mean() >= least
    assert not (found == -1).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.3, 0.3), st.sampled_from([(-1.0, 1.0), None]))
def test_what_is_known_stays_known_and_fits_interval_and_p_value(seed, shift, bounds):
    generator = np.random.default_rng(seed)
    values = np.clip(generator.normal(shift, 0.3, size=200), -1, 1)
    found = [sides(values[:n], [0.0], 0.05, bounds)[0] for n in (20, 60, 120, 200)]
    known = [each for each in found if each]
    assert found == [0] * (4 - len(known)) + known
    assert len(set(known)) <= 1
    low, high = interval(values, 0.05, bounds)
    if bounds is not None:
        assert (found[-1] == 0) == (low <= 0 <= high) or min(abs(low), abs(high)) < 0.003
    assert (p_value(values, bounds) <= 0.05) == bool(found[-1])


@pytest.mark.parametrize("bounds", [(0, 1), None])
def test_of_no_values_nothing_is_known(bounds):
    assert sides([], [0.5], 0.05, bounds).tolist() == [0]
    assert p_value([], (-1, 1)) == 1
    low, high = interval([], 0.05, bounds)
    assert low <= (0 if bounds else -np.inf)
    assert high >= (1 if bounds else np.inf)


def test_equal_values_without_bounds_say_nothing():
    assert interval(np.full(500, 0.3), 0.05, None) == (-np.inf, np.inf)
    mostly = np.where(np.arange(500) % 40 == 0, np.random.default_rng(0).random(500), 0.0)
    assert interval(mostly, 0.05, None) == (-np.inf, np.inf)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_values_outside_the_bounds_are_refused(value):
    with pytest.raises(ValueError, match=rf"between 0 and 1, one is {value}"):
        sides([0.5, value], [0.5], 0.05, (0, 1))
