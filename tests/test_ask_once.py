"""A model is asked once: many maps, and many metrics, from one set of evaluations."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    Fidelity,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    RFidelity,
    answers_shared,
    evaluate,
)
from quantus_ext.base import TorchMetric
from quantus_ext.engine.shared import SharedAnswers
from quantus_ext.evaluation.explainers import carries_input
from quantus_ext.map_scores import MapScores
from tests.cases import CASES
from tests.harness import gradients, make_inputs, planted, rows_seen


def lenet() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(256, 10)),
        ).eval()


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Black images with strokes of grey in the middle, as digits are, and labels."""
    generator = np.random.default_rng(0)
    x = np.zeros((n, 1, 28, 28), dtype=np.float32)
    strokes = generator.random((n, 1, 18, 18)) < 0.35
    x[..., 5:23, 5:23] = np.where(strokes, generator.random(strokes.shape), 0)
    return x, generator.integers(0, 10, n)


def maps_of(x: np.ndarray, m: int, *, seed: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(m, *x.shape)).astype(x.dtype))


def rows_of(metric: TorchMetric, model: nn.Module, x: Any, y: Any, maps: list[np.ndarray]) -> int:
    """Count the rows that a metric sends to score maps."""
    with rows_seen(model) as seen:
        found = metric.score_maps(model, x, y, maps)
    sent = sum(map(len, seen))
    assert found.n_rows == sent
    return sent


def distinct(seen: list[torch.Tensor], n: int) -> int:
    """Count different rows; of a sample without anything there is one for each of n samples."""
    every = [row for rows in seen for row in rows]
    rows = {row.numpy().tobytes(): bool((row == row.flatten()[0]).all()) for row in every}
    return sum(n if is_constant else 1 for is_constant in rows.values())


