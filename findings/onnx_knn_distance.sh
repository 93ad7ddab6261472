#!/usr/bin/env bash
# scikit-learn 1.9.1, skl2onnx 1.20.0, onnxruntime 1.32.0: KNeighbors with weights="distance".
# Expected: the exported model weights neighbours by distance; a training row gets its own target.
# Happens: the weights are dropped: the export is the model with weights="uniform".
# Matters: labels of training rows change, and removal scores are those of a smoother model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile onnx==1.23.2 onnxruntime==1.32.0 skl2onnx==1.20.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, onnxruntime, skl2onnx, sklearn
from sklearn.datasets import load_diabetes
from sklearn.neighbors import KNeighborsRegressor

x, y = load_diabetes(return_X_y=True)
x = (x / x.std(0)).astype(np.float32)
seen, new, y = x[:300], x[300:], y[:300]
models = {w: KNeighborsRegressor(weights=w).fit(seen, y) for w in ("distance", "uniform")}
graph = skl2onnx.to_onnx(models["distance"], seen[:1])
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
print("scikit-learn", sklearn.__version__, "skl2onnx", skl2onnx.__version__, "onnxruntime", onnxruntime.__version__)
for name, rows in (("training rows", seen), ("new rows", new)):
    export = session.run(None, {"X": rows})[0].ravel()
    difference = {w: np.abs(export - model.predict(rows)).max() for w, model in models.items()}
    print(name, "worst difference of the export to the model by weights", difference)
    assert difference["uniform"] < 0.01 and difference["distance"] > 1
PY
