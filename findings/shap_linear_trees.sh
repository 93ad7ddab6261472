#!/usr/bin/env bash
# shap 0.51.0, lightgbm 4.7.0: trees with linear models in their leaves (linear_tree=True).
# Expected: an error. Without a background there is one: contributions are not implemented.
# Happens: with a background shap explains the constants of the leaves, drops the linear parts, and
# its additivity check passes. On a linear target nearly all of the effect is missing.
# Matters: maps of a model that is not the one in use, without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile shap==0.51.0 lightgbm==4.7.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import lightgbm, numpy as np, shap

x = np.random.default_rng(0).uniform(-1, 1, (500, 2))
y = 3 * x[:, 0]
model = lightgbm.LGBMRegressor(linear_tree=True, n_estimators=30, num_leaves=2, verbose=-1)
prediction = model.fit(x, y).predict(x)
print("shap", shap.__version__, "lightgbm", lightgbm.__version__)
try:
    shap.TreeExplainer(model).shap_values(x)
    raised = False
except lightgbm.basic.LightGBMError as error:
    raised = True
    print("no background:", error)
explainer = shap.TreeExplainer(model, x[:100])
values = explainer.shap_values(x, check_additivity=True)
miss = np.abs(explainer.expected_value + values.sum(1) - prediction)
print("with a background: worst sum", miss.max(), "mean", miss.mean(), "spread of y", y.std())
assert np.abs(prediction - y).max() < 0.5
assert raised and miss.max() > 0.25 * y.std()
PY
