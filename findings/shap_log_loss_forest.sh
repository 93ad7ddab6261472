#!/usr/bin/env bash
# shap 0.51.0, scikit-learn 1.9.1: TreeExplainer(model_output="log_loss") on a random forest.
# Expected: an error, as for scikit-learn's boosted trees, or values that add up to the log loss.
# Happens: the forest's probabilities are taken for log odds: for each class's column the sums are
# log(1 + e^p) - y p. Rows whose label has probability 1 get a loss of .31 or more in place of 0.
# Matters: explanations of the loss (which feature hurts here?) of a function nobody has.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile shap==0.51.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import numpy as np, shap, sklearn
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

x, y = load_breast_cancer(return_X_y=True)
x, y = x[:200, :6], y[:200]
forest = RandomForestClassifier(20, max_depth=3, random_state=0).fit(x, y)
boosted = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(x, y)
print("shap", shap.__version__, "scikit-learn", sklearn.__version__)

def sums(model):
    explainer = shap.TreeExplainer(model, x[:50], model_output="log_loss")
    base = np.array([explainer.expected_value(label) for label in (0, 1)])[y]
    return base + explainer.shap_values(x, y).sum(1)

try:
    sums(boosted)
    refused = False
except NotImplementedError as error:
    refused = True
    print("boosted trees:", error)
p = forest.predict_proba(x)
loss = -np.log(p[np.arange(len(y)), y])
values = sums(forest)
print("forest: sums per class\n", values[:3], "\nlog loss", loss[:3])
print("log(1 + e^p) - y p\n", (np.log1p(np.exp(p)) - y[:, None] * p)[:3])
assert refused
assert np.allclose(values, np.log1p(np.exp(p)) - y[:, None] * p, atol=1e-4)
assert values.min() > 0.3 and loss.min() < 0.1
PY
