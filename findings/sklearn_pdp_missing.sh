#!/usr/bin/env bash
# scikit-learn 1.9.1: partial_dependence of a column with missing values.
# Expected: a grid over the values that are there; the models used take missing values as they are.
# Happens: the 5 and 95 % points count NaN as the largest value. With more than 5 % missing the
# whole grid is NaN, by both methods, and the curve is flat: the answer to "missing" at each point.
# With fewer the grid reaches further up than asked. No error, no warning.
# Matters: a flat curve reads as "no effect" for what may be the strongest feature.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import warnings

import numpy as np, sklearn
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.inspection import partial_dependence

x = np.random.default_rng(0).uniform(-1, 1, (500, 2))
y = 5 * x[:, 0]
print("scikit-learn", sklearn.__version__)
warnings.simplefilter("error")
grid = {"grid_resolution": 20}
for model in (RandomForestRegressor(10, random_state=0), HistGradientBoostingRegressor()):
    for method in ("brute", "recursion"):
        spans, ends = [], []
        for missing in (0, 20, 50):
            holes = x.copy()
            holes[:missing, 0] = np.nan
            curve = partial_dependence(model.fit(holes, y), holes, [0], method=method, kind="average", **grid)
            spans.append(np.ptp(curve["average"][0]))
            ends.append(curve["grid_values"][0][-1])
        print(type(model).__name__, method, "missing 0, 4, 10 %: span", spans, "grid ends at", ends)
        assert min(spans[:2]) > 5 and spans[2] < 1e-9
        assert ends[1] > ends[0] + 0.05 and np.isnan(ends[2])
PY
