"""What goes into a black box: functions, estimators, sessions; probabilities, and a reference."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import quantus_ext
from quantus_ext import ABPC, Deletion, Fidelity, Infidelity
from quantus_ext.adapters import BlackBox
from quantus_ext.finetune.known import identify

X, Y = load_iris(return_X_y=True)
LINEAR = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
ROWS = X[::10]


class Session:
    """What ONNX Runtime's sessions have in common, around a function of one array."""

    def __init__(
        self,
        predict: Any,
        outputs: dict[str, str],
        inputs: dict[str, str] | None = None,
        rows: int | str = "rows",
    ) -> None:
        self.predict, self.rows = predict, rows
        self.outputs = outputs
        self.inputs = {"x": "tensor(float)"} if inputs is None else inputs
        self.fed: list[dict[str, np.ndarray]] = []

    def get_inputs(self) -> list[Any]:
        return [
            SimpleNamespace(name=name, type=kind, shape=[self.rows, 4])
            for name, kind in self.inputs.items()
        ]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=n, type=kind, shape=[]) for n, kind in self.outputs.items()]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[Any]:
        self.fed.append(feed)
        rows = np.concatenate([feed[name] for name in self.inputs], 1)
        if isinstance(self.rows, int) and len(rows) != self.rows:
            raise RuntimeError(f"Got: {len(rows)} Expected: {self.rows}")
        return [self.predict(rows)[name] for name in names]


LABELLED = {"label": "tensor(int64)", "probabilities": "tensor(float)"}


def labelled(rows: np.ndarray) -> dict[str, Any]:
    return {"label": None, "probabilities": LINEAR.predict_proba(rows).astype(np.float32)}


def asked(box: BlackBox, rows: np.ndarray = ROWS) -> np.ndarray:
    return box(torch.from_numpy(rows)).numpy()


EXPECTED = LINEAR.predict_proba(ROWS)


def test_an_estimator_is_asked_for_probabilities_and_no_softmax_is_taken():
    box = BlackBox(LINEAR)
    assert (box.classes, box.probabilities) == (3, True)
    np.testing.assert_allclose(asked(box), EXPECTED)
    maps = np.abs(ROWS)
    plain = BlackBox(LINEAR.predict_proba)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ABPC(4)(box, ROWS, Y[::10], maps)
    assert found == ABPC(4)(plain, ROWS, Y[::10], maps, softmax=False)
    with pytest.warns(UserWarning, match="probabilities already"):
        assert ABPC(4)(plain, ROWS, Y[::10], maps) != found
    with pytest.raises(ValueError, match="softmax must be False for a BlackBox that gives prob"):
        ABPC(4)(box, ROWS, Y[::10], maps, softmax=True)


def test_a_regressor_gives_one_score():
    model = LinearRegression().fit(X, X @ [1.0, -2.0, 0.0, 3.0])
    box = BlackBox(model)
    assert (box.classes, box.probabilities) == (1, False)
    maps = ROWS * model.coef_
    metric = Infidelity(multiply_by_inputs=True, perturb_baseline=0.0)
    assert max(metric(box, ROWS, np.zeros(15, int), maps)) < 1e-12


def test_classes_are_those_of_the_first_answer():
    box = BlackBox(lambda rows: rows[:, 0])
    assert box.classes is None
    assert asked(box).shape == (15, 1)
    assert box.classes == 1
    later = BlackBox(lambda rows: rows[:, : len(rows)])
    asked(later, ROWS[:3])
    with pytest.raises(ValueError, match=r"must return shape \(2, 3\), on call 2 it returned"):
        asked(later, ROWS[:2])
    # It is the same model before and after.
    known = [identify(box, torch.from_numpy(ROWS), torch.device("cpu"))]
    known.append(identify(BlackBox(box.predict), torch.from_numpy(ROWS), torch.device("cpu")))
    assert known[0].content.key == known[1].content.key


@pytest.mark.parametrize(
    ("outputs", "predict", "output"),
    [
        (LABELLED, labelled, None),
        ({"scores": "tensor(double)"}, lambda rows: {"scores": LINEAR.predict_proba(rows)}, None),
        (
            {"label": "tensor(string)", "scores": "seq(map(string,tensor(float)))"},
            lambda rows: {
                "scores": [
                    dict(zip(["b", "a", "c"], [p[1], p[0], p[2]], strict=True))
                    for p in LINEAR.predict_proba(rows)
                ]
            },
            None,
        ),
        (
            {"features": "tensor(float)", "scores": "tensor(float)"},
            lambda rows: {"scores": LINEAR.predict_proba(rows)},
            "scores",
        ),
    ],
    ids=["label and probabilities", "one", "dicts of classes", "named"],
)
@pytest.mark.parametrize("rows", ["rows", None, 1, 4, 64])
def test_a_session_is_asked(outputs, predict, output, rows):
    session = Session(predict, outputs, rows=rows)
    box = BlackBox(session, output=output)
    np.testing.assert_allclose(asked(box), EXPECTED, atol=1e-6)
    assert {feed["x"].dtype for feed in session.fed} == {np.dtype("float32")}


