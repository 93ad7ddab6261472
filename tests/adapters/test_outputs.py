"""Outputs that are not (n, classes)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext import ABPC, QGE, Deletion, Fidelity, Infidelity, RFidelity
from quantus_ext.adapters import MultiOutput
from tests.harness import make_inputs


def two_heads() -> tuple[object, MultiOutput]:
    """Split the four outputs of a network into two heads of two."""
    inputs = make_inputs("table")
    heads = nn.Sequential(inputs.model, nn.Unflatten(1, (2, 2))).eval()
    return inputs, MultiOutput(heads, (2, 2))


class Head(nn.Module):
    def __init__(self, model: nn.Module, head: int) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)[:, 2 * self.head : 2 * self.head + 2]


TARGETS = [(0, 1), (1, 0), (1, 1), (0, 0), (1, 0)]


@pytest.mark.parametrize(
    "make",
    [
        Deletion,
        lambda: QGE(ABPC(4)),
        lambda: RFidelity(n_samples=3, output="probability"),
        Infidelity,
    ],
    ids=["Deletion", "QGE", "RFidelity", "Infidelity"],
)
def test_a_head_scores_as_a_model_of_its_own(make):
    inputs, model = two_heads()
    scores = inputs.call(make(), model=model, y_batch=model.target(TARGETS))
    for head in (0, 1):
        alone = Head(inputs.model, head).eval()
        rows = [i for i, target in enumerate(TARGETS) if target[0] == head]
        expected = make()(
            alone,
            inputs.x[rows],
            np.array([TARGETS[i][1] for i in rows]),
            inputs.a[rows],
            softmax=True,
            index_batch=np.array(rows),
        )
        np.testing.assert_allclose(np.array(scores)[rows], expected, rtol=1e-9)


def test_labels_of_several_heads_are_refused():
    inputs, model = two_heads()
    with pytest.raises(ValueError, match=r"output='label' needs .* several heads: use output="):
        inputs.call(Fidelity(), model=model, y_batch=model.target(TARGETS), softmax=False)


def test_bad_shapes_and_targets_are_named():
    inputs, model = two_heads()
    with pytest.raises(ValueError, match=r"shape must hold heads and classes, is \(4,\)"):
        MultiOutput(inputs.model, (4,))
    with pytest.raises(ValueError, match=r"must give shape \(n, \*\(3, 2\)\), gives \(5, 2, 2\)"):
        inputs.call(Deletion(), model=MultiOutput(model.model, (3, 2)), softmax=False)
    with pytest.raises(ValueError, match=r"labels must have shape \(n, 2\), have \(2,\)"):
        model.target([0, 1])
    with pytest.raises(ValueError, match=r"labels must be below \[2, 2\]; sample 1 has \[0, 2\]"):
        model.target([(0, 0), (0, 2)])
    with pytest.raises(ValueError, match="softmax must be False for a MultiOutput that gives"):
        inputs.call(Deletion(), model=model, softmax=True)
