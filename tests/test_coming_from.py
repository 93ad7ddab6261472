"""What the page for users of other libraries calls equal, against those libraries' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext import ABPC, Fidelity, Infidelity
from tests.harness import Inputs
from tests.reference import elsewhere

# Positions of which there are a multiple of ten.
SHAPES = {"image": (3, 4, 5), "series": (2, 10), "table": (10,)}
TENTHS = [10, 20, 30, 40, 50, 60, 70, 80, 90]
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def inputs_of(shape: tuple[int, ...]) -> Inputs:
    size = int(np.prod(shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.Tanh(), nn.Linear(6, 3))
    generator = np.random.default_rng(0)
    x, a = generator.normal(size=(2, 4, *shape))
    return Inputs(model.double().eval(), x, generator.integers(0, 3, 4), a)


def positions_of(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape if len(shape) == 1 else shape[1:]))


def by_sample(inputs: Inputs, measure, *arguments, softmax: bool) -> np.ndarray:
    predict = inputs.predict(softmax=softmax)
    samples = zip(inputs.x, inputs.y.tolist(), inputs.a, strict=True)
    return np.array([measure(predict, x, y, a, *arguments) for x, y, a in samples])


@each_shape
@pytest.mark.parametrize("softmax", [True, False])
def test_road_combined_is_a_multiple_of_abpc(shape, softmax):
    inputs = inputs_of(shape)
    expected = by_sample(inputs, elsewhere.road_combined, TENTHS, softmax=softmax)
    found = inputs.call(ABPC(steps=10), softmax=softmax)
    np.testing.assert_allclose(found * 11 / 18, expected, rtol=1e-9)


@each_shape
def test_road_combined_is_half_the_gap_of_fidelity(shape):
    inputs = inputs_of(shape)
    expected = by_sample(inputs, elsewhere.road_combined, TENTHS, softmax=True)
    tenths = [percentile / 100 for percentile in TENTHS]
    found = inputs.call(Fidelity(tenths, score="gap", output="probability"))
    np.testing.assert_allclose(found / 2, expected, rtol=1e-9)


@each_shape
@pytest.mark.parametrize(
    "shares",
    # Of ERASER, of ferret, and of which several take the same elements.
    [[0.01, 0.05, 0.1, 0.2, 0.5], np.arange(0.1, 1.1, 0.1).tolist(), [0.3, 0.31, 0.32, 0.7]],
    ids=["eraser", "ferret", "alike"],
)
def test_aopc_is_fidelity_of_probabilities(shape, shares):
    inputs = inputs_of(shape)
    # ferret leaves out an empty rationale, which Fidelity counts as a size of its own.
    sizes = [share for share in shares if share * positions_of(shape) >= 1]
    expected = by_sample(inputs, elsewhere.aopc, shares, softmax=True)
    metric = Fidelity([min(size, 1.0) for size in sizes], output="probability")
    comprehensiveness = inputs.call(metric)
    np.testing.assert_allclose(comprehensiveness, expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(metric.details["plus"], expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(metric.details["minus"], expected[:, 1], rtol=1e-9)


@each_shape
@pytest.mark.parametrize("softmax", [True, False])
def test_mu_fidelity_is_the_correlation_of_infidelity(shape, softmax):
    inputs = inputs_of(shape)
    # All subsets of two are drawn, each once.
    metric = Infidelity(
        scheme="subset",
        subset_fraction=2 / positions_of(shape),
        multiply_by_inputs=True,
        perturb_baseline=0.0,
        n_perturb_samples=1000,
    )
    inputs.call(metric, softmax=softmax)
    expected = by_sample(inputs, elsewhere.mu_fidelity, 2, softmax=softmax)
    np.testing.assert_allclose(metric.details["correlation"], expected, rtol=1e-7)
