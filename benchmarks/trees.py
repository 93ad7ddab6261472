"""SHAP values of boosted trees against a random explanation and their own inverse.

Gradient boosting of scikit-learn and XGBoost on the breast cancer table, as black boxes; removed
features take the values of random rows of the training data, SHAP's own background. Run
``python -m benchmarks.trees`` in the repository's root; ``--quick`` takes some seconds and writes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import shap
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from xgboost import XGBClassifier

from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import ABPC, QGE, FFidelity, Infidelity, LeRF, MoRF, RFidelity
from quantus_ext.adapters import BlackBox, refit
from quantus_ext.base import TorchMetric
from quantus_ext.functional import inverse, permuted
from quantus_ext.perturbation import background_replacement_by_indices

MODELS: dict[str, Callable[[], Any]] = {
    "scikit-learn": partial(GradientBoostingClassifier, random_state=0),
    "XGBoost": partial(XGBClassifier, n_estimators=100, random_state=0, n_jobs=1),
}
LOWER = ("Infidelity", "LeRF")


def metrics(background: np.ndarray, fine_tune: object, draws: int) -> dict[str, TorchMetric]:
    """Return the metrics, all with the same replacement."""
    removal: dict[str, Any] = {
        "perturb_func": background_replacement_by_indices,
        "perturb_func_kwargs": {"background": background},
    }
    random = {"n_samples": draws, "output": "probability", **removal}
    infidelity = partial(
        Infidelity,
        n_perturb_samples=4 * draws,
        multiply_by_inputs=True,
        # SHAP values are relative to the same rows.
        inputs_baseline="same",
        scheme="subset",
        **removal,
    )
    return {
        "Infidelity": infidelity(),
        "R-Fidelity": RFidelity(**random),
        "F-Fidelity, refitted": FFidelity(fine_tune=fine_tune, beta=0.3, **random),
        "MoRF": MoRF(10, n_samples=draws, **removal),
        "LeRF": LeRF(10, n_samples=draws, **removal),
        "QGE of Infidelity": QGE(infidelity()),
        "QGE of ABPC": QGE(ABPC(10, n_samples=draws, **removal)),
    }


def shap_values(estimator: Any, background: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return SHAP values of the explained class's probability, shape (n, F)."""
    explainer = shap.TreeExplainer(
        estimator, background, model_output="probability", feature_perturbation="interventional"
    )
    values = np.asarray(explainer.shap_values(x))
    return np.where(y[:, None] == 1, values, -values)


def main() -> None:
    quick = options(parser("trees", __doc__)).quick
    n, draws = (10, 4) if quick else (100, 50)
    page = Page("trees", ("scikit-learn", "xgboost", "shap"), quick=quick)
    table = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(table.target))
    x, y = table.data[order], table.target[order]
    train, background = slice(0, 400), x[:100]
    for name, make in MODELS.items():
        estimator = make().fit(x[train], y[train])
        x_batch = x[400 : 400 + n]
        y_batch = estimator.predict(x_batch)
        model = BlackBox(estimator.predict_proba, classes=2)
        own = shap_values(estimator, background, x_batch, y_batch)
        a = torch.as_tensor(own)
        explanations = {"SHAP": own, "random": permuted(a).numpy(), "inverse": inverse(a).numpy()}
        fine_tune = refit(make, x[train], y[train], copies=5)
        rows = []
        for title, metric in metrics(background, fine_tune, draws).items():
            scores = {
                explainer: np.array(metric(model, x_batch, y_batch, maps, softmax=False))
                for explainer, maps in explanations.items()
            }
            sign = -1 if title in LOWER else 1
            better = [
                stats.wilcoxon(
                    sign * (scores["SHAP"] - scores[other]), alternative="greater"
                ).pvalue
                for other in ("random", "inverse")
            ]
            rows.append(
                [
                    f"{title} ({'lower' if sign < 0 else 'higher'})",
                    *(f"{values.mean():.4f}" for values in scores.values()),
                    *(f"{p:.1e}" for p in better),
                    f"{metric.n_evaluations:,}",
                ]
            )
        accuracy = estimator.score(x[400:], y[400:])
        headers = ["mean over rows (better)", *explanations, "p, random", "p, inverse"]
        page.add(
            f"Gradient boosting, {name}",
            f"Right on {accuracy:.3f} of 169 held-out rows; {n} of them scored. p: one-sided "
            "Wilcoxon test that SHAP scores better, row by row.",
            markdown_table([*headers, "evaluations"], rows),
        )


if __name__ == "__main__":
    main()
