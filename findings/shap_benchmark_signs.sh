#!/usr/bin/env bash
# shap 0.51.0: shap.benchmark.SequentialMasker("remove", "positive").
# Expected: a deletion curve: all features go, highest value first; the area lies in the output's units.
# Happens: a feature whose value is not positive is never removed, and the curve is shifted to start
# at 0. A map without positive values removes nothing and scores 0; its curve stays at the clean
# output while the map that removes everything ends at the baseline.
# Matters: maps with more positive values remove more; areas of two maps are not comparable.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile shap==0.51.0 matplotlib==3.11.2 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, shap
from shap.benchmark import SequentialMasker

weights = np.array([1.0, 2.0, -3.0, 4.0])
x = np.ones((1, 4))

def model(rows):
    return rows @ weights

masker = shap.maskers.Independent(np.zeros((1, 4)))
maps = {
    "exact": weights,
    "exact - 5 (same order)": weights - 5,
    "exact + 5 (same order)": weights + 5,
}
print("shap", shap.__version__, "output", model(x), "baseline 0")
scores = {}
for name, values in maps.items():
    measure = SequentialMasker("remove", "positive", masker, model, x)
    result = measure(shap.Explanation(values[None], data=x), name)
    scores[name] = result.value
    print(name, "area", round(result.value, 3), "ends at", round(result.curve_y[-1], 3))
exact, below, above = scores.values()
assert below == 0
assert exact < above < 0
PY
