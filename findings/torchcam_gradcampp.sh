#!/usr/bin/env bash
# torchcam 0.5.0, torch 2.14.1: Grad-CAM++.
# Expected: channel weights are sums of alpha * relu(gradient), alpha divided by a denominator, and
# a map that is normalised to 0 ... 1 as those of Grad-CAM are.
# Happens: the division works on a copy and is lost, so the weights are sums of
# gradient^2 * relu(gradient). Cubes of small gradients are as small as the 1e-8 that guards the
# normalisation, and the map ends below 1.
# Matters: it is another method under the name; cuts at fixed values (.5 for boxes) find less.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile torchcam==0.5.0 torch==2.14.1 torchvision==0.29.1 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from torch import nn
from torchcam.methods import GradCAM, GradCAMpp

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1),
    nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
).eval()
x = torch.rand(1, 3, 16, 16)

with GradCAM(model, "3") as explain:
    plain = explain(1, model(x))[0]
with GradCAMpp(model, "3") as explain:
    scores = model(x)
    normalised = explain(1, scores, retain_graph=True)[0]
    weights = explain._get_weights(1, scores)[0].detach().flatten()

activation = model[:4](x).detach().requires_grad_()
gradient, = torch.autograd.grad(model[4:](activation)[0, 1], activation)
cubes = (gradient**2 * gradient.relu()).sum((2, 3)).flatten()
denominator = 2 * gradient**2 + gradient**3 * activation.sum((2, 3), keepdim=True)
alpha = torch.where(gradient == 0, 0, gradient**2 / denominator)
published = (alpha * gradient.relu()).sum((2, 3)).detach().flatten()

print("torchcam", version("torchcam"), "torch", torch.__version__)
print("largest value, Grad-CAM ", plain.max(), "Grad-CAM++", normalised.max())
print("weights, torchcam       ", weights)
print("gradient^2 relu(gradient)", cubes)
print("published formula       ", published)
assert plain.max() > 0.999 and normalised.max() < 0.95
assert torch.allclose(weights, cubes, rtol=1e-4, atol=0)
assert not torch.allclose(weights, published, rtol=0.5, atol=0)
PY
