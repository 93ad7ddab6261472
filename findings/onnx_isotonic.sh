#!/usr/bin/env bash
# scikit-learn 1.9.1, skl2onnx 1.20.0, onnxruntime 1.32.0: isotonic calibration as ONNX.
# Expected: CalibratedClassifierCV(method="isotonic") gives the same probabilities after export.
# Happens: scikit-learn draws straight lines between the calibration's points, the export takes the
# nearest point: probabilities jump in steps and differ by hundredths or more.
# Matters: small changes of a feature have no effect or a jump: gradients, Infidelity and removal
# scores of the export are those of another model. method="sigmoid" is exported right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile onnx==1.23.2 onnxruntime==1.32.0 skl2onnx==1.20.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, onnxruntime, skl2onnx, sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

x, y = make_classification(400, 4, random_state=0, flip_y=0.3)
x = x.astype(np.float32)
print("scikit-learn", sklearn.__version__, "skl2onnx", skl2onnx.__version__, "onnxruntime", onnxruntime.__version__)
worst, rows = {}, {}
for method in ("sigmoid", "isotonic"):
    model = CalibratedClassifierCV(LogisticRegression(), method=method).fit(x, y)
    graph = skl2onnx.to_onnx(model, x[:1], options={"zipmap": False})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    difference = np.abs(session.run(None, {"X": x})[1] - model.predict_proba(x)).max(1)
    worst[method], rows[method] = difference.max(), (difference > 0.01).mean()
    print(method, "worst probability", worst[method], "rows off by more than .01", rows[method])
assert worst["sigmoid"] < 1e-4 and worst["isotonic"] > 0.02 and rows["isotonic"] > 0.03
PY