SCHEMES = {
    "patch": {"n_perturb_samples": 50},
    "few windows": {"n_perturb_samples": 50, "perturb_patch_sizes": [26]},
    "subset": {"n_perturb_samples": 50, "scheme": "subset"},
    "noise": {
        "n_perturb_samples": 50,
        "scheme": "all",
        "perturb_baseline": "uniform",
    },
    "quantus": {"scheme": "quantus", "perturb_patch_sizes": [4]},
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_infidelity_of_many_maps_asks_as_of_one(scheme):
    (x, y), model = digits(4), lenet()
    maps = maps_of(x, 5)
    metric = Infidelity(**SCHEMES[scheme])
    assert rows_of(metric, model, x, y, maps) == rows_of(metric, model, x, y, maps[:1])
    gap = QGE(metric, "random", 20)
    assert rows_of(gap, model, x, y, maps) == rows_of(metric, model, x, y, maps[:1])


def test_a_map_and_its_inverse_share_what_they_ask():
    (x, y), model = digits(4), lenet()
    maps = maps_of(x, 1)
    alone = rows_of(ABPC(), model, x, y, maps)
    # The inverse's curves are the map's, the other way round; ties are broken at random.
    assert rows_of(QGE(ABPC()), model, x, y, maps) <= 1.02 * alone


EIGHT = {
    "Infidelity": Infidelity(),
    "QGE(Infidelity)": QGE(Infidelity()),
    "MoRF": MoRF(),
    "LeRF": LeRF(),
    "ABPC": ABPC(),
    "Deletion": Deletion(),
    "Insertion": Insertion(),
    "Fidelity": Fidelity(),
}


def test_curves_and_fidelity_ask_about_each_different_state_once():
    (x, y), model = digits(4), lenet()
    a = maps_of(x, 1)[0]
    # By identity, for the hook that notes the rows is a part of the model's content.
    with rows_seen(model) as seen, answers_shared(SharedAnswers(by_identity=True)):
        for name in ("MoRF", "LeRF", "ABPC", "Deletion", "Insertion", "Fidelity"):
            EIGHT[name](model, x, y, a)
    assert sum(map(len, seen)) <= 1.02 * distinct(seen, len(x))


def repeated_windows(metric: Infidelity, model: nn.Module, x: np.ndarray, y: np.ndarray) -> int:
    with rows_seen(model) as seen:
        metric(model, x, y, x)
    return sum(map(len, seen)) - distinct(seen, len(x))


def test_evaluate_asks_about_each_different_row_once():
    (x, y), model = digits(8), lenet()
    maps = {str(place): a for place, a in enumerate(maps_of(x, 4))}
    with rows_seen(model) as seen:
        found = evaluate(EIGHT, maps, model, x, y)
    # Two rows more tell whether the model's last part is its softmax.
    sent = sum(map(len, seen))
    assert sent - 2 <= found.n_rows <= sent
    # Windows that differ in black pixels alone are drawn as others, and clean rows are asked for
    # as logits and as probabilities.
    repeated = repeated_windows(Infidelity(), model, x, y)
    assert sent <= 1.001 * distinct(seen, len(x)) + repeated + len(x) + 2
    # Each metric by itself would send several times as many.
    assert found.n_evaluations.sum() > 5 * sent


PAIRS = list(itertools.combinations_with_replacement(CASES, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_any_two_metrics_share_what_they_ask(first, second):
    cases = CASES[first], CASES[second]
    common = [m for m in cases[0].modalities if m in cases[1].modalities]
    if not common or not all(case.counts_every_row for case in cases):
        # What is trained, and what a health report asks, is asked of other models.
        return
    inputs = make_inputs(common[0], n=3)
    with rows_seen(inputs.model) as seen, answers_shared(SharedAnswers(by_identity=True)):
        alone = [inputs.call(case.metric()) for case in cases]
    # Logits and probabilities are answers of their own to the clean rows.
    views = len({case.metric().default_softmax for case in cases})
    n = len(inputs.x)
    assert sum(map(len, seen)) <= 1.02 * distinct(seen, n) + (views - 1) * n
    again = [inputs.call(case.metric()) for case in cases]
    for shared, own in zip(alone, again, strict=True):
        np.testing.assert_allclose(shared, own, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(CASES)),
    m=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
    ties=st.booleans(),
    equal=st.booleans(),
    batch_size=st.integers(1, 5),
    chunk_size=st.sampled_from([None, 1, 7]),
    tolerance=st.booleans(),
)
def test_a_set_of_maps_scores_as_its_maps_do_alone(
    name, m, order, ties, equal, batch_size, chunk_size, tolerance
):
    case = CASES[name]
    inputs = make_inputs(case.modalities[-1], n=3)
    maps = maps_of(inputs.x, m, seed=m)
    if ties:
        maps = [np.round(a) for a in maps]
    if equal:
        maps.append(maps[0].copy())
    order.shuffle(maps)
    common: dict[str, Any] = {"chunk_size": chunk_size}
    if tolerance and name in ("Infidelity", "RFidelity"):
        common["tolerance"] = 0.05
    metric = case.metric(**common)
    arguments = inputs.arguments()
    explainers = [(arguments["explain_func"], None)] * len(maps)
    found = metric.score_maps(
        inputs.model,
        inputs.x,
        inputs.y,
        maps,
        planted(inputs.x),
        explainers=explainers,
        batch_size=batch_size,
    )
    for place, a in enumerate(maps):
        alone = case.metric(**common)
        scores = inputs.call(alone, a_batch=a)
        np.testing.assert_allclose(found.scores[place], scores, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            found.standard_errors[place], alone.standard_errors, rtol=1e-6, atol=1e-9
        )
        assert found.details.keys() == alone.details.keys()
        for detail, values in alone.details.items():
            np.testing.assert_allclose(found.details[detail][place], values, rtol=1e-6, atol=1e-9)
        assert found.n_evaluations[place] == alone.n_evaluations


def test_maps_of_unlike_shapes_and_maps_that_are_made():
    inputs = make_inputs("image")
    metric = Infidelity(n_perturb_samples=5, perturb_baseline=0.25)
    summed = inputs.a.sum(1, keepdims=True)

    def of_one_channel(**call: Any) -> np.ndarray:
        return gradients(**call).sum(1)

    found = metric.score_maps(
        inputs.model,
        inputs.x,
        inputs.y,
        [inputs.a, summed, None, None],
        explainers=[(None, None), (None, None), (gradients, {}), (of_one_channel, {})],
    )
    single = [inputs.call(metric, a_batch=a) for a in (inputs.a, summed)]
    single += [
        inputs.call(metric, a_batch=None, explain_func=f) for f in (gradients, of_one_channel)
    ]
    np.testing.assert_allclose(found.scores, single, rtol=1e-9)
    with pytest.raises(ValueError, match="maps must hold at least one"):
        metric.score_maps(inputs.model, inputs.x, inputs.y, [])


def test_an_explainer_says_whether_its_maps_carry_the_input():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 6)).astype(np.float32)
    weights = torch.from_numpy(generator.normal(size=(2, 6)).astype(np.float32))
    model, y = nn.Linear(6, 2, bias=False).eval(), np.array([0, 1, 0, 1])
    with torch.no_grad():
        model.weight.copy_(weights)
    gradient = weights.numpy()[y]
    maps = {"gradient": gradient, "gradient × input": gradient * x}
    exact = Infidelity(perturb_baseline=0.0)
    found = evaluate(
        {"Infidelity": exact, "QGE": QGE(exact)},
        maps,
        model,
        x,
        y,
        multiply_by_inputs={"gradient": False, "gradient × input": True},
    )
    assert found.carry_inputs == (False, True)
    for name in maps:
        np.testing.assert_allclose(found.scores_of(name, "Infidelity"), 0, atol=1e-9)
        assert (found.scores_of(name, "QGE") > 0).all()
    wrong = evaluate({"Infidelity": exact}, maps, model, x, y)
    assert wrong.scores_of("gradient × input", "Infidelity").min() > 1e-3
    for said in ({"nothing": True}, {"gradient": "yes"}):
        with pytest.raises((TypeError, ValueError), match="multiply_by_inputs"):
            evaluate({"Infidelity": exact}, maps, model, x, y, multiply_by_inputs=said)


