#!/usr/bin/env bash
# lightgbm 4.7.0, onnxmltools 1.16.0, onnxruntime 1.32.0: reg_sqrt=True as ONNX.
# Expected: the exported model predicts what LightGBM predicts.
# Happens: LightGBM fits the square root of the target and squares its sum when it predicts; the
# export leaves the squaring out and returns roots (12 for 150). Nothing warns.
# Matters: effects are those of the root: another scale, other interactions, other maps.
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
model = lightgbm.LGBMRegressor(reg_sqrt=True, n_estimators=20, verbose=-1)
prediction = model.fit(x, y).predict(x)
graph = onnxmltools.convert_lightgbm(model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))])
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
export = session.run(None, {"x": x})[0].ravel()
print("model", prediction[:4], "\nexport", export[:4], "\nexport squared", export[:4] ** 2)
assert np.allclose(export**2, prediction, rtol=1e-3) and export.max() < 0.2 * prediction.max()
PY
