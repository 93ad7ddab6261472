"""Black boxes: the same scores as the module they hide, clear errors, what is lost by them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import quantus
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    FFidelity,
    Fidelity,
    Infidelity,
    RFidelity,
)
from quantus_ext.adapters import BinaryLogit, BlackBox, Regression, refit
from quantus_ext.identity import content_key
from tests.harness import make_inputs


class Predict:
    """The network of a modality as a plain function on arrays; picklable."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(rows)).numpy()


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize(
    "make",
    [
        Infidelity,
        Deletion,
        lambda: Fidelity(output="probability"),
        lambda: RFidelity(n_samples=3, output="probability"),
        lambda: QGE(ABPC(5)),
    ],
    ids=["Infidelity", "Deletion", "Fidelity", "RFidelity", "QGE"],
)
def test_scores_are_those_of_the_module_behind(make, modality):
    inputs = make_inputs(modality)
    box = BlackBox(Predict(inputs.model), classes=4)
    np.testing.assert_allclose(inputs.call(make(), model=box), inputs.call(make()), rtol=1e-10)


def test_metrics_of_quantus_take_it():
    inputs = make_inputs("table", dtype=torch.float32)
    settings = {"abs": False, "normalise": False, "disable_warnings": True}
    metric = quantus.PixelFlipping(features_in_step=1, perturb_baseline=0.0, **settings)
    explained = (inputs.x, inputs.y, inputs.a)
    expected = metric(inputs.model, *explained, softmax=False, device="cpu")
    box = BlackBox(Predict(inputs.model), classes=4)
    np.testing.assert_allclose(metric(box, *explained, softmax=False, device="cpu"), expected)


def test_rows_go_out_in_their_own_type_in_parts():
    seen = []

    def predict(rows):
        seen.append(rows)
        rows_before = rows.copy()
        rows[:] = -1.0  # what is done to them here reaches nobody
        return rows_before[:, :2]

    box = BlackBox(predict, classes=2, max_rows_per_call=3)
    x = np.random.default_rng(0).normal(size=(8, 5))
    expected = box(torch.from_numpy(x))
    assert [len(rows) for rows in seen] == [3, 3, 2]
    assert {rows.dtype for rows in seen} == {np.dtype("float64")}
    np.testing.assert_array_equal(expected.numpy(), x[:, :2])
    assert box.n_calls == 3


def test_it_pickles_and_copies():
    inputs = make_inputs("table")
    box = BlackBox(Predict(inputs.model), classes=4)
    scores = inputs.call(Deletion(), model=box)
    for twin in (copy.deepcopy(box), pickle.loads(pickle.dumps(box))):
        np.testing.assert_array_equal(inputs.call(Deletion(), model=twin), scores)


def test_a_failing_call_is_named_and_costs_no_results():
    inputs, calls = make_inputs("table"), []

    def predict(rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise ConnectionError("the line is dead")
        return Predict(inputs.model)(rows)

    metric = Deletion(chunk_size=2)
    kept = inputs.call(metric)
    with pytest.raises(RuntimeError, match="predict failed on call 3, with 1 rows: the line is"):
        inputs.call(metric, model=BlackBox(predict, classes=4))
    assert metric.evaluation_scores == kept.tolist()


def test_a_row_of_nan_costs_its_sample_only():
    inputs = make_inputs("table")

    def predict(rows):
        scores = Predict(inputs.model)(rows)
        # Sample 2 as it is, before anything is removed.
        scores[(rows == inputs.x[2]).all(1)] = np.nan
        return scores

    expected = inputs.call(Deletion())
    with pytest.warns(RuntimeWarning, match=r"scores of samples \[2\] are not finite"):
        scores = inputs.call(Deletion(), model=BlackBox(predict, classes=4))
    assert np.isnan(scores[2])
    np.testing.assert_allclose(np.delete(scores, 2), np.delete(expected, 2))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            lambda rows: np.zeros((len(rows), 3)),
            r"must return shape \(5, 4\), on call 1 .* \(5, 3\)",
        ),
        (lambda rows: np.zeros(len(rows)), r"must return shape \(5, 4\)"),
        (lambda rows: [["a"] * 4] * len(rows), "predict must return an array of numbers"),
        (lambda rows: None, "predict must return"),
    ],
)
def test_what_it_returns_is_checked(returned, message):
    inputs = make_inputs("table")
    with pytest.raises(ValueError, match=message):
        inputs.call(Deletion(), model=BlackBox(returned, classes=4))


