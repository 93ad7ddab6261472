"""The Fidelity family's classes: what the contract and the functional tests do not see."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from quantus.helpers.enums import ScoreDirection
from torch import nn

from quantus_ext import FFidelity, Fidelity, RFidelity
from tests.cases import untuned
from tests.harness import make_inputs, rows_seen


def test_all_of_a_region_at_once_is_fidelity():
    inputs = make_inputs("image")
    plain, random = Fidelity(), RFidelity(alpha=1.0, n_samples=7)
    np.testing.assert_array_equal(inputs.call(random), inputs.call(plain))
    assert random.n_evaluations == plain.n_evaluations
    np.testing.assert_array_equal(random.details["curve_minus"], plain.details["curve_minus"])


def test_without_tuning_and_cap_it_is_r_fidelity():
    inputs = make_inputs("image")
    ours = FFidelity(fine_tune=untuned, beta=1.0, n_samples=7)
    np.testing.assert_array_equal(inputs.call(ours), inputs.call(RFidelity(n_samples=7)))


def test_clean_and_masked_rows_go_to_the_tuned_copy_only():
    inputs = make_inputs("image")
    inputs.x[:] = np.abs(inputs.x) + 1
    tuned = copy.deepcopy(inputs.model)
    metric = FFidelity(0.5, fine_tune=tuned, beta=0.1, n_samples=4)
    metric.model_to_ask = lambda *_: tuned  # without the health report, which asks both
    with rows_seen(inputs.model) as original, rows_seen(tuned) as asked:
        inputs.call(metric)
    assert not original
    removed = [(rows == 0).flatten(1).sum(1) for rows in asked]
    # 6 of 64 pixels over 3 channels, for either sign.
    assert [set(zeros.tolist()) for zeros in removed] == [{0}, {18}, {18}]


def test_segments_take_a_ready_model():
    inputs = make_inputs("image")
    segments = np.arange(64).reshape(8, 8)[None].repeat(5, 0) // 8
    metric = FFidelity(0.5, fine_tune=inputs.model, beta=0.5, element="segment", n_samples=3)
    scores = inputs.call(metric, s_batch=segments)
    assert np.isfinite(scores).all()
    with pytest.raises(TypeError, match="s_batch must hold integer segment ids"):
        inputs.call(metric, s_batch=segments / 2)
    with pytest.raises(ValueError, match="s_batch must hold segment ids of shape"):
        inputs.call(metric, s_batch=None)


def test_the_direction_is_that_of_the_score():
    directions = {score: Fidelity(score=score).score_direction for score in ("plus", "gap")}
    assert set(directions.values()) == {ScoreDirection.HIGHER}
    assert Fidelity(score="minus").score_direction is ScoreDirection.LOWER
    assert Fidelity().score_direction is ScoreDirection.HIGHER


def test_tuning_on_what_is_scored_warns():
    inputs = make_inputs("table", n=12)
    with pytest.warns(UserWarning, match="compare explainers on this set only"):
        inputs.call(FFidelity(beta=0.3, n_samples=2))


BAD = {
    "sparsity": (Fidelity, {"sparsity": [0.5, 1.5]}, ValueError, "sparsity .* is 1.5"),
    "no sparsity": (Fidelity, {"sparsity": []}, ValueError, "sparsity .* is empty"),
    "score": (Fidelity, {"score": "both"}, ValueError, "score must be one of .* is 'both'"),
    "output": (Fidelity, {"output": "logit"}, ValueError, "output must be one of"),
    "element": (Fidelity, {"element": "blob"}, ValueError, "element must be one of"),
    "patch": (Fidelity, {"element": "patch"}, TypeError, "patch_size must be an integer"),
    "alpha": (RFidelity, {"alpha": 0.0}, ValueError, "alpha must be above 0"),
    "alphas": (RFidelity, {"alpha": (0.1, 0.2, 0.3)}, ValueError, "alpha .* two, has 3"),
    "samples": (RFidelity, {"n_samples": 0}, ValueError, "n_samples must be at least 1"),
    "beta": (FFidelity, {"beta": 1.1}, ValueError, "beta must be above 0 and at most 1, is 1.1"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_settings_are_named(bad: str):
    metric, keywords, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        metric(**keywords)


def test_a_callable_that_returns_rubbish_is_named():
    inputs = make_inputs("table")
    with pytest.raises(TypeError, match="fine_tune"):
        inputs.call(FFidelity(beta=0.3, fine_tune=lambda model, masks: "tuned"))
    training = nn.Sequential(nn.Linear(7, 4)).double().train()
    with pytest.raises(ValueError, match="evaluation mode"):
        inputs.call(FFidelity(beta=0.3, fine_tune=training))
