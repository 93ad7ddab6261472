"""One draw a size: standard errors from neighbouring sizes, rather too large than too small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantus_ext import Fidelity, RFidelity
from quantus_ext.functional.single_draws import squared_errors
from tests.reference import single_draws as reference
from tests.test_draws import problem

SIZE = st.tuples(
    st.integers(0, 20) | st.floats(-1, 1), st.sampled_from([0.0, 0.1, float("nan")]), st.booleans()
)


@given(st.integers(1, 9).flatmap(lambda k: st.lists(SIZE, min_size=k, max_size=k)), st.randoms())
def test_equals_the_slow_reference(each, random):
    values, errors, counts = map(list, zip(*each, strict=True))
    sizes = random.sample(range(30), len(values))
    expected = reference.squared_errors(values, errors, sizes, counts)
    ours = squared_errors(
        torch.tensor([values], dtype=torch.float64),
        torch.tensor([errors], dtype=torch.float64),
        torch.tensor([sizes]),
        torch.tensor([counts]),
    )
    np.testing.assert_allclose(ours[0].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [2, 5, 19])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_a_sum_over_sizes_is_as_uncertain_as_said(k, slope):
    # Sizes of unlike variances, with one mean, or with means that rise by ``slope``.
    generator = np.random.default_rng(0)
    n, spread = 200_000, np.linspace(0.1, 1, k)
    values = torch.from_numpy(slope * np.arange(k) + spread * generator.normal(size=(n, k)))
    sizes, counts = torch.arange(k).expand(n, k), torch.ones(n, k, dtype=torch.bool)
    said = squared_errors(values, torch.full_like(values, torch.nan), sizes, counts).sum(1)
    true = float(np.square(spread).sum())
    # The variance within a group is that of its means besides: pairs, and a three.
    pairs, threes = (k // 2 - 1, 1) if k % 2 else (k // 2, 0)
    expected = true + slope**2 * (pairs + 3 * threes)
    # Five standard errors of a mean over 200,000 samples.
    assert abs(said.mean() - expected) < 5 * said.std() / n**0.5


@pytest.mark.parametrize("score", ["plus", "gap"])
@pytest.mark.filterwarnings("ignore:a_batch fits")
def test_a_metric_of_one_draw_says_how_certain_it_is(score):
    model, x, y, a = problem(24)
    sizes = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    scores, errors = [], []
    for seed in range(100):
        metric = RFidelity(sizes, n_samples=1, seed=seed, score=score, output="probability")
        scores.append(metric(model, x, y, a))
        errors.append(metric.standard_errors)
    true = np.var(scores, axis=0, ddof=1).mean()
    # 100 seeds of 24 samples know the variance to about 3 %.
    assert 0.9 < np.square(errors).mean() / true < 1.4
    # Of ten draws it is known from the draws themselves, and a tenth or less: some sizes have few
    # subsets, drawn without replacement.
    many = RFidelity(sizes, n_samples=10, score=score, output="probability")
    many(model, x, y, a)
    assert 0.02 < np.square(many.standard_errors).mean() / np.square(errors).mean() < 0.15


def test_what_nothing_random_made_is_exact():
    model, x, y, a = problem(8)
    metric = Fidelity()
    metric(model, x, y, a)
    assert (metric.standard_errors == 0).all()
    random = Fidelity(perturb_baseline="uniform", output="probability")
    random(model, x, y, a)
    assert (random.standard_errors > 0).all()
    # One size alone has no neighbour.
    alone = Fidelity([0.5], perturb_baseline="uniform", output="probability")
    alone(model, x, y, a)
    assert np.isnan(alone.standard_errors).all()
