#!/usr/bin/env bash
# xgboost 3.2.0, onnxmltools 1.16.0, onnxruntime 1.32.0: XGBRegressor(objective="reg:logistic").
# Expected: the exported model predicts what xgboost predicts, a share between 0 and 1.
# Happens: the sigmoid is left out, and the base share is added to log odds as it is: the export
# returns neither shares nor log odds, with values below 0. Other links (gamma) are exported right.
# Matters: effects are those of the log odds, and a share that is not one goes on unnoticed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile xgboost-cpu==3.2.0 onnxmltools==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 skl2onnx==1.20.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, onnxmltools, onnxruntime, xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_diabetes

x, y = load_diabetes(return_X_y=True)
x, y = x.astype(np.float32), y / 400
print("xgboost", xgboost.__version__, "onnxmltools", onnxmltools.__version__, "onnxruntime", onnxruntime.__version__)
results = {}
for objective in ("reg:gamma", "reg:logistic"):
    model = xgboost.XGBRegressor(objective=objective, n_estimators=20, random_state=0)
    prediction = model.fit(x, y).predict(x)
    graph = onnxmltools.convert_xgboost(model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    results[objective] = prediction, session.run(None, {"x": x})[0].ravel()
    print(objective, "model", prediction[:3], "export", results[objective][1][:3])
assert np.allclose(*results["reg:gamma"], rtol=1e-3)
prediction, export = results["reg:logistic"]
log_odds = np.log(prediction / (1 - prediction))
base = y.mean()
print("export - log odds: from", (export - log_odds).min(), "to", (export - log_odds).max())
assert np.allclose(export - log_odds, base - np.log(base / (1 - base)), atol=0.01)
assert export.min() < -0.2 and 0 < prediction.min() < prediction.max() < 1
PY
