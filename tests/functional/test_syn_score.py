"""SynScore against scikit-learn, with ties, and at its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from quantus_ext import SynScore
from quantus_ext.functional import syn_score
from tests.harness import make_inputs


@settings(deadline=None, max_examples=80)
@given(
    values=st.lists(st.integers(-3, 3), min_size=2, max_size=30),
    seed=st.integers(0, 1000),
)
def test_equals_scikit_learn(values, seed):
    truth = np.random.default_rng(seed).random(len(values)) < 0.4
    result = syn_score(torch.tensor([values]), torch.from_numpy(truth)[None])
    if truth.any() and not truth.all():
        assert float(result.details["auroc"]) == pytest.approx(roc_auc_score(truth, values))
        assert float(result.details["ap"]) == pytest.approx(average_precision_score(truth, values))
    else:
        assert np.isnan(float(result.details["auroc"]))
        assert np.isnan(float(result.details["ap"])) != truth.any()


def test_a_random_map_scores_a_half():
    generator = np.random.default_rng(0)
    truth = torch.from_numpy(generator.random((400, 100)) < 0.1)
    truth[:, 0] = True
    result = syn_score(torch.from_numpy(generator.normal(size=(400, 100))), truth)
    error = float(result.score.std()) / 20
    assert abs(float(result.score.mean()) - 0.5) < 4 * error < 0.05


def test_masks_with_and_without_a_channel_and_bad_ones():
    inputs = make_inputs("image")
    masks = np.zeros((5, 8, 8), dtype=bool)
    masks[:, :2, :2] = True
    scores = inputs.call(SynScore(), s_batch=masks)
    for same in (
        masks[:, None],
        masks[..., None],
        masks.astype(float),
        torch.from_numpy(masks),
        list(masks),
    ):
        np.testing.assert_array_equal(inputs.call(SynScore(), s_batch=same), scores)
    with pytest.raises(ValueError, match=r"s_batch must have shape \(5, 8, 8\) or \(5, 1, 8, 8\)"):
        inputs.call(SynScore(), s_batch=masks[:, :4])
    with pytest.raises(ValueError, match="s_batch must hold nothing but 0 and 1"):
        inputs.call(SynScore(), s_batch=masks * 2)
    with pytest.raises(ValueError, match="measure must be one of 'auroc', 'ap', is 'f1'"):
        SynScore("f1")
    with pytest.warns(RuntimeWarning, match=r"samples \[1\] are not finite: s_batch marks none"):
        inputs.call(SynScore(), s_batch=masks * (np.arange(5) != 1)[:, None, None])
