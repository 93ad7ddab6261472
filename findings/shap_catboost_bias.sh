#!/usr/bin/env bash
# shap 0.51.0, catboost 1.2.10: the constant that a CatBoost regressor starts from.
# Expected: base value plus SHAP values is the prediction, with a background too.
# Happens: with a background the start (the mean of y for squared error) is lost from every sum, and
# the additivity check passes. Without one expected_value lacks it until shap_values has been called
# (nan for several classes), then jumps.
# Matters: plots and sums shifted by the mean; anything that reads expected_value first is wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile shap==0.51.0 catboost==1.2.10 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import catboost, numpy as np, shap
from sklearn.datasets import load_diabetes, load_iris

x, y = load_diabetes(return_X_y=True)
quiet = dict(iterations=30, verbose=0, allow_writing_files=False, thread_count=1)
model = catboost.CatBoostRegressor(**quiet).fit(x, y)
prediction = model.predict(x)

explainer = shap.TreeExplainer(model, x[:100])
values = explainer.shap_values(x, check_additivity=True)
missing = prediction - explainer.expected_value - values.sum(1)
print("shap", shap.__version__, "catboost", catboost.__version__, "mean of y", y.mean())
print("prediction minus sum, with a background: from", missing.min(), "to", missing.max())

explainer = shap.TreeExplainer(model)
before = float(np.ravel(explainer.expected_value)[0])
values = explainer.shap_values(x)
after = float(np.ravel(explainer.expected_value)[0])
print("expected_value before shap_values", before, "after", after)

flowers = catboost.CatBoostClassifier(**quiet).fit(*load_iris(return_X_y=True))
several = shap.TreeExplainer(flowers).expected_value
print("three classes, before shap_values", several)
assert np.allclose(missing, y.mean(), atol=0.01)
assert abs(after - before - y.mean()) < 1 and np.allclose(after + values.sum(1), prediction)
assert np.isnan(several).all()
PY
