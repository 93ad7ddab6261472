#!/usr/bin/env bash
# lightgbm 4.7.0, onnxmltools 1.16.0, onnxruntime 1.32.0: objective="multiclassova" as ONNX.
# Expected: the probabilities of the exported model are LightGBM's: a sigmoid for each class.
# Happens: the export puts a softmax over the classes. Labels agree, so the usual check passes, and
# probabilities are off by tenths.
# Matters: scores by probability, calibration and maps of one class now depend on the other classes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile lightgbm==4.7.0 onnxmltools==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 skl2onnx==1.20.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import lightgbm, numpy as np, onnxmltools, onnxruntime
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_iris

x, y = load_iris(return_X_y=True)
x = x.astype(np.float32)
print("lightgbm", lightgbm.__version__, "onnxmltools", onnxmltools.__version__, "onnxruntime", onnxruntime.__version__)
model = lightgbm.LGBMClassifier(objective="multiclassova", n_estimators=10, verbose=-1).fit(x, y)
graph = onnxmltools.convert_lightgbm(
    model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], zipmap=False
)
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
labels, export = session.run(None, {"x": x})
raw = model.predict(x, raw_score=True)
softmax = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
prediction = model.predict_proba(x)
print("model", prediction[0], "export", export[0], "softmax of the raw scores", softmax[0])
print("worst probability", np.abs(export - prediction).max(), "labels that differ", (labels != model.predict(x)).sum())
assert np.allclose(prediction, 1 / (1 + np.exp(-raw))) and np.allclose(export, softmax, atol=1e-5)
assert np.abs(export - prediction).max() > 0.1 and (labels == model.predict(x)).all()
PY
