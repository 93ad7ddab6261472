"""Metrics of Quantus of which a number says nothing: told; and what can be helped, helped."""

from __future__ import annotations

import random
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from quantus.metrics.base import Metric
from torch import nn

import quantus_ext
from quantus_ext import QGE
from quantus_ext.foreign import Foreign
from tests.metrics import quantus_metrics
from tests.metrics.quantus_metrics import ENTRIES, N, gradients

X = np.array([[1.0, 2.0, 3.0, 10.0]], dtype=np.float32).reshape(1, 1, 4)
UP, DOWN = (np.array([order], dtype=np.float32)[None] for order in ([1, 2, 3, 4], [4, 3, 2, 1]))


def summing() -> nn.Module:
    """Return a model whose second output is the sum of its input."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))
    return model


def scores(metric: Metric[Any], a: np.ndarray | None = None, n: int = N, **call: Any) -> np.ndarray:
    """Score the digits as QGE and evaluate do, in batches of n."""
    problem = quantus_metrics.problem()
    maps = [problem.a if a is None else a]
    return (
        Foreign(metric)
        .score_maps(problem.model, problem.x, problem.y, maps, problem.s, batch_size=n, **call)
        .scores[0]
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("baseline", ["black", "white", "mean", 0.3])
def test_monotonicity_is_true_for_every_map(baseline):
    problem = quantus_metrics.problem()
    metric = quantus.Monotonicity(features_in_step=16, perturb_baseline=baseline)
    noise = np.random.default_rng(0).normal(size=problem.a.shape).astype(np.float32)
    for a in (problem.a, -problem.a, noise):
        assert (scores(metric, a) == 1).all()


@pytest.mark.filterwarnings("ignore")
def test_the_end_of_pixel_flipping_with_the_mean_depends_on_the_map():
    metric = quantus.PixelFlipping(
        perturb_baseline="mean", normalise=False, abs=False, disable_warnings=True
    )
    ends = [
        metric(summing(), X, np.array([1]), a, channel_first=True, softmax=False)[0][-1]
        for a in (UP, DOWN)
    ]

    def by_hand(order: list[int]) -> float:
        values = [1.0, 2.0, 3.0, 10.0]
        for place in order:
            values[place] = float(np.mean(values))
        return sum(values)

    np.testing.assert_allclose(ends, [by_hand([3, 2, 1, 0]), by_hand([0, 1, 2, 3])], rtol=1e-5)
    assert abs(ends[0] - ends[1]) > 5
    # Everything replaced by the mean of the input is 16 whatever goes first.
    assert abs(np.array(ends) - 16).min() > 1


@pytest.mark.filterwarnings("ignore")
def test_weighted_attribution_localisation_is_infinite_for_a_sample_alone():
    weighted, plain = (quantus.AttributionLocalisation(weighted=w) for w in (True, False))
    assert np.isinf(scores(weighted, n=1)).all()
    assert np.isfinite(scores(weighted)).all()
    np.testing.assert_allclose(scores(plain, n=1), scores(plain), rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_completeness_is_false_for_the_exact_map_that_it_normalises():
    own, call = {"normalise": False, "abs": False}, (summing(), X, np.array([1]), X.copy())
    zero = partial(quantus.Completeness, perturb_baseline=0.0)
    assert zero()(*call, channel_first=True, softmax=False) == [False]
    assert zero(**own)(*call, channel_first=True, softmax=False) == [True]


TOLD = {
    "True for every map": partial(quantus.Monotonicity, features_in_step=16),
    "the mean of what is left": partial(
        quantus.PixelFlipping, features_in_step=16, perturb_baseline="mean"
    ),
    "sizes of other samples": partial(quantus.AttributionLocalisation, weighted=True),
    "after it has normalised": quantus.Completeness,
}
UNTOLD = {
    "random baseline": partial(
        quantus.Monotonicity, features_in_step=16, perturb_baseline="uniform"
    ),
    "fixed number": partial(quantus.PixelFlipping, features_in_step=16, perturb_baseline=0.0),
    "unweighted": quantus.AttributionLocalisation,
    "as it is": partial(quantus.Completeness, normalise=False, abs=False),
    **{
        name: entry.make
        for name, entry in ENTRIES.items()
        if not entry.error and "warning" not in entry.caution
    },
}


def heard(call: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if each.filename == __file__]


@pytest.mark.parametrize("said", TOLD)
def test_what_a_number_does_not_say_is_told_once(said):
    problem, metric = quantus_metrics.problem(), TOLD[said]()
    (message,) = heard(lambda: QGE(metric))
    assert said in message
    arguments = (problem.model, problem.x, problem.y)
    found = heard(
        lambda: quantus_ext.evaluate(
            {"metric": metric, "again": metric},
            {"maps": problem.a, "others": -problem.a},
            *arguments,
            problem.s,
        )
    )
    assert found == [message]


@pytest.mark.parametrize("name", UNTOLD)
def test_nothing_is_told_of_other_metrics(name):
    metric = UNTOLD[name]()
    assert heard(lambda: QGE(metric)) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("baseline", ["mean", "black", 0.2])
def test_irof_is_that_of_an_image_by_itself(baseline, normalise):
    metric = quantus.IROF(perturb_baseline=baseline, normalise=normalise)
    problem = quantus_metrics.problem()
    together, alone = scores(metric), scores(metric, n=1)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    bright = problem.x.copy()
    bright[1:] *= 5
    beside = Foreign(metric).score_maps(problem.model, bright, problem.y, [problem.a])
    np.testing.assert_allclose(beside.scores[0, 0], alone[0], rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_road_forgets_the_size_of_earlier_images():
    metric = quantus.ROAD(percentages=[10, 50, 90])
    before = scores(metric)
    metric.a_size = 16
    np.testing.assert_array_equal(scores(metric), before)
    assert metric.a_size == 16


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Random Logit", "MPRT", "Smooth MPRT", "Efficient MPRT"])
def test_generators_are_put_back(name):
    def drawn() -> tuple[float, float, float]:
        legacy = np.random.random()  # noqa: NPY002
        return random.random(), legacy, float(torch.rand(()))

    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = drawn()
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    scores(ENTRIES[name].make(), explainers=[(gradients, None)])
    assert drawn() == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [quantus.Complexity, quantus.Sparseness])
def test_the_callers_maps_stay_as_they_are(kind):
    problem = quantus_metrics.problem()
    metric, a = kind(abs=False, normalise=False), np.abs(problem.a)
    before = a.copy()
    scores(metric, a)
    np.testing.assert_array_equal(a, before)
    # Quantus by itself writes into them.
    kind(abs=False, normalise=False)(problem.model, problem.x, problem.y, a)
    assert not np.array_equal(a, before)
