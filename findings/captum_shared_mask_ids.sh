#!/usr/bin/env bash
# captum 0.9.0, torch 2.14.1: feature masks of a model with two inputs.
# Expected: a mask numbers the features of its own input, so two masks that both start at 0 leave
# the inputs apart.
# Happens: equal numbers in two masks are one feature: both inputs lose it together, and each gets
# the joint effect (11 and 11 in place of 1 and 10). The two maps add up to twice the model's output.
# Matters: every model with two inputs, for instance picture and table; number the features on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile captum==0.9.0 torch==2.14.1 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import captum, torch
from captum.attr import FeatureAblation, ShapleyValueSampling, ShapleyValues

def model(a, b):
    return a.sum(1) + 10 * b.sum(1)

inputs = (torch.ones(1, 2), torch.ones(1, 2))
from_zero = (torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
numbered_on = (torch.tensor([[0, 1]]), torch.tensor([[2, 3]]))

print("captum", captum.__version__, "torch", torch.__version__, "output", model(*inputs))
for method in (FeatureAblation, ShapleyValues, ShapleyValueSampling):
    explain = method(model).attribute
    shared = explain(inputs, feature_mask=from_zero)
    apart = explain(inputs, feature_mask=numbered_on)
    none = explain(inputs)
    print(method.__name__, "both from 0:", shared, "numbered on:", apart)
    assert torch.allclose(torch.cat(shared), torch.full((2, 2), 11.0))
    for maps in (apart, none):
        assert torch.allclose(torch.cat(maps), torch.tensor([[1.0, 1.0], [10.0, 10.0]]))
PY
