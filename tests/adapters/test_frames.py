"""Data frames: what a model gets back, what is removed, scores by hand, SHAP against chance."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import trapezoid
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

import quantus_ext
from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    FFidelity,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    RFidelity,
)
from quantus_ext.adapters import BlackBox, DataFrame, refit
from quantus_ext.adapters.frames import MISSING
from quantus_ext.functional import inverse, permuted


def wine() -> tuple[pd.DataFrame, np.ndarray]:
    """Return a real table with words, whole numbers, truth values and gaps; labels are words."""
    bunch = load_wine(as_frame=True)
    order = np.random.default_rng(0).permutation(len(bunch.data))
    data = bunch.data.iloc[order].reset_index(drop=True)
    frame = pd.DataFrame(
        {
            "flavanoids": data.flavanoids,
            "strength": pd.cut(
                data.alcohol, [0, 12.5, 13.3, 20], labels=["light", "mild", "strong"]
            ),
            "hue": data.hue.where(np.random.default_rng(1).random(len(data)) > 0.15),
            "proline": data.proline.astype(int),
            "dark": data.color_intensity > 5,
        }
    )
    frame["strength"] = frame["strength"].astype(object)
    return frame, np.array(bunch.target_names)[bunch.target.to_numpy()[order]]


X, Y = wine()
TRAIN, TEST = slice(0, 130), slice(130, 160)
WORDS = ["strength"]


def pipeline(trees: int = 15) -> Pipeline:
    columns = make_column_transformer(
        (OneHotEncoder(), WORDS), remainder=SimpleImputer(strategy="median")
    )
    return make_pipeline(columns, RandomForestClassifier(trees, random_state=0))


MODEL = pipeline().fit(X[TRAIN], Y[TRAIN])
CLASSES = list(MODEL.classes_)


def table(**settings: Any) -> DataFrame:
    return DataFrame(MODEL, X[TRAIN], **settings)


def maps(n: int = 4) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, 5))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([3, 1, 2]),
        pd.Series([3, 1, 2], dtype="int8"),
        pd.Series([0.5, None, 2.0]),
        pd.Series([0.5, 0.25, 2.0], dtype="float32"),
        pd.Series([True, False, True]),
        pd.Series(["a", None, "b"], dtype=object),
        pd.Series(["a", np.nan, "b"], dtype=object),
        pd.Series(["a", None, "b"], dtype="string"),
        pd.Series(["a", "c", "b"]),
        pd.Series(["b", None, "a"], dtype=pd.CategoricalDtype(["b", "a", "c"], ordered=True)),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1.5, None, 3], dtype="Float32"),
        pd.Series([True, None, False], dtype="boolean"),
        pd.to_datetime(pd.Series(["2020-01-01", None, "2021-05-05"])),
        pd.Series([("a", 1), ("b", 2), ("a", 1)]),
        pd.Series([1, "one", 2.5], dtype=object),
    ],
    ids=lambda column: f"{column.dtype}-{column.tolist()}",
)
def test_names_types_categories_and_gaps_come_back(column: pd.Series):
    frame = pd.DataFrame({0: [1.0, 2.0, 3.0], "it": column}).set_axis([7, 7, 3])
    seen: list[pd.DataFrame] = []

    def predict(rows: pd.DataFrame) -> np.ndarray:
        seen.append(rows)
        return np.zeros((len(rows), 2))

    model = DataFrame(predict, frame)
    expected = frame.reset_index(drop=True)
    pd.testing.assert_frame_equal(model.decode(model.encode(frame)), expected)
    model.ask(model.encode(frame[["it", 0]]))  # in another order
    pd.testing.assert_frame_equal(seen[-1], expected)
    for row in [2, 0]:
        # Parts of it have the same types.
        one = model.decode(model.encode(frame.iloc[[row]]))
        pd.testing.assert_frame_equal(one, expected.iloc[[row]].reset_index(drop=True))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model.columns)))
    pd.testing.assert_series_equal(
        twin[1].decoded(model.encode(frame)[:, 1]), expected["it"], check_names=False
    )


@pytest.mark.parametrize("removal", ["background", "typical"])
@pytest.mark.parametrize(
    "metric",
    [
        Deletion(n_samples=3),
        RFidelity([0.5], n_samples=6),
        Infidelity(multiply_by_inputs=True, n_perturb_samples=12),
        QGE(ABPC(3)),
    ],
)
def test_models_see_nothing_but_values_that_columns_have(metric, removal):
    seen: list[pd.DataFrame] = []

    def predict(rows: pd.DataFrame) -> np.ndarray:
        seen.append(rows)
        return MODEL.predict_proba(rows)

    model = DataFrame(predict, X[TRAIN], removal=removal, probabilities=True)
    metric(model, X[TEST][:4], np.array([0, 1, 2, 0]), maps())
    rows = pd.concat(seen)
    known = pd.concat([X[TRAIN], X[TEST][:4]])
    for name in ("strength", "dark"):
        assert set(rows[name]) <= set(known[name])
    assert set(rows.proline) - set(X[TEST][:4].proline)
    typical = {"flavanoids": X[TRAIN].flavanoids.mean(), "proline": X[TRAIN].proline.mean()}
    for name in ("flavanoids", "proline", "hue"):
        values = set(known[name].dropna())
        if removal == "typical":
            values.add(typical.get(name, X[TRAIN].hue.mean()))
        found = rows[name].dropna().to_numpy()
        assert np.isclose(found[:, None], sorted(values), rtol=1e-12).any(1).all(), name


def removed(row: pd.Series, columns: list[int], removal: str) -> pd.DataFrame:
    """Return the row as a frame, with columns as what removal says, by pandas alone."""
    frame = row.to_frame().T.astype(X.dtypes.to_dict())
    for at in columns:
        name = X.columns[at]
        train = X[TRAIN][name]
        value: Any = np.nan
        if removal == "typical":
            value = train.mode()[0] if name in ("strength", "dark") else train.mean()
        frame[name] = [value]
    return frame


GRADIENT_BOOSTING = HistGradientBoostingClassifier(
    max_iter=10, categorical_features="from_dtype", random_state=0
).fit(X[TRAIN].assign(strength=X[TRAIN].strength.astype("category")), Y[TRAIN])


def takes_gaps(rows: pd.DataFrame) -> np.ndarray:
    levels = pd.CategoricalDtype(["light", "mild", "strong"])
    return GRADIENT_BOOSTING.predict_proba(
        rows.assign(strength=rows.strength.astype(levels), dark=rows.dark.astype(float))
    )


@pytest.mark.parametrize("removal", ["typical", "missing"])
def test_scores_are_those_by_hand(removal: str):
    predict = takes_gaps if removal == "missing" else MODEL.predict_proba
    model = DataFrame(predict, X[TRAIN], removal=removal, probabilities=True)
    x, y, a = X[TEST][:4], np.array([0, 2, 1, 1]), maps()

    def asked(sample: int, columns: list[int]) -> float:
        return float(predict(removed(x.iloc[sample], columns, removal))[0, y[sample]])

    area, r_fidelity, infidelity = [], [], []
    for sample, phi in enumerate(a):
        order = list(np.argsort(-phi))
        clean = asked(sample, [])
        outputs = [asked(sample, order[:count]) for count in range(6)]
        area.append(trapezoid(outputs, np.arange(6) / 5))
        # Of the top four, every two of them.
        pairs = [list(pair) for pair in itertools.combinations(order[:4], 2)]
        r_fidelity.append(clean - np.mean([asked(sample, pair) for pair in pairs]))
        losses = [
            (phi[list(pair)].sum() - (clean - asked(sample, list(pair)))) ** 2
            for pair in itertools.combinations(range(5), 2)
        ]
        infidelity.append(np.mean(losses))
    np.testing.assert_allclose(Deletion(5)(model, x, y, a), area)
    metric = RFidelity([0.8], alpha=0.5, n_samples=6, output="probability")
    np.testing.assert_allclose(metric(model, x, y, a), r_fidelity)
    metric = Infidelity(scheme="subset", subset_fraction=0.4, multiply_by_inputs=True)
    np.testing.assert_allclose(metric(model, x, y, a), infidelity)


def test_random_rows_of_the_training_data_are_the_default():
    x, y, a = X[TEST][:3], np.array([0, 1, 2]), maps(3)
    found = Deletion(1, n_samples=4000)(table(), x, y, a)
    gone = MODEL.predict_proba(X[TRAIN]).mean(0)
    clean = MODEL.predict_proba(x)[np.arange(3), y]
    np.testing.assert_allclose(found, (clean + gone[y]) / 2, atol=0.01)


def shapley(model: DataFrame, x: pd.DataFrame, background: pd.DataFrame) -> np.ndarray:
    """Return exact SHAP values of all classes, shape (n, F, classes), from every coalition."""
    rows, others = model.encode(x), model.encode(background)
    n_columns = rows.shape[1]
    coalitions = np.array(list(itertools.product([False, True], repeat=n_columns)))
    mixed = np.where(coalitions[:, None, None], rows[:, None], others)
    answers = model.ask(mixed.reshape(-1, n_columns))
    value = answers.reshape(*mixed.shape[:3], -1).mean(2)
    found = np.zeros((len(rows), n_columns, value.shape[2]))
    for place, coalition in enumerate(coalitions):
        size = coalition.sum()
        for column in np.flatnonzero(~coalition):
            weight = 1 / (n_columns * math.comb(n_columns - 1, size))
            joined = coalition.copy()
            joined[column] = True
            gain = value[(coalitions == joined).all(1).argmax()] - value[place]
            found[:, column] += weight * gain
    return found


def test_shap_beats_a_random_order_and_its_inverse_by_every_metric():
    model = table()
    x, y = X[TEST][:16], Y[TEST][:16]
    explanation = shapley(model, x, X[TRAIN][::5])
    own = explanation[np.arange(16), :, model.target(y)]
    others = {
        "random": permuted(torch.as_tensor(own)).numpy(),
        "inverse": inverse(torch.as_tensor(own)).numpy(),
    }
    retrain = refit(partial(pipeline, 10), X[TRAIN], Y[TRAIN], copies=2)
    metrics = {
        **{each.__name__: each(4, n_samples=8) for each in (MoRF, LeRF, ABPC, Deletion, Insertion)},
        "RFidelity": RFidelity([0.2, 0.4, 0.6], n_samples=8, output="probability"),
        "FFidelity": FFidelity(
            [0.2, 0.4, 0.6], n_samples=8, output="probability", beta=0.4, fine_tune=retrain
        ),
        "Infidelity": Infidelity(
            multiply_by_inputs=True, scheme="subset", subset_fraction=0.4, n_perturb_samples=40
        ),
        "QGE": QGE(Infidelity(multiply_by_inputs=True, n_perturb_samples=40)),
    }
    evaluation = quantus_ext.evaluate(metrics, {"SHAP": explanation, **others}, model, x, y)
    assert not evaluation.failures
    for name in metrics:
        mean = {each: evaluation.scores_of(each, name).mean() for each in evaluation.explainers}
        best = min if name in ("LeRF", "Deletion", "Infidelity") else max
        assert best(mean, key=mean.__getitem__) == "SHAP", (name, mean)


@pytest.mark.parametrize("form", ["explanation", "array", "by an explainer", "data frame"])
def test_the_explained_class_is_picked_of_an_axis_of_classes(form: str):
    shap = pytest.importorskip("shap")
    x, y = X[TEST][:4], np.array([2, 0, 1, 2])
    values = np.random.default_rng(0).normal(size=(4, 5, 3))
    picked = np.stack([values[i, :, label] for i, label in enumerate(y)])
    model = table(removal="typical")
    expected = Deletion(4)(model, x, y, picked)
    seen = []

    def explain(model: DataFrame, inputs: pd.DataFrame, targets: np.ndarray, **_: Any) -> Any:
        seen.append(inputs)
        rows = [at for row in inputs.flavanoids for at in np.flatnonzero(x.flavanoids == row)]
        return shap.Explanation(values[rows], base_values=np.zeros((len(rows), 3)))

    maps = {
        "explanation": shap.Explanation(values, base_values=np.zeros((4, 3))),
        "array": values,
        "data frame": pd.DataFrame(picked, columns=X.columns),
        "by an explainer": None,
    }[form]
    if form == "by an explainer":
        found = Deletion(4)(model, x, y, explain_func=explain, batch_size=3)
        assert seen[0].dtypes.equals(X.dtypes)
    else:
        found = Deletion(4)(model, x, y, maps)
    np.testing.assert_allclose(found, expected)
    evaluation = quantus_ext.evaluate(
        [Deletion(4)], {"it": explain if maps is None else maps}, model, x, y, batch_size=2
    )
    np.testing.assert_allclose(evaluation.scores_of("it", "Deletion"), expected)


def test_an_axis_that_is_none_of_classes_is_refused():
    x, y = X[TEST][:4], np.array([2, 0, 1, 2])
    with pytest.raises(ValueError, match=r"a_batch must have shape \(4, 5\).* has \(4, 5, 5\)"):
        Deletion(4)(table(), x, y, np.ones((4, 5, 5)))  # SHAP interaction values


def test_labels_may_be_words():
    x, a = X[TEST][:5], maps(5)
    model = table(removal="typical")
    np.testing.assert_array_equal(
        model.target(Y[TEST][:5]), [CLASSES.index(y) for y in Y[TEST][:5]]
    )
    found = Deletion(4)(model, x, Y[TEST][:5], a)
    assert found == Deletion(4)(model, x, model.target(Y[TEST][:5]), a)
    assert found == Deletion(4)(model, x, pd.Series(Y[TEST][:5]), a)
    evaluation = quantus_ext.evaluate([Deletion(4)], {"a": a}, model, x, Y[TEST][:5])
    np.testing.assert_allclose(evaluation.scores_of("a", "Deletion"), found)
    with pytest.raises(ValueError, match=r"among the model's classes_.*; sample 1 has 'water'"):
        model.target([CLASSES[0], "water"])
    with pytest.raises(ValueError, match="must be columns of the model's scores"):
        DataFrame(MODEL.predict_proba, X[TRAIN]).target(["a"])


@pytest.mark.parametrize("layout", [np.asarray, pd.DataFrame])
def test_labels_of_several_classes_may_be_words(layout):
    x, model = X[TEST][:4], table(removal="typical")
    numbers = np.array([[0, 1], [2, 0], [1, 2], [0, 2]])
    words = layout(np.array(CLASSES, dtype=object)[numbers])
    np.testing.assert_array_equal(model.target(words), numbers)
    a = np.stack([maps(4), -maps(4)], 1)
    expected = Deletion(4)(model, x, numbers, a)
    assert Deletion(4)(model, x, words, a) == expected
    found = quantus_ext.evaluate([Deletion(4)], {"a": a}, model, x, targets=words)
    of_numbers = quantus_ext.evaluate([Deletion(4)], {"a": a}, model, x, targets=numbers)
    np.testing.assert_array_equal(found.scores, of_numbers.scores)
    unknown = np.array(words)
    unknown[2, 1] = "water"
    with pytest.raises(ValueError, match=r"among the model's classes_.*; sample 2 has 'water'"):
        model.target(unknown)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: DataFrame(MODEL, X.to_numpy()),
            TypeError,
            "x_train must be a pandas.DataFrame, is",
        ),
        (lambda: DataFrame(MODEL, X[:0]), ValueError, "x_train must have rows and columns"),
        (
            lambda: DataFrame(MODEL, X.set_axis(["a", "a", "b", "c", "d"], axis=1)),
            ValueError,
            "columns of different names",
        ),
        (
            lambda: table(removal="zero"),
            ValueError,
            "removal must be one of 'background', 'typical'",
        ),
        (
            lambda: table().encode(X.drop(columns="hue").assign(age=1)),
            ValueError,
            "lacks 'hue', has besides 'age'",
        ),
        (
            lambda: table().encode(X[TEST].assign(strength="fortified")),
            ValueError,
            "column 'strength' must hold values that x_train has, holds 'fortified' in row 0",
        ),
        (
            lambda: table().encode(X[TEST].assign(hue="red")),
            TypeError,
            "column 'hue' must hold numbers, as in x_train",
        ),
        (
            lambda: table().encode(X[TEST].assign(hue=np.inf)),
            ValueError,
            "column 'hue' must be finite or missing, is inf in row 0",
        ),
        (
            lambda: table().decode(np.full((1, 5), 7.0)),
            ValueError,
            "column 'strength' must be whole",
        ),
        (
            lambda: table().decode(np.ones((1, 4))),
            ValueError,
            r"codes of shape \(n, 5\) that encode",
        ),
        (
            lambda: Deletion(baseline="black")(table(), X[TEST][:4], [0] * 4, maps()),
            ValueError,
            "perturb_func and perturb_baseline must put values of the table",
        ),
        (
            lambda: Infidelity()(table(), X[TEST][:4], [0] * 4, maps()),
            ValueError,
            "multiply_by_inputs must be True, and inputs_baseline 'same'",
        ),
        (
            lambda: Deletion()(table(removal="missing"), X[TEST][:4], [0] * 4, maps()),
            ValueError,
            "removal must be 'background' or 'typical' for a model that takes no missing",
        ),
        (
            lambda: FFidelity(fine_tune=refit(pipeline, X[TRAIN], Y[TRAIN]))(
                BlackBox(lambda rows: rows[:, :3]), maps(), [0] * 4, maps()
            ),
            RuntimeError,
            "model must be an adapters.DataFrame where x of refit is a frame",
        ),
    ],
)
def test_what_breaks_a_rule(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_alone_may_become_any_number():
    columns = ["flavanoids", "proline"]
    regressor = LinearRegression().fit(X[columns], X.flavanoids * 3 - X.proline / 500)
    model = DataFrame(regressor, X[columns][TRAIN])
    x, y = X[columns][TEST][:6], np.zeros(6, int)
    gradients = np.tile(regressor.coef_, (6, 1))
    assert max(Infidelity(perturb_baseline=0.0)(model, x, y, gradients)) < 1e-12
    by_hand = regressor.predict(x) - regressor.intercept_
    found = MoRF(1, perturb_baseline=0.0)(model, x, y, gradients, softmax=False)
    np.testing.assert_allclose(found, by_hand / 2)


def test_a_mean_is_no_whole_number_and_a_gap_is_known():
    model = table()
    values = model.baseline()
    decoded = model.decode(values[None])
    assert decoded.strength[0] == X[TRAIN].strength.mode()[0]
    assert decoded.dark.dtype == bool
    np.testing.assert_allclose(decoded.proline, X[TRAIN].proline.mean())
    np.testing.assert_allclose(decoded.hue, X[TRAIN].hue.mean())
    gone = model.decode(np.full((1, 5), MISSING))
    assert gone.isna().all(axis=None)


def boosters() -> list[Any]:
    found = []
    for name, kind, settings in (
        ("lightgbm", "LGBMClassifier", {"n_estimators": 12, "verbose": -1, "n_jobs": 1}),
        ("xgboost", "XGBClassifier", {"n_estimators": 12, "enable_categorical": True, "n_jobs": 1}),
        (
            "catboost",
            "CatBoostClassifier",
            {
                "iterations": 12,
                "verbose": False,
                "allow_writing_files": False,
                "cat_features": WORDS,
                "thread_count": 1,
            },
        ),
    ):
        found.append(pytest.param(name, kind, settings, id=name))
    return found


@pytest.mark.parametrize(("package", "kind", "settings"), boosters())
def test_boosted_trees_with_categories_and_gaps(package, kind, settings):
    library = pytest.importorskip(package)
    x, y = X, pd.factorize(Y)[0]
    if package == "catboost":
        x = x.assign(strength=x.strength.astype(str), dark=X.dark.astype(int))
    else:
        x = x.assign(strength=x.strength.astype("category"))
    estimator = getattr(library, kind)(**settings).fit(x[TRAIN], y[TRAIN])
    for removal in ("background", "typical", "missing"):
        model = DataFrame(estimator, x[TRAIN], removal=removal)
        if (package, removal) == ("catboost", "missing"):
            with pytest.raises(ValueError, match=r"must be 'background' or 'typical' .* cat_f"):
                Deletion(5)(model, x[TEST][:4], y[TEST][:4], maps())
            continue
        np.testing.assert_allclose(
            model.ask(model.encode(x[TEST])), estimator.predict_proba(x[TEST])
        )
        found = Deletion(5)(model, x[TEST][:4], y[TEST][:4], maps())
        if removal == "typical":
            outputs = []
            for count in range(6):
                row = x[TEST].iloc[[0]].copy()
                for at in np.argsort(-maps()[0])[:count]:
                    name, train = x.columns[at], x[TRAIN].iloc[:, at]
                    is_word = train.dtype == bool or name == "strength"
                    row[name] = pd.Series(
                        [train.mode()[0] if is_word else train.mean()], index=row.index
                    ).astype(train.dtype if is_word else float)
                outputs.append(estimator.predict_proba(row)[0, y[TEST][0]])
            np.testing.assert_allclose(found[0], trapezoid(outputs) / 5, rtol=1e-6)
    retrain = refit(lambda: getattr(library, kind)(**settings), x[TRAIN], y[TRAIN], copies=1)
    metric = FFidelity([0.4], n_samples=2, beta=0.4, fine_tune=retrain)
    assert np.isfinite(
        metric(DataFrame(estimator, x[TRAIN]), x[TEST][:4], y[TEST][:4], maps())
    ).all()
