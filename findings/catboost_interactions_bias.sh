#!/usr/bin/env bash
# catboost 1.2.10: get_feature_importance(type="ShapInteractionValues").
# Expected: each row's matrix adds up to the raw prediction, with the base value in the last corner,
# where the matrices of XGBoost and the values of type "ShapValues" have it.
# Happens: the corner is 0, and each other cell of the last row and column, 2F for F features, holds
# the model's start (the mean of y). The base value stands nowhere.
# Matters: sums and means over the matrix are mostly that constant; cut it to [:, :-1, :-1] first.
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
model = catboost.CatBoostRegressor(iterations=30, verbose=0, allow_writing_files=False, thread_count=1)
pool = catboost.Pool(x, y)
prediction = model.fit(pool).predict(pool)
values = model.get_feature_importance(pool, type="ShapValues")
matrices = model.get_feature_importance(pool, type="ShapInteractionValues")
print("catboost", catboost.__version__, "mean of y", y.mean(), "base value", values[0, -1])
print("last row", matrices[0, -1])
print("sum of a matrix", matrices[0].sum(), "prediction", prediction[0])
assert np.allclose(values.sum(1), prediction)
assert np.allclose(matrices[:, :-1, -1], y.mean()) and np.allclose(matrices[:, -1, :-1], y.mean())
assert np.allclose(matrices[:, -1, -1], 0)
assert (matrices.sum((1, 2)) > prediction + 2000).all()
assert np.allclose(matrices[:, :-1, :-1].sum(2), values[:, :-1])
PY
