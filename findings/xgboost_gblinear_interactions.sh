#!/usr/bin/env bash
# xgboost 3.2.0: pred_interactions=True on a linear booster (booster="gblinear").
# Expected: matrices with the effects on the diagonal, or all 0, for a model without interactions.
# Happens: an error about an internal check of shapes, rows (F + 1)^2 against rows F^2; nothing
# says that linear boosters have no such answer. pred_contribs works.
# Matters: code that handles any booster fails on one, and the message sends you to look at your data.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile xgboost-cpu==3.2.0 numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, xgboost

x = np.random.default_rng(0).normal(size=(30, 4))
data = xgboost.DMatrix(x, 2 * x[:, 0])
booster = xgboost.train({"booster": "gblinear"}, data, 10)
contributions = booster.predict(data, pred_contribs=True)
print("xgboost", xgboost.__version__, "contributions", contributions.shape)
try:
    booster.predict(data, pred_interactions=True)
    message = ""
except xgboost.core.XGBoostError as error:
    message = str(error)
print("interactions:", message.splitlines()[0] if message else "no error")
assert np.allclose(contributions.sum(1), booster.predict(data), atol=1e-4)
assert f"{30 * 5 * 5} vs. {30 * 4 * 4}" in message
PY