def test_bad_settings():
    with pytest.raises(TypeError, match=r"predict must be callable, is 'model.onnx'"):
        BlackBox("model.onnx", classes=2)
    with pytest.raises(ValueError, match="classes must be at least 1, is 0"):
        BlackBox(len, classes=0)
    with pytest.raises(ValueError, match="max_rows_per_call must be at least 1, is 0"):
        BlackBox(len, classes=2, max_rows_per_call=0)
    with pytest.raises(TypeError, match="make_estimator must be callable"):
        refit(None, np.zeros((2, 2)), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"y must have shape \(2,\)"):
        refit(RandomForestClassifier, np.zeros((2, 2)), np.array([0]))


def test_progress_counts_rows(capsys):
    box = BlackBox(lambda rows: rows[:, :2], classes=2, display_progressbar=True)
    box(torch.zeros(7, 3))
    assert "7/7" in capsys.readouterr().err


def test_a_refitted_forest_stands_masks_better():
    table = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(table.target))
    x, y = table.data[order], table.target[order]
    x = (x - x.mean(0)) / x.std(0)
    forest = RandomForestClassifier(30, random_state=0).fit(x[:400], y[:400])
    model = BlackBox(forest.predict_proba, classes=2)
    retrain = refit(lambda: RandomForestClassifier(30, random_state=0), x[:400], y[:400])
    metric = FFidelity([0.2], fine_tune=retrain, beta=0.5, n_samples=3)
    scores = metric(model, x[400:], y[400:], np.abs(x[400:]), softmax=False)
    assert np.isfinite(scores).all()
    health = metric.health
    assert health.tuned_accuracy[-1] > health.original_accuracy[-1]


def test_one_logit_is_two_classes():
    inputs = make_inputs("table")
    y = inputs.y % 2
    one = nn.Sequential(inputs.model, nn.Linear(4, 1).double()).eval()
    z = one(torch.from_numpy(inputs.x)).detach()
    probabilities = BinaryLogit(one)(torch.from_numpy(inputs.x)).softmax(1)
    torch.testing.assert_close(probabilities[:, 1:], z.sigmoid())
    flat = nn.Sequential(one, nn.Flatten(0)).eval()
    scores = inputs.call(Deletion(), model=BinaryLogit(one), y_batch=y)
    np.testing.assert_array_equal(
        inputs.call(Deletion(), model=BinaryLogit(flat), y_batch=y), scores
    )
    with pytest.raises(ValueError, match="BinaryLogit's model must give one number per sample"):
        inputs.call(Deletion(), model=BinaryLogit(inputs.model), y_batch=y)


def test_regression_is_explained_as_class_0():
    inputs = make_inputs("table")
    model = nn.Linear(7, 1, bias=False).double().eval()
    weights = model.weight.detach().numpy()
    metric = Infidelity(multiply_by_inputs=True, perturb_baseline=0.0)
    scores = inputs.call(
        metric, model=Regression(model), y_batch=np.zeros(5, dtype=int), a_batch=inputs.x * weights
    )
    np.testing.assert_allclose(scores, 0, atol=1e-12)
    zeros = np.zeros(5, dtype=int)
    areas = inputs.call(Deletion(), model=Regression(model), y_batch=zeros, softmax=False)
    assert np.isfinite(areas).all()
    with pytest.raises(ValueError, match="softmax must be False where the model has one output"):
        inputs.call(Deletion(), model=Regression(model), y_batch=zeros)
    with pytest.raises(ValueError, match="output='label' needs a model with at least two outputs"):
        inputs.call(Fidelity(), model=Regression(model), y_batch=zeros, softmax=False)


def test_integers_arrive_as_they_are():
    seen = []

    def predict(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return rows[:, :2] * 0.0

    x = np.array([[16777217, 3], [5, 7]])
    Deletion(2)(BlackBox(predict, classes=2), x, np.array([0, 1]), x, softmax=False)
    assert 16777217 in seen[0]


def test_a_black_box_is_the_same_after_calls():
    box = BlackBox(lambda rows: rows[:, :2], classes=2)
    twin, x = copy.deepcopy(box), np.random.default_rng(0).normal(size=(3, 4))
    box(torch.from_numpy(x))
    assert content_key(box) == content_key(twin)
