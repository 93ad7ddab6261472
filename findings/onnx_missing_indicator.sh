#!/usr/bin/env bash
# scikit-learn 1.9.1, skl2onnx 1.20.0, onnxruntime 1.32.0: SimpleImputer(add_indicator=True) as ONNX.
# Expected: the export has the added "was missing" columns, or refuses.
# Happens: it fills the gaps and leaves the columns out. A linear model behind it runs on without
# its last coefficients, and predictions are wrong, without a word.
# Matters: where missing means something, the export has lost the most important feature.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile onnx==1.23.2 onnxruntime==1.32.0 skl2onnx==1.20.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, onnxruntime, skl2onnx, sklearn
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
gaps = np.arange(300) % 3 == 0
y = x[:, 1] + 10 * gaps
x[gaps, 0] = np.nan
imputer = SimpleImputer(add_indicator=True).fit(x)
model = make_pipeline(SimpleImputer(add_indicator=True), LinearRegression()).fit(x, y)

def run(estimator):
    graph = skl2onnx.to_onnx(estimator, x[:1]).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x})[0]

print("scikit-learn", sklearn.__version__, "skl2onnx", skl2onnx.__version__, "onnxruntime", onnxruntime.__version__)
print("columns: scikit-learn", imputer.transform(x).shape[1], "export", run(imputer).shape[1])
difference = np.abs(run(model).ravel() - model.predict(x))
print("pipeline, worst difference: rows with a gap", difference[gaps].max(), "without", difference[~gaps].max())
assert imputer.transform(x).shape[1] == 4 and run(imputer).shape[1] == 3
assert difference[gaps].max() > 5
PY
