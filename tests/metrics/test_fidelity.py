"""The Fidelity family's classes: what the contract and the functional tests do not see."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from quantus.helpers.enums import ScoreDirection
from torch import nn

from quantus_ext import FFidelity, Fidelity, RFidelity
from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import FineTuner, MaskSampler, clear_memory, training, tuner
from quantus_ext.metrics import fidelity
from tests.cases import untuned
from tests.finetune.problem import data, make_tuner, network
from tests.harness import make_inputs, rows_seen


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each training that was begun."""
    clear_memory()
    begun: list[str] = []

    def counted(*arguments, **keywords):
        begun.append(keywords["description"])
        return training.train(*arguments, **keywords)

    monkeypatch.setattr(tuner, "train", counted)
    return begun


def call(metric: Fidelity, model: nn.Module | None = None, **keywords) -> list[float]:
    x, y = data(8)
    maps = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    return metric(model or network(), x, keywords.pop("y_batch", y), maps, **keywords)


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


@pytest.mark.parametrize("by_a_callable", [False, True])
def test_clean_and_masked_rows_go_to_the_tuned_copy_only(monkeypatch, by_a_callable):
    inputs = make_inputs("image")
    inputs.x[:] = np.abs(inputs.x) + 1
    tuned = copy.deepcopy(inputs.model)
    fine_tune = (lambda model, masks: tuned) if by_a_callable else tuned
    metric = FFidelity(0.5, fine_tune=fine_tune, beta=0.1, n_samples=4)
    monkeypatch.setattr(fidelity, "health_report", lambda *_, **__: None)  # it asks both
    with rows_seen(inputs.model) as original, rows_seen(tuned) as asked:
        inputs.call(metric)
    # One row says how many classes there are; the others what the hook that notes them does.
    assert [len(rows) for rows in original] == [1, *[5] * by_a_callable]
    removed = [(rows == 0).flatten(1).sum(1) for rows in asked]
    # 6 of 64 pixels over 3 channels, for either sign.
    assert [set(zeros.tolist()) for zeros in removed] == [{0}, {18}, {18}]


def test_scores_are_the_tuned_models():
    inputs = make_inputs("image")
    other = make_inputs("image")
    tuned = copy.deepcopy(inputs.model)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.neg_()
    settings = {"beta": 1.0, "n_samples": 7, "output": "probability"}
    ours = inputs.call(FFidelity(fine_tune=tuned, **settings))
    del settings["beta"]
    np.testing.assert_array_equal(ours, other.call(RFidelity(**settings), model=tuned))
    assert not np.allclose(ours, other.call(RFidelity(**settings)))


def test_masks_to_tune_under_are_those_of_the_evaluation():
    inputs = make_inputs("image")
    given: list[MaskSampler] = []

    def fine_tune(model: nn.Module, masks: MaskSampler) -> nn.Module:
        assert model is not inputs.model
        given.append(masks)
        return model

    element = {"element": "patch", "patch_size": 2}
    metric = FFidelity(
        [0.25, 0.5], fine_tune=fine_tune, beta=0.3, perturb_baseline=0.25, n_samples=3, **element
    )
    inputs.call(metric)
    (masks,) = given
    assert (masks.beta, masks.element, masks.patch_size) == (0.3, "patch", 2)
    x = torch.ones(40, 3, 8, 8)
    expected = MaskSampler(perturbation=replace_by(0.25), beta=0.3, **element)
    assert torch.equal(masks(x), expected(x))
    # Of 16 patches with alpha = .5: 2 and 4 from the top, and at most the 4 that beta allows.
    assert metric.health.count == [0, 2, 4]
    assert metric.health.fraction == [0, 0.15, 0.3]


def test_health_is_of_all_that_is_removed_thinned_out():
    x, y = data(8, features=200)
    metric = FFidelity(fine_tune=network(features=200), beta=0.1, n_samples=2)
    metric(network(features=200), x, y, x)
    # Half of s = 10, 20, … and of the rest, up to a tenth of 200.
    assert metric.health.count == [0, 5, 10, 15, 20]
    every = FFidelity(fine_tune=network(features=200), beta=1.0, n_samples=2)
    every(network(features=200), x, y, x)
    assert every.health.count == [0, 5, 25, 50, 75, 95, 100, 200]


