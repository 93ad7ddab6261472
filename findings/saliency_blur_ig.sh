#!/usr/bin/env bash
# saliency 0.2.1: Blur Integrated Gradients (BlurIG) on a picture of one colour.
# Expected: blurring changes nothing, so the path has no length and the map is 0.
# Happens: the blur takes everything outside the picture as black. It darkens the picture from its
# edges (to 6 % in the mean at the default max_sigma of 50), and the map is the darkening.
# Matters: near edges the map tells of the frame, and the baseline is black rather than blurred: a
# deletion with a blurred picture measures against another baseline.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile saliency==0.2.1 numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
import saliency.core as saliency

def model(pictures, call_model_args=None, expected_keys=None):
    pictures = np.asarray(pictures)
    return {saliency.INPUT_OUTPUT_GRADIENTS: np.full_like(pictures, 1 / pictures[0].size)}

picture = np.ones((32, 32, 1))
print("saliency", version("saliency"), "model: mean of the pixels, 1 for this picture")
shares = {}
for sigma in (2, 50):
    values = saliency.BlurIG().GetMask(picture, model, max_sigma=sigma, steps=200)[:, :, 0]
    shares[sigma] = values.sum()
    print("max_sigma", sigma, "sum of the map", values.sum(), "corner", values[0, 0], "middle", values[16, 16])
assert 0.05 < shares[2] < 0.3 and shares[50] > 0.8
PY
