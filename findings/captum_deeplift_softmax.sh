#!/usr/bin/env bash
# captum 0.9.0, torch 2.14.1: DeepLift through a final softmax layer.
# Expected: a row's map sums to f(x) - f(baseline), and is the same alone and in a batch.
# Happens: the softmax rule subtracts a mean over the whole batch, baselines included, so the sums
# are off by half or more, and a row's map depends on the rows beside it. Nothing warns.
# Matters: maps of one picture score differently with the batch size; explain the logits instead.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile captum==0.9.0 torch==2.14.1 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import captum, torch
from captum.attr import DeepLift

linear = torch.nn.Linear(3, 3, bias=False)
linear.weight.data = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, -1.0], [1.0, 1.0, 1.0]])
model = torch.nn.Sequential(linear, torch.nn.Softmax(-1))
x = torch.tensor([[1.0, 0.5, -1.0], [2.0, -1.0, 0.3], [0.1, 0.2, 3.0]])

effect = (model(x) - model(0 * x))[:, 0].detach()
together = DeepLift(model).attribute(x, target=0).detach()
alone = torch.cat([DeepLift(model).attribute(row[None], target=0) for row in x]).detach()
logits = DeepLift(linear).attribute(x, target=0).detach()

print("captum", captum.__version__, "torch", torch.__version__)
print("f(x) - f(0)      ", effect)
print("sums, batch of 3 ", together.sum(1))
print("sums, one by one ", alone.sum(1))
print("largest change of a value by its company", (together - alone).abs().max())
assert (together.sum(1) - effect).abs().max() > 0.1
assert (alone.sum(1) - effect).abs().max() > 0.1
assert (together - alone).abs().max() > 0.1
assert torch.allclose(logits.sum(1), linear(x)[:, 0], atol=1e-5)
PY