def test_another_seed_draws_anew_and_does_not_train_again(trainings):
    common, errors = make_tuner(seed=3), []
    for seed in (0, 1, 1):
        metric = FFidelity([0.3], fine_tune=common, beta=0.3, n_samples=2, seed=seed)
        call(metric)
        errors.append(metric.standard_errors.tolist())
    common.fine_tune(network(), beta=0.3)
    assert len(trainings) == 1
    assert errors[0] != errors[1] == errors[2]


def test_one_and_one_point_zero_are_one_baseline(trainings):
    common = make_tuner()
    for baseline in (1, 1.0, np.float32(1), np.int64(1)):
        call(FFidelity([0.3], fine_tune=common, beta=0.3, n_samples=2, perturb_baseline=baseline))
    assert len(trainings) == 1


class Scaled(nn.Module):
    """Needs a keyword, which decides the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        return self.body(x) * scale


@pytest.mark.filterwarnings("ignore:fine_tune is None")
@pytest.mark.parametrize("fine_tune", ["tuner", "model", "callable", "none"])
def test_keywords_of_the_model_reach_whatever_is_tuned(fine_tune, trainings):
    model, kept = Scaled().eval(), {"scale": -1.0}
    x, y = data(8)
    seen: list[nn.Module] = []

    def tuned_by_hand(copied: nn.Module, masks: MaskSampler) -> nn.Module:
        assert isinstance(copied, Scaled)
        return copied

    def explain(model: nn.Module, inputs, targets) -> np.ndarray:
        seen.append(model)
        return inputs

    ways = {"tuner": make_tuner(), "model": Scaled().eval(), "callable": tuned_by_hand}
    metric = FFidelity([0.3], fine_tune=ways.get(fine_tune), beta=1.0, n_samples=3)
    scores = metric(model, x, y, explain_func=explain, model_predict_kwargs=kept)
    assert seen[0] is model
    assert kept == {"scale": -1.0}
    with torch.no_grad():
        right = (model(torch.from_numpy(x), scale=-1.0).argmax(1).numpy() == y).mean()
    assert metric.health.original_accuracy[0] == right
    if fine_tune in ("model", "callable"):
        plain = RFidelity([0.3], n_samples=3)
        assert scores == plain(model, x, y, x, model_predict_kwargs=kept)
    else:
        assert len(trainings) == 1
        metric(model, x, y, x, model_predict_kwargs=kept)
        assert len(trainings) == 1
        metric(model, x, y, x, model_predict_kwargs={"scale": 1.0})
        assert len(trainings) == 2, "the keywords are part of the model"


def test_labels_are_checked_before_anything_is_trained(trainings):
    y = data(8)[1] + 4
    metric = FFidelity([0.3], fine_tune=make_tuner(), beta=0.3, n_samples=2)
    with pytest.raises(ValueError, match="labels in y_batch must be below 4"):
        call(metric, y_batch=y)
    assert trainings == []


def test_a_call_that_fails_leaves_the_last_health():
    metric = FFidelity([0.3], fine_tune=network(), beta=0.3, n_samples=2)
    call(metric)
    last = metric.health

    def failing(**_: object) -> None:
        raise RuntimeError("no map")

    x, y = data(12)
    with pytest.raises(RuntimeError, match="no map"):
        metric(network(), x, y, explain_func=failing)
    assert metric.health is last is not None


@pytest.mark.parametrize("metric", [Fidelity, RFidelity, FFidelity])
def test_probabilities_are_not_logits(metric):
    settings = {"fine_tune": network()} if metric is FFidelity else {}
    metric = metric([0.3], output="probability", **settings)
    with pytest.raises(ValueError, match=r"output='probability' needs prob.*softmax=False"):
        call(metric, softmax=False)
    assert np.isfinite(call(metric)).all()


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
    tuner = FineTuner(inputs.x, inputs.y, display_progressbar=False)
    metric = FFidelity(0.5, fine_tune=tuner, beta=0.5, element="segment", n_samples=3)
    with pytest.raises(ValueError, match="training data do not have: pass a tuned model or a call"):
        inputs.call(metric, s_batch=segments)


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