@pytest.mark.parametrize(
    ("method", "carries"), [("Saliency", False), ("IntegratedGradients", True), ("LRP", True)]
)
def test_what_captum_and_quantus_explain_by_is_known(method, carries):
    captum = pytest.importorskip("captum.attr")
    explainer = getattr(captum, method)(nn.Linear(3, 2))
    assert carries_input(explainer.attribute, {}) is carries
    assert carries_input(partial(explainer.attribute, target=0), {}) is carries
    assert carries_input(quantus.explain, {"method": method}) is carries
    assert carries_input(gradients, {"method": method}) is None


def test_the_same_rows_are_not_asked_for_again_with_a_changed_model():
    inputs = make_inputs("image")
    metric = RFidelity([0.5], n_samples=4)

    def asked() -> MapScores:
        return metric.score_maps(inputs.model, inputs.x, inputs.y, [inputs.a])

    with answers_shared():
        first = asked()
        again = asked()
        np.testing.assert_array_equal(again.scores, first.scores)
        assert again.n_rows == 0
        np.testing.assert_array_equal(again.n_evaluations, first.n_evaluations)
        with torch.no_grad():
            inputs.model[0].weight.mul_(-1.5)
        changed = asked()
        assert changed.n_rows == changed.n_evaluations[0] > 0
    np.testing.assert_array_equal(changed.scores, asked().scores)


class Scaled(nn.Module):
    """A model that reads what no content shows."""

    scale: dict[str, float] = {}  # noqa: RUF012

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * vars(Scaled)["scale"]["now"]


def test_answers_go_with_the_clean_outputs_that_a_model_gives(monkeypatch):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    y, model = np.zeros(4, dtype=int), Scaled().eval()
    with answers_shared():
        for scale in (1.0, 3.0):
            monkeypatch.setitem(Scaled.scale, "now", scale)
            for metric in (Infidelity(perturb_baseline=0.0), Deletion(3), RFidelity([0.5])):
                found = metric.score_maps(model, x, y, [x], softmax=False)
                with answers_shared():
                    alone = metric.score_maps(model, x, y, [x], softmax=False)
                np.testing.assert_array_equal(found.scores, alone.scores)