def test_a_session_with_an_input_a_column():
    kinds = {
        "a": "tensor(float)",
        "b": "tensor(int64)",
        "c": "tensor(double)",
        "d": "tensor(float)",
    }
    session = Session(labelled, LABELLED, kinds)
    whole = np.round(ROWS)
    np.testing.assert_allclose(
        asked(BlackBox(session), whole), LINEAR.predict_proba(whole), atol=1e-6
    )
    assert session.fed[0]["b"].dtype == np.int64
    with pytest.raises(
        RuntimeError, match="rows must be whole numbers for the session's input 'b'"
    ):
        asked(BlackBox(session))
    with pytest.raises(RuntimeError, match="a column for each of the session's 4 inputs, a, b, c"):
        asked(BlackBox(session), whole[:, :3])


def test_scores_of_a_session_are_those_of_the_estimator():
    y = Y[::10]
    box = BlackBox(Session(labelled, LABELLED), probabilities=True)
    for metric in (Deletion(4), Fidelity([0.5], output="probability")):
        found = metric(box, ROWS, y, np.abs(ROWS))
        np.testing.assert_allclose(
            found, metric(BlackBox(LINEAR), ROWS, y, np.abs(ROWS)), atol=1e-5
        )


def test_rows_that_are_no_probabilities_are_an_error():
    with pytest.raises(ValueError, match=r"must return probabilities.* on call 1 row 0 is \[5"):
        asked(BlackBox(lambda rows: rows, probabilities=True))
    broken = EXPECTED.copy()
    broken[3] = np.nan
    np.testing.assert_array_equal(asked(BlackBox(lambda rows: broken, probabilities=True)), broken)


def isotonic() -> tuple[Any, Any]:
    """Return calibrated probabilities, and those of an export that steps in place of lines."""
    table = load_breast_cancer()
    grid = IsotonicRegression(out_of_bounds="clip").fit(table.data[:, 0], 1 - table.target)
    x, y = grid.X_thresholds_, grid.y_thresholds_

    def steps(rows: np.ndarray) -> np.ndarray:
        p = y[np.abs(rows[:, :1] - x).argmin(1)]
        return np.stack([1 - p, p], 1)

    def lines(rows: np.ndarray) -> np.ndarray:
        p = grid.predict(rows[:, 0])
        return np.stack([1 - p, p], 1)

    return lines, steps


def test_an_export_that_is_another_model_is_refused():
    lines, steps = isotonic()
    rows = load_breast_cancer().data[:100] + 0.05
    maps, y = np.abs(rows), np.zeros(100, int)
    refusal = r"predict must answer as reference does, differs in \d+ of 64 rows, most in row \d+"
    with pytest.raises(ValueError, match=refusal):
        Deletion(4)(BlackBox(steps, reference=lines, probabilities=True), rows, y, maps)
    calls = []
    same = BlackBox(lines, reference=lambda part: calls.append(len(part)) or lines(part))
    assert len(Deletion(4)(same, rows, y, maps, softmax=False)) == 100
    assert sum(calls) == 64
    evaluation = quantus_ext.evaluate(
        [Deletion(4)], {"maps": maps}, BlackBox(lines, reference=lines), rows, y, softmax=False
    )
    assert not evaluation.failures


def test_a_reference_is_compared_within_rounding():
    exact = BlackBox(labelled_only, reference=LINEAR)
    np.testing.assert_allclose(asked(exact), EXPECTED, atol=1e-6)
    with pytest.raises(ValueError, match=r"reference must return shape \(15, 2\)"):
        asked(
            BlackBox(lambda rows: rows[:, :2], reference=lambda rows: rows[:, :2].sum(1)[:, None])
        )
    unknown = np.where(EXPECTED > 0.9, np.nan, EXPECTED)
    asked(BlackBox(lambda rows: unknown, reference=lambda rows: unknown))
    with pytest.raises(ValueError, match="differs in"):
        asked(BlackBox(lambda rows: unknown, reference=LINEAR))


def labelled_only(rows: np.ndarray) -> np.ndarray:
    return labelled(rows)["probabilities"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BlackBox(object()), TypeError, "predict must be callable, is .*ONNX Runtime"),
        (lambda: BlackBox(len, reference=3), TypeError, "reference must be callable, is 3"),
        (lambda: BlackBox(len, output="a"), ValueError, "output must be left out where predict is"),
        (
            lambda: BlackBox(Session(labelled, LABELLED), output="scores"),
            ValueError,
            "output must be one of 'label', 'probabilities', is 'scores'",
        ),
        (
            lambda: BlackBox(Session(labelled, {"a": "tensor(float)", "b": "tensor(float)"})),
            ValueError,
            "output must name the one of 'a', 'b' that holds the scores: 2 outputs of predict",
        ),
        (
            lambda: BlackBox(Session(labelled, {"a": "tensor(int64)"})),
            ValueError,
            "0 outputs of predict are of floating-point numbers",
        ),
        (lambda: BlackBox(len, 1, probabilities=True), ValueError, "probabilities must be False"),
        (lambda: BlackBox(len, 2, probabilities="no"), TypeError, "probabilities must be True or"),
    ],
)
def test_what_breaks_a_rule(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_real_session():
    onnx = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    for options in ({"zipmap": False}, {"zipmap": True}):
        exported = onnx.to_onnx(LINEAR, X[:1].astype(np.float32), options=options)
        session = runtime.InferenceSession(exported.SerializeToString())
        box = BlackBox(session, probabilities=True, reference=LINEAR)
        np.testing.assert_allclose(asked(box), EXPECTED, atol=1e-5)
        scores = Deletion(4)(box, ROWS, Y[::10], np.abs(ROWS))
        expected = Deletion(4)(BlackBox(LINEAR), ROWS, Y[::10], np.abs(ROWS))
        np.testing.assert_allclose(scores, expected, atol=1e-5)
