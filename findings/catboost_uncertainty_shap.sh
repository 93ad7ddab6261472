#!/usr/bin/env bash
# catboost 1.2.10: ShapValues of a model with loss RMSEWithUncertainty, which has two outputs.
# Expected: values for both, mean and spread, as MultiRMSE gives one block for each output.
# Happens: one block, (n, 1, F + 1), for the mean only. Nothing says that the spread has none, and
# numpy spreads the block over both columns when sums are compared.
# Matters: "why is the model unsure here?" is answered with the map of the mean.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile catboost==1.2.10 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import catboost, numpy as np
from sklearn.datasets import load_diabetes

x, y = load_diabetes(return_X_y=True)
quiet = dict(iterations=30, verbose=0, allow_writing_files=False, thread_count=1)
print("catboost", catboost.__version__)
blocks = {}
for loss, target in (("MultiRMSE", np.c_[y, x[:, 0]]), ("RMSEWithUncertainty", y)):
    model = catboost.CatBoostRegressor(loss_function=loss, **quiet).fit(x, target)
    raw = model.predict(x, prediction_type="RawFormulaVal")
    values = model.get_feature_importance(catboost.Pool(x, target), type="ShapValues")
    difference = np.abs(values.sum(-1) - raw).max(0)
    blocks[loss] = values.shape, difference
    print(loss, "outputs", raw.shape, "values", values.shape, "worst sum per output", difference)
assert blocks["MultiRMSE"][0] == (len(x), 2, x.shape[1] + 1)
assert blocks["MultiRMSE"][1].max() < 1e-6
assert blocks["RMSEWithUncertainty"][0] == (len(x), 1, x.shape[1] + 1)
assert blocks["RMSEWithUncertainty"][1][0] < 1e-6 and blocks["RMSEWithUncertainty"][1][1] > 10
PY
