"""The Fidelity family against a slow re-derivation, models known by hand, and exact counts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import replace_by
from quantus_ext.functional import fidelity
from quantus_ext.functional.fidelity import removal_counts
from tests.harness import make_inputs, rows_seen
from tests.reference import fidelity as reference

ELEMENTS = {
    "image-position": ("image", "position", None),
    "image-patch": ("image", "patch", 3),
    "image-value": ("image", "channel_value", None),
    "image-segment": ("image", "segment", None),
    "series-position": ("series", "position", None),
    "series-window": ("series", "patch", 5),
    "series-value": ("series", "channel_value", None),
    "table": ("table", "position", None),
}


@pytest.mark.parametrize(("modality", "element", "size"), ELEMENTS.values(), ids=ELEMENTS)
@pytest.mark.parametrize("output", ["label", "probability"])
@pytest.mark.filterwarnings("ignore:beta")
@pytest.mark.parametrize(
    ("alpha", "beta", "n_samples"), [(1.0, 1.0, 1), (0.5, 1.0, 3), (0.5, 0.3, 3)]
)
def test_equals_the_slow_reference(modality, element, size, output, alpha, beta, n_samples):
    n = 3
    inputs, sparsity = make_inputs(modality, n), (0.1, 0.29, 0.55, 0.95)
    segments = None
    if element == "segment":
        # Four segments of unequal size; the last sample has three.
        segments = np.random.default_rng(3).integers(0, 4, (n, 8, 8)) * 10
        segments[2] = np.minimum(segments[2], 20)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    grouping = elements_of(
        x,
        element,
        patch_size=size,
        segments=None if segments is None else torch.from_numpy(segments),
    )
    predict = inputs.predict(softmax=True)
    ours = fidelity(
        lambda rows: inputs.model(rows).softmax(-1),
        x,
        a,
        y,
        sparsity=sparsity,
        elements=grouping,
        alpha=(alpha, alpha),
        beta=beta,
        n_draws=n_samples,
        output=output,
    )
    expected = reference.curves(
        predict,
        inputs.x,
        inputs.y,
        inputs.a,
        np.arange(n),
        sparsity=sparsity,
        alpha=alpha,
        beta=beta,
        n_samples=n_samples,
        output=output,
        element=element,
        patch_size=size,
        segments=segments,
    )
    for name, curve in expected.items():
        np.testing.assert_allclose(ours.details[f"curve_{name}"], curve, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(ours.details[name], curve.mean(1), atol=1e-12, err_msg=name)


def reads_the_first(k: int):
    """Class 1 while any of the first k features is there."""

    def model(rows: Tensor) -> Tensor:
        here = (rows[:, :k] != 0).any(1).double()
        return torch.stack([1 - here, here], 1)

    return model


def test_a_model_that_reads_known_elements():
    x, y = torch.ones(1, 10, dtype=torch.float64), torch.ones(1, dtype=torch.long)
    a = torch.arange(10, 0, -1, dtype=torch.float64)[None]
    right = fidelity(reads_the_first(2), x, a, y, sparsity=[0.1, 0.2, 0.3, 1.0])
    assert right.details["curve_plus"].tolist() == [[0.0, 1.0, 1.0, 1.0]]
    assert right.details["curve_minus"].tolist() == [[0.0, 0.0, 0.0, 0.0]]
    wrong = fidelity(reads_the_first(2), x, -a, y, sparsity=[0.1, 0.8, 0.9, 1.0])
    assert wrong.details["curve_plus"].tolist() == [[0.0, 0.0, 0.0, 1.0]]
    assert wrong.details["curve_minus"].tolist() == [[1.0, 1.0, 0.0, 0.0]]
    # Half of the 4 top elements go: both of the 2 that matter in 1 of 6 ways.
    half = fidelity(reads_the_first(2), x, a, y, sparsity=[0.4], alpha=(0.5, 0.5), n_draws=4000)
    assert abs(half.score.item() - 1 / 6) < 4 * half.standard_error.item()
    assert half.standard_error.item() == pytest.approx((5 / 36 / 4000) ** 0.5, rel=0.05)


percent = st.integers(1, 100).map(lambda p: Fraction(p, 100))


@settings(max_examples=300, deadline=None)
@given(t=st.integers(1, 3000), sparsity=percent, alpha=percent, beta=percent)
def test_counts_are_exact(t: int, sparsity: Fraction, alpha: Fraction, beta: Fraction):
    size, plus, minus = removal_counts(
        t, float(sparsity), (float(alpha), float(alpha)), float(beta)
    )
    cap = max(math.floor(beta * t), 1)
    assert size == math.floor(sparsity * t)
    assert plus == min(math.floor(alpha * size), cap)
    assert minus == min(math.ceil(alpha * (t - size)), cap)


@settings(max_examples=40, deadline=None)
@given(
    t=st.integers(1, 40),
    sparsity=percent,
    alpha=st.sampled_from([0.29, 0.5, 0.55, 1.0]),
    beta=st.sampled_from([0.1, 0.29, 0.55, 1.0]),
    ties=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:beta")
def test_exactly_so_many_elements_are_removed_from_the_right_region(t, sparsity, alpha, beta, ties):
    rows: list[Tensor] = []

    def spy(batch: Tensor) -> Tensor:
        rows.append(batch.clone())
        return torch.ones(len(batch), 2)

    x = torch.ones(2, t)
    # With ties the order among equals is anybody's, but the counts are not.
    a = torch.zeros(2, t) if ties else torch.arange(t, 0, -1.0).expand(2, t)
    share = float(sparsity)
    fidelity(
        Forward(spy, chunk_size=1000),
        x,
        a,
        torch.zeros(2, dtype=torch.long),
        sparsity=[share],
        alpha=(alpha, alpha),
        beta=beta,
        n_draws=5,
    )
    size, plus, minus = removal_counts(t, share, (alpha, alpha), beta)
    parts = {"plus": (0, size, plus), "minus": (size, t, minus)}
    evaluated = iter(rows[1:])
    # What goes as a whole goes through the model first, and together.
    whole = [part for part in parts.values() if 0 < part[2] == part[1] - part[0]]
    together = iter(next(evaluated).unflatten(0, (2, len(whole))).unbind(1) if whole else [])
    for first, past, count in parts.values():
        if count == 0:
            continue
        removed = (next(together) if count == past - first else next(evaluated)) == 0
        assert len(removed) == 2 * (1 if count == past - first else 5)
        assert (removed.sum(1) == count).all()
        if not ties:
            assert not removed[:, :first].any()
            assert not removed[:, past:].any()
    assert next(evaluated, None) is None


def test_within_a_region_each_element_is_equally_likely():
    rows: list[Tensor] = []

    def spy(batch: Tensor) -> Tensor:
        rows.append(batch.clone())
        return torch.ones(len(batch), 2)

    x, a = torch.ones(1, 20), torch.arange(20, 0, -1.0)[None]
    fidelity(
        Forward(spy, chunk_size=10_000),
        x,
        a,
        torch.zeros(1, dtype=torch.long),
        sparsity=[0.4],
        alpha=(0.5, 0.5),
        n_draws=4000,
    )
    for removed, members in zip(rows[1:], (slice(0, 8), slice(8, 20)), strict=True):
        frequency = (removed == 0).sum(0)[members].numpy()
        # One false alarm in 10,000, with a fixed seed.
        assert chisquare(frequency).pvalue > 5e-5


def test_ties_are_broken_by_seed_and_not_by_position():
    x, a = torch.ones(400, 10), torch.zeros(400, 10)
    counts = torch.zeros(10)

    def spy(batch: Tensor) -> Tensor:
        if len(batch) == 400:
            counts.add_((batch == 0).sum(0))
        return torch.ones(len(batch), 2)

    fidelity(Forward(spy, chunk_size=400), x, a, torch.zeros(400, dtype=torch.long), sparsity=[0.1])
    # 400 of the top 1 and 3,600 of the other 9, spread over the 10 positions.
    assert counts.sum() == 400 + 3600
    top = fidelity(
        lambda rows: torch.stack([rows[:, 0], 1 - rows[:, 0]], 1),
        x,
        a,
        torch.zeros(400, dtype=torch.long),
        sparsity=[0.1],
    )
    # The first position is the top one in a tenth of the samples: 40 ± 6; five deviations.
    assert 10 < top.details["curve_plus"].sum() < 70


def test_tolerance_reaches_the_score_with_fewer_evaluations():
    # Few elements, so that answers differ between draws and a 5,000-draw truth is cheap.
    inputs = make_inputs("table", n=40)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))

    def score(**keywords: object):
        forward = Forward(inputs.model)
        result = fidelity(forward, x, a, y, sparsity=[0.3, 0.6, 0.9], alpha=(0.5, 0.5), **keywords)
        return result.score, forward.n_evaluations

    known, most = score(n_draws=5000)
    close, evaluations = score(n_draws=5000, tolerance=0.02)
    assert ((close - known).abs() <= 0.04).double().mean() >= 0.95
    assert evaluations < 0.2 * most


def test_removed_values_take_the_baseline_on_all_channels():
    inputs = make_inputs("image", n=1)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    with rows_seen(inputs.model) as seen:
        fidelity(inputs.model, x, a, y, sparsity=[0.25], perturbation=replace_by(9.0))
    without_top, only_top = seen[1]
    assert (without_top == 9).sum() == 16 * 3
    assert (only_top == 9).sum() == 48 * 3
    assert torch.equal((without_top == 9).any(0), (only_top != 9).any(0))
