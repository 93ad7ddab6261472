"""Outputs that are not (n, classes)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext import ABPC, QGE, Deletion, Fidelity, Infidelity, RFidelity
from quantus_ext.adapters import BinaryLogit, MultiOutput
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
    with pytest.raises(
        ValueError, match=r"output='label' needs .* a MultiOutput is not: use output="
    ):
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


def test_heads_of_one_output_have_no_probabilities():
    inputs = make_inputs("table")
    heads = nn.Sequential(inputs.model, nn.Unflatten(1, (4, 1))).eval()
    with pytest.raises(
        ValueError, match=r"softmax must be False for heads of one output.*\(4, 1\)"
    ):
        MultiOutput(heads, (4, 1))
    scores = inputs.call(Infidelity(), model=MultiOutput(heads, (4, 1), softmax=False))
    np.testing.assert_array_equal(scores, inputs.call(Infidelity()))


@pytest.mark.parametrize("classes", [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]])
def test_both_classes_of_one_logit_have_an_output_of_their_own(classes):
    inputs = make_inputs("table")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logit = nn.Linear(7, 1).double().eval()
    weights, y = logit.weight.detach().numpy(), np.array(classes)
    signs = np.where(y == 1, 0.5, -0.5)[:, None]
    for a, right in ((signs * weights, True), (-signs * weights, False), (0 * weights, False)):
        metric = Infidelity(n_perturb_samples=10)
        maps = np.broadcast_to(a, inputs.x.shape)
        scores = inputs.call(metric, model=BinaryLogit(logit), y_batch=y, a_batch=maps)
        assert ((scores < 1e-20) == right).all()
        assert ((metric.details["faithfulness"] > 1 - 1e-9) == right).all()
    # A map of the logit itself is that of class 1, but for its scale.
    itself = np.where(y == 1, 1, -1)[:, None] * weights
    rescaled = Infidelity(n_perturb_samples=10, rescale=True)
    scores = inputs.call(rescaled, model=BinaryLogit(logit), y_batch=y, a_batch=itself)
    assert (scores < 1e-12).all()
    np.testing.assert_allclose(rescaled.details["scale"], 0.5)
