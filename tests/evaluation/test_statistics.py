"""Intervals cover, ties and alarms err as seldom as they say, by simulation with fixed seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from quantus_ext.evaluation import statistics
from quantus_ext.evaluation.statistics import bounds_of, holm, paired_means, paired_test, shift

TRIALS = 400


def allowed(rate: float, trials: int = TRIALS) -> tuple[float, float]:
    """Return between which shares of trials an event of this rate lies, 999 times in 1,000."""
    low, high = stats.binom.interval(0.999, trials, rate)
    return low / trials, high / trials


def correlated(generator: np.random.Generator, n: int, skewed: bool) -> np.ndarray:
    """Make scores of 3 explainers whose true means are 0, 0 and 0.3."""
    hard = generator.normal(size=n)
    own = generator.exponential(size=(3, n)) - 1 if skewed else generator.normal(size=(3, n))
    return hard + own + np.array([[0.0], [0.0], [0.3]])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "skewed"), [(15, False), (80, True)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_intervals_cover_the_true_mean_as_often_as_they_say(n, skewed, confidence):
    generator = np.random.default_rng(0)
    covered = np.zeros(3)
    above, below = np.zeros(3), np.zeros(3)
    for trial in range(TRIALS):
        values = correlated(generator, n, skewed)
        means = paired_means(values, confidence=confidence, n_resamples=300, seed=trial)
        truth = np.array([0.0, 0.0, 0.3])
        covered += (means.low <= truth) & (truth <= means.high)
        above += means.low > truth
        below += means.high < truth
    low, high = allowed(confidence)
    assert ((low - 0.01 <= covered / TRIALS) & (covered / TRIALS <= high + 0.01)).all()
    # Both ends err, alike where scores are symmetric: an interval open at one end covers as often.
    least, most = allowed((1 - confidence) / 2) if not skewed else (0.0, 1.0)
    for wrong in (above, below):
        assert (wrong > 0).all()
        assert ((least - 0.01 <= wrong / TRIALS) & (wrong / TRIALS <= most + 0.01)).all()


def told_apart(make: Callable[[np.random.Generator], np.ndarray], trials: int = TRIALS) -> float:
    """Return in which share of trials any pair of rows with equal means is told apart."""
    generator = np.random.default_rng(1)
    return float(
        np.mean(
            [
                not paired_means(make(generator), n_resamples=400, seed=trial).tied.all()
                for trial in range(trials)
            ]
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(8, 2), (10, 10), (15, 2), (40, 5)])
def test_equal_explainers_are_told_apart_as_seldom_as_stated(n, k):
    wrong = told_apart(lambda g: g.normal(size=n) + g.normal(size=(k, n)))
    assert wrong <= allowed(0.05)[1]


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 10])
def test_skewed_scores_of_unlike_spreads_are_told_apart_hardly_more_often(k):
    """Turns of signs alone would tell ten of them apart in a fifth of runs."""
    spread = np.linspace(0.2, 3, k)[:, None]
    wrong = told_apart(lambda g: spread * (g.exponential(size=(k, 10)) - 1))
    assert wrong <= allowed(0.07)[1]


def test_explainers_that_differ_are_told_apart():
    generator = np.random.default_rng(8)
    apart = []
    for trial in range(100):
        values = generator.normal(size=20) + generator.normal(size=(5, 20))
        values[0] += 2
        apart.append(~paired_means(values, n_resamples=400, seed=trial).tied[0, 1:])
    assert np.mean(apart) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_equal_answers_of_0_and_1_are_told_apart_no_more_often(share):
    wrong = told_apart(lambda g: (g.random((10, 10)) < share).astype(float))
    assert wrong <= allowed(0.05)[1]


def test_five_samples_tell_nothing_apart_and_six_do():
    for n, apart in ((5, False), (6, True)):
        values = np.arange(float(n)) + np.array([[0.0], [9.0], [9.1]])
        assert paired_means(values).tied[0].tolist() == [True, not apart, not apart]


@pytest.mark.parametrize("differing", [1, 2, 5])
def test_a_pair_that_differs_in_a_few_samples_does_not_hide_the_others(differing):
    """Resamples without these samples have no spread, thus endless statistics."""
    values = np.zeros((4, 24))
    values[1, :differing] = 0.005
    values[2] = np.random.default_rng(9).uniform(0.03, 0.1, 24)
    apart = [[False, False, True, False]] * 2 + [[True, True, False, True]]
    assert np.array_equal(~paired_means(values).tied, [*apart, apart[0]])


def test_all_turns_of_signs_by_hand():
    # Of the 256 turns that differ, one leaves a mean as far from 0: that which turns none.
    values = np.array([[5.0, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6, 5.7, 5.8], [0.0] * 9])
    differences = values[0] - values[1]
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    share = (np.abs(signs @ differences) >= differences.sum() - 1e-9).mean()
    assert share == 1 / 256
    assert not paired_means(values, confidence=1 - 1.01 * share).tied[0, 1]
    assert paired_means(values, confidence=1 - 0.99 * share).tied[0, 1]


def test_samples_may_come_in_parts(monkeypatch):
    values = np.random.default_rng(5).normal(size=(4, 9)) + np.array([[0.0], [0.0], [4.0], [8.0]])
    whole = paired_means(values).tied
    monkeypatch.setattr(statistics, "_AT_ONCE", 1024)
    assert np.array_equal(paired_means(values).tied, whole)
    assert 0 < whole.sum() < 16


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("n", [5, 10])
def test_intervals_of_answers_cover_for_few_samples(share, n):
    generator = np.random.default_rng(6)
    covered = 0
    for trial in range(TRIALS):
        values = (generator.random((1, n)) < share).astype(float)
        means = paired_means(values, n_resamples=2, seed=trial, bounds=bounds_of(values))
        covered += bool(means.low[0] <= share <= means.high[0])
    assert covered / TRIALS >= allowed(0.95)[0]


def test_intervals_of_answers_are_clopper_and_pearsons():
    for hits in (0, 1, 4, 9):
        values = np.repeat([1.0, 0.0], [hits, 9 - hits])
        means = paired_means([values], bounds=(0.0, 1.0))
        exact = stats.binomtest(hits, 9).proportion_ci(0.95)
        assert (means.low[0], means.high[0]) == pytest.approx((exact.low, exact.high), abs=0.01)


@pytest.mark.slow
def test_intervals_of_three_answers_cover():
    generator, covered = np.random.default_rng(7), 0
    for trial in range(TRIALS):
        values = generator.choice([-1.0, 0.0, 1.0], (1, 8), p=[0.04, 0.8, 0.16])
        means = paired_means(values, n_resamples=2, seed=trial, bounds=(-1.0, 1.0))
        covered += bool(means.low[0] <= 0.12 <= means.high[0])
    assert covered / TRIALS >= allowed(0.95)[0]


def test_what_the_samples_share_does_not_count():
    """Unpaired intervals of these two overlap almost wholly; the explainers still differ."""
    generator = np.random.default_rng(2)
    values = 10 * generator.normal(size=50) + 0.1 * generator.normal(size=(2, 50))
    values[1] += 0.2
    means = paired_means(values)
    assert not means.tied[0, 1]
    assert means.low[1] < means.mean[0] < means.high[1]


def test_differences_that_never_vary():
    values = np.linspace(0, 1, 9) + np.array([[0.0], [0.0], [0.5]])
    tied = paired_means(values).tied
    assert tied.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_means_of_one_explainer():
    means = paired_means([[1.0, 2.0, 3.0]])
    assert means.tied.tolist() == [[True]]
    assert means.low[0] < 2 < means.high[0]


def test_the_permutation_test_alarms_as_seldom_as_stated():
    generator = np.random.default_rng(3)
    p = np.array(
        [
            paired_test(generator.normal(size=20), n_resamples=199, seed=trial)
            for trial in range(TRIALS)
        ]
    )
    low, high = allowed(0.05)
    assert low <= (p <= 0.05).mean() <= high
    assert paired_test(generator.normal(size=20) + 1) < 0.01
    assert paired_test(generator.normal(size=20) - 1) < 0.01


def test_holm_by_its_definition():
    p = np.array([0.2, np.nan, 0.01, 0.03, 0.02])
    # 4 · 0.01, 3 · 0.02, 2 · 0.03, 0.2, each at least the one before.
    np.testing.assert_allclose(holm(p), [0.2, np.nan, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).shape == (0,)


def test_shifts_of_level_and_of_shape():
    generator = np.random.default_rng(4)
    first = generator.normal(size=300)
    higher = shift(first, generator.normal(size=300) + 1)
    assert higher.level < 1e-6
    # P(b > a) - P(b < a) of two normals one apart is 2 Φ(1/√2) - 1.
    assert higher.effect == pytest.approx(2 * stats.norm.cdf(0.5**0.5) - 1, abs=0.1)
    wider = shift(first, 3 * generator.normal(size=300))
    assert wider.level > 0.01
    assert wider.shape < 1e-6
    assert shift(np.ones(5), np.ones(9)).level == 1.0
