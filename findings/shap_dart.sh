#!/usr/bin/env bash
# shap 0.51.0, xgboost 3.2.0: a DART booster with dropped trees, explained with a background.
# Expected: base value plus SHAP values is the model's output, as without a background.
# Happens: the weights that DART gives its trees are not read, so the sums are far off. The
# additivity check is on and passes: it compares shap's copy of the trees with itself.
# Matters: values of another model, without a warning; check the sums against model.predict.
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
kwargs = dict(n_estimators=20, max_depth=3, random_state=0)
models = {
    "gbtree": xgboost.XGBRegressor(**kwargs),
    "dart": xgboost.XGBRegressor(booster="dart", rate_drop=0.3, **kwargs),
}
print("shap", shap.__version__, "xgboost", xgboost.__version__, "spread of y", y.std())
worst = {}
for name, model in models.items():
    prediction = model.fit(x, y).predict(x)
    for background in (None, x[:50]):
        explainer = shap.TreeExplainer(model, background)
        values = explainer.shap_values(x, check_additivity=True)
        miss = np.abs(explainer.expected_value + values.sum(1) - prediction).max()
        worst[name, background is not None] = miss
        print(name, "background" if background is not None else "no background", "worst sum", miss)
assert worst["gbtree", True] < 0.01 and worst["dart", False] < 0.01
assert worst["dart", True] > y.std()
PY
