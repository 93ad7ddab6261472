#!/usr/bin/env bash
# shap 0.51.0, lightgbm 4.7.0: zero_as_missing=True, explained with a background.
# Expected: zeros take the branch of missing values, or at least the additivity check says no.
# Happens: zeros are compared as numbers and take another branch than in the model; the check passes.
# LightGBM's own contributions are right.
# Matters: counts and sparse tables are mostly zeros, and their rows get another model's values.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile shap==0.51.0 lightgbm==4.7.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import lightgbm, numpy as np, shap

rng = np.random.default_rng(0)
x = rng.normal(size=(500, 3)) * (rng.random((500, 3)) > 0.4)
y = np.where(x[:, 0] == 0, 5.0, x[:, 0]) + x[:, 1]
model = lightgbm.LGBMRegressor(zero_as_missing=True, n_estimators=30, verbose=-1).fit(x, y)
prediction = model.predict(x)
explainer = shap.TreeExplainer(model, x[:100])
values = explainer.shap_values(x, check_additivity=True)
miss = np.abs(explainer.expected_value + values.sum(1) - prediction)
zeros = (x == 0).any(1)
own = np.abs(model.predict(x, pred_contrib=True).sum(1) - prediction).max()
print("shap", shap.__version__, "lightgbm", lightgbm.__version__, "spread of y", y.std())
print("worst sum, rows with zeros", miss[zeros].max(), "without", miss[~zeros].max(), "lightgbm", own)
assert own < 1e-6 and miss[~zeros].max() < 1e-3
assert miss[zeros].max() > 0.5 * y.std()
PY
