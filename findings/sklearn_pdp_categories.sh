#!/usr/bin/env bash
# scikit-learn 1.9.1: partial_dependence of a categorical column, histogram gradient boosting.
# Expected: method="recursion", which the default "auto" picks for this model, gives the curve of "brute",
# or an error.
# Happens: recursion does not know categorical splits: the curve is flat or wrong at all but one
# category, by default and without a warning, also with categorical_features in the call.
# Matters: the default answer says "no effect" for the column that matters most; ask for "brute".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import warnings

import numpy as np, sklearn
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.inspection import partial_dependence

rng = np.random.default_rng(0)
x = np.c_[rng.integers(0, 5, 1000).astype(float), rng.uniform(-1, 1, 1000)]
y = 10 * np.isin(x[:, 0], [1, 3]) + x[:, 1]
model = HistGradientBoostingRegressor(categorical_features=[0], max_iter=50).fit(x, y)
warnings.simplefilter("error")
print("scikit-learn", sklearn.__version__)
curves = {}
for method in ("brute", "recursion", "auto"):
    for listed in (None, [0]):
        curve = partial_dependence(model, x, [0], method=method, categorical_features=listed)["average"][0]
        curves[method, listed is None] = curve
        print(method, "categorical_features", listed, curve.round(2))
for listed in (True, False):
    brute, auto = curves["brute", listed], curves["auto", listed]
    assert np.allclose(brute - brute[0], [0, 10, 0, 10, 0], atol=0.5)
    assert np.allclose(auto, curves["recursion", listed])
    assert np.abs(auto - auto[0] - (brute - brute[0])).max() > 5
PY
