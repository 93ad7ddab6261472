#!/usr/bin/env bash
# shap 0.51.0, xgboost 3.2.0: LinearExplainer on XGBRegressor(booster="gblinear").
# Expected: base value plus SHAP values is the prediction; the model has coef_ and intercept_.
# Happens: intercept_ leaves out base_score, which xgboost estimates as the mean of y, so every sum
# is short by it; xgboost's own contributions hold it in their last column.
# Matters: the base value reads near 0 for a target near 150; sums are never the output.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile shap==0.51.0 xgboost-cpu==3.2.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, shap, xgboost
from sklearn.datasets import load_diabetes

x, y = load_diabetes(return_X_y=True)
model = xgboost.XGBRegressor(booster="gblinear", n_estimators=50, random_state=0).fit(x, y)
prediction = model.predict(x)
explainer = shap.LinearExplainer(model, x)
missing = prediction - explainer.expected_value - explainer.shap_values(x).sum(1)
own = model.get_booster().predict(xgboost.DMatrix(x), pred_contribs=True)
by_hand = prediction - x @ model.coef_ - model.intercept_
print("shap", shap.__version__, "xgboost", xgboost.__version__, "mean of y", y.mean())
print("base value", explainer.expected_value, "intercept_", model.intercept_)
print("prediction minus sum: from", missing.min(), "to", missing.max())
print("prediction minus x coef_ - intercept_: from", by_hand.min(), "to", by_hand.max())
assert np.allclose(missing, y.mean(), rtol=0.01) and np.allclose(by_hand, y.mean(), rtol=0.01)
assert np.allclose(own.sum(1), prediction, rtol=1e-4)
PY
