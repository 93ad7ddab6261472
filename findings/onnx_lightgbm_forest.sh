#!/usr/bin/env bash
# lightgbm 4.7.0, onnxmltools 1.16.0, onnxruntime 1.32.0: a forest (boosting_type="rf") as ONNX.
# Expected: the exported model predicts what LightGBM predicts, as it does for plain boosting.
# Happens: the trees are averaged twice: every prediction is divided by the number of trees once more.
# Matters: maps and removal scores of the export are a tenth (here) of the model's, in the same order,
# so ranks look right while losses, completeness and Infidelity do not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile lightgbm==4.7.0 onnxmltools==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 skl2onnx==1.20.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import lightgbm, numpy as np, onnxmltools, onnxruntime
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_diabetes

x, y = load_diabetes(return_X_y=True)
x = x.astype(np.float32)
print("lightgbm", lightgbm.__version__, "onnxmltools", onnxmltools.__version__, "onnxruntime", onnxruntime.__version__)
ratios = {}
for kind in ("gbdt", "rf"):
    model = lightgbm.LGBMRegressor(boosting_type=kind, n_estimators=10, subsample=0.5, subsample_freq=1, verbose=-1)
    prediction = model.fit(x, y).predict(x)
    graph = onnxmltools.convert_lightgbm(model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    ratios[kind] = session.run(None, {"x": x})[0].ravel() / prediction
    print(kind, "export / model: from", ratios[kind].min(), "to", ratios[kind].max())
assert np.allclose(ratios["gbdt"], 1, rtol=1e-3) and np.allclose(ratios["rf"], 0.1, rtol=1e-3)
PY
