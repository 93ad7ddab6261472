"""Maps of tables whose columns have names: matched with the inputs', or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import quantus_ext
from quantus_ext import Deletion, Infidelity, evaluate
from quantus_ext.adapters import DataFrame
from quantus_ext.arrays import in_order_of
from quantus_ext.plotting import plot_case
from quantus_ext.protocols import explanation_size

NAMES = ["age", "income", "size", "height"]
BACKWARDS = NAMES[::-1]
X = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 4)), columns=NAMES)
ESTIMATOR = LogisticRegression().fit(X, (3 * X.age + X.income - X.height > 0).astype(int))
Y = ESTIMATOR.predict(X)
MAPS = X * ESTIMATOR.coef_[0] * (2 * Y - 1)[:, None]


class Linear(torch.nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        weights = torch.from_numpy(ESTIMATOR.coef_[0]).to(rows)
        return torch.stack([-rows @ weights, rows @ weights], 1)


def explanation(values: np.ndarray, names: list[str] | None) -> Any:
    """Return what shap gives, as far as it counts here."""
    kind = type("Explanation", (SimpleNamespace,), {"__module__": "shap._explanation"})
    return kind(values=values, feature_names=names)


MODELS = {"a frame's model": DataFrame(ESTIMATOR, X), "a network": Linear().eval()}
FORMS = {
    "frame": MAPS[BACKWARDS],
    "explanation": explanation(MAPS[BACKWARDS].to_numpy(), BACKWARDS),
    "explanation, one name a value": explanation(MAPS.to_numpy(), NAMES),
    "explanation without names": explanation(MAPS.to_numpy(), None),
    "numbered columns": pd.DataFrame(MAPS.to_numpy()),
    "array": MAPS.to_numpy(),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("maps", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("metric", [Deletion(n_samples=2), Infidelity(perturb_patch_sizes=1)])
def test_columns_go_by_their_names(model, maps, metric):
    expected = metric(model, X, Y, MAPS)
    assert metric(model, X, Y, maps) == expected
    found = evaluate([metric], {"maps": maps, "right": MAPS}, model, X, Y)
    np.testing.assert_allclose(found.scores[0], found.scores[1], rtol=1e-12)
    np.testing.assert_allclose(found.scores[0, 0], expected, rtol=1e-9)


def test_maps_of_every_class_go_by_their_names():
    values = np.stack([-MAPS[BACKWARDS].to_numpy(), MAPS[BACKWARDS].to_numpy()], 2)
    values = np.where((Y == 1)[:, None, None], values, values[:, :, ::-1])
    metric = Deletion(n_samples=2)
    model = MODELS["a frame's model"]
    found = metric(model, X, Y, explanation(values, BACKWARDS))
    assert found == metric(model, X, Y, MAPS)


@pytest.mark.parametrize("how", ["call", "evaluate"])
def test_what_an_explainer_returns_goes_by_its_names(how):
    seen = []

    def explain(model: object, inputs: pd.DataFrame, targets: object) -> pd.DataFrame:
        seen.append(list(inputs.columns))
        return MAPS.iloc[: len(inputs)][BACKWARDS]

    model, metric = MODELS["a frame's model"], Deletion(n_samples=2)
    expected = metric(model, X, Y, MAPS)
    # Inputs in another order as well: the explainer sees them as the model does.
    inputs = X[BACKWARDS]
    if how == "call":
        found = metric(model, inputs, Y, explain_func=explain)
    else:
        found = evaluate([metric], {"own": explain}, model, inputs, Y).scores[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert seen[0] == NAMES


def test_inputs_in_another_order_need_maps_with_names():
    model, metric = MODELS["a frame's model"], Deletion(n_samples=2)
    inputs, expected = X[BACKWARDS], metric(model, X, Y, MAPS)
    assert metric(model, inputs, Y, MAPS) == expected
    assert metric(model, inputs, Y, MAPS[BACKWARDS]) == expected
    with pytest.raises(ValueError, match="a_batch must be a data frame whose columns have names"):
        metric(model, inputs, Y, MAPS[BACKWARDS].to_numpy())
    with pytest.raises(ValueError, match=r"xai_methods\['own'\] must be a data frame"):
        evaluate([metric], {"own": MAPS.to_numpy()}, model, inputs, Y)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_other_names_are_refused(model):
    other = MAPS.rename(columns={"age": "shap_age"})
    for call in (
        lambda: Deletion()(model, X, Y, other),
        lambda: evaluate([Deletion()], {"a": other}, model, X, Y),
    ):
        with pytest.raises(ValueError, match=r"must have the columns of x_batch, 'age', .* rename"):
            call()


def test_names_of_other_tables():
    polars = pytest.importorskip("polars")
    found = in_order_of(tuple(NAMES), "a_batch", polars.from_pandas(MAPS[BACKWARDS]))
    np.testing.assert_array_equal(found.to_numpy(), MAPS.to_numpy())
    # Nothing to go by: inputs without names.
    assert in_order_of(None, "a_batch", MAPS) is MAPS
    assert quantus_ext.adapters.Columns(Linear(), [[0, 1]], n_columns=4).column_names(X) == tuple(
        NAMES
    )


def test_figures_and_protocols_go_by_names():
    shown = [
        [bar.get_width() for bar in plot_case(X, maps, model=model)[1].containers[0]]
        for maps in (MAPS, MAPS[BACKWARDS])
        for model in MODELS.values()
    ]
    assert shown == [shown[0]] * 4
    network = MODELS["a network"]
    settings = {"fine_tune": network, "alphas": [0.9], "betas": [0.3], "n_samples": 4}
    found, again, reversed_ = (
        explanation_size(network, X, Y, maps, **settings).ends
        for maps in (MAPS, MAPS[BACKWARDS], MAPS[BACKWARDS].to_numpy())
    )
    assert found == again != reversed_
