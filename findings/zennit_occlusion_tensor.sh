#!/usr/bin/env bash
# zennit 0.5.1, torch 2.14.1: the Occlusion attributor with the output weight given as a tensor.
# Expected: as for its other attributors, a one-hot tensor picks the class to explain.
# Happens: Occlusion adds up the tensor itself and never looks at the model's output, so the map is
# constant for every model and picture. A function that weights the output gives the real map.
# Matters: a constant map is all ties: ranks, deletion curves and their intervals mean nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile zennit==0.5.1 torch==2.14.1 torchvision==0.29.1 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from zennit.attribution import Gradient, Occlusion

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
model[1].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]])
x = torch.ones(1, 1, 2, 2)
one_hot = torch.tensor([[1.0, 0.0]])

with Gradient(model) as explain:
    gradient = explain(x, one_hot)[1]
with Occlusion(model, window=1, stride=1) as explain:
    by_tensor = explain(x, one_hot)[1]
    other_class = explain(x, torch.tensor([[0.0, 1.0]]))[1]
    by_function = explain(x, lambda output: output * one_hot)[1]

print("zennit", version("zennit"), "torch", torch.__version__)
print("Gradient, tensor    ", gradient.flatten())
print("Occlusion, tensor   ", by_tensor.flatten(), "other class", other_class.flatten())
print("Occlusion, function ", by_function.detach().flatten())
assert gradient.flatten().tolist() == [1, 2, 3, 4]
assert by_tensor.flatten().tolist() == other_class.flatten().tolist() == [1, 1, 1, 1]
assert by_function.flatten().tolist() == [1, 2, 3, 4]
PY
