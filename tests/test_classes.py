"""Several classes of each sample in one call: each scores as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import quantus
import torch

from quantus_ext import (
    QGE,
    Deletion,
    FFidelity,
    Fidelity,
    Infidelity,
    MoRF,
    PScore,
    RFidelity,
    SynScore,
)
from quantus_ext.base import TorchMetric
from quantus_ext.flags import Flag
from quantus_ext.functional import infidelity
from tests.cases import untuned
from tests.harness import Inputs, make_inputs, planted, rows_seen

K = 3


def several(modality: str, dtype: torch.dtype = torch.float64) -> tuple[Inputs, Any, Any]:
    """Return samples with classes (n, k) in different orders, and maps (n, k, …)."""
    inputs = make_inputs(modality, dtype=dtype)
    generator = np.random.default_rng(3)
    n = len(inputs.x)
    y = np.stack([generator.permutation(4)[:K] for _ in range(n)])
    return inputs, y, generator.normal(size=(n, K, *inputs.x.shape[1:]))


_infidelity = partial(Infidelity, n_perturb_samples=9)
METRICS: dict[str, Callable[[], TorchMetric]] = {
    "Infidelity": _infidelity,
    "every mask": partial(Infidelity, n_perturb_samples=2000),
    "tolerance": partial(Infidelity, n_perturb_samples=64, tolerance=0.01),
    "by inputs": partial(_infidelity, multiply_by_inputs=True, perturb_baseline=0.0),
    "subsets": partial(_infidelity, scheme="subset", rescale=True),
    "noise": partial(_infidelity, scheme="all", perturb_func=quantus.gaussian_noise),
    "uniform": partial(_infidelity, perturb_baseline="uniform"),
    "pilot": partial(Infidelity, n_perturb_samples="auto"),
    "Fidelity": partial(Fidelity, [0.3, 0.6]),
    "RFidelity": partial(RFidelity, [0.3, 0.6], n_samples=3, output="probability"),
    "FFidelity": partial(FFidelity, [0.3, 0.6], n_samples=3, fine_tune=untuned),
    "MoRF": partial(MoRF, 4),
    "Deletion": partial(Deletion, 4, perturb_baseline="uniform", n_samples=2),
    "SynScore": SynScore,
    "QGE": lambda: QGE(_infidelity()),
    "QGE of another package": lambda: QGE(quantus.Sparseness(disable_warnings=True)),
    "PScore": lambda: PScore([torch.nn.Flatten().eval()]),
}
IN_ONE_PASS = [*METRICS][: [*METRICS].index("pilot")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("name", METRICS)
def test_each_class_scores_as_it_does_alone(name, modality):
    inputs, y, a = several(modality)
    metric = METRICS[name]()
    call = {
        "model": inputs.model,
        "x_batch": inputs.x,
        "s_batch": planted(inputs.x),
        "batch_size": 2,
    }
    if name == "PScore":
        call["explain_func"] = lambda model, inputs, targets: (inputs.T + targets).T
    scores = np.array(metric(**call, y_batch=y, a_batch=a))
    assert scores.shape == (len(y), K)
    errors, details, counts = metric.standard_errors, metric.details, metric.n_evaluations
    assert isinstance(counts, np.ndarray)
    assert metric.evaluation_scores == scores.tolist()
    for place in range(K):
        alone = metric(**call, y_batch=y[:, place], a_batch=a[:, place])
        same = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
        same(scores[:, place], alone)
        same(errors[:, place], metric.standard_errors)
        assert counts[place] == metric.n_evaluations
        assert details.keys() == metric.details.keys()
        for key, values in metric.details.items():
            same(details[key][:, place], values, err_msg=key)


@pytest.mark.parametrize("name", ["Infidelity", "MoRF"])
def test_one_of_several_classes_is_scored_as_one(name):
    inputs, y, a = several("image")
    metric = METRICS[name]()
    scores = metric(inputs.model, inputs.x, y[:, :1], a[:, :1])
    assert np.shape(scores) == (len(y), 1)
    np.testing.assert_allclose(
        np.ravel(scores), metric(inputs.model, inputs.x, y[:, 0], a[:, 0]), rtol=1e-9
    )


def test_shap_values_of_one_feature_are_not_maps_of_a_class():
    model = torch.nn.Linear(1, 3).double().eval()
    x = np.random.default_rng(0).normal(size=(4, 1))
    values = x[:, :, None] * model.weight.detach().numpy()[:, 0]
    y = np.array([0, 1, 2, 1])
    metric = Infidelity(perturb_baseline=0.0, multiply_by_inputs=True)
    assert metric(model, x, y[:, None], values) == metric(model, x, y, values)


@pytest.mark.parametrize("name", IN_ONE_PASS)
def test_infidelity_asks_one_set_of_rows(name):
    inputs, y, a = several("image")
    metric = METRICS[name]()
    counts = []
    for labels, maps in [(y, a), *((y[:, place], a[:, place]) for place in range(K))]:
        with rows_seen(inputs.model) as seen:
            metric(inputs.model, inputs.x, labels, maps)
        counts.append(sum(map(len, seen)))
        assert np.max(metric.n_evaluations) <= counts[-1]
    # With a tolerance those that the class in most doubt needs.
    assert max(counts[1:]) <= counts[0] <= 1.1 * max(counts[1:])
    if name != "tolerance":
        assert len(set(counts)) == 1


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_forms_of_samples_and_maps(kind):
    inputs, y, a = several("image")
    metric = _infidelity()
    expected = metric(inputs.model, inputs.x, y, a)
    assert metric(inputs.model, kind(inputs.x), kind(y.astype(float)), kind(a)) == expected
    last = partial(np.moveaxis, source=-3, destination=-1)
    assert metric(inputs.model, last(inputs.x), y, last(a), channel_first=False) == expected
    one_channel = a.sum(2, keepdims=True)
    for metric in (MoRF(4), _infidelity(multiply_by_inputs=True, perturb_baseline=0.0)):
        scores = np.array(metric(inputs.model, inputs.x, y, one_channel))
        alone = metric(inputs.model, inputs.x, y[:, 1], one_channel[:, 1])
        np.testing.assert_allclose(scores[:, 1], alone, rtol=1e-9)


def test_aggregates_are_one_a_class():
    inputs, y, a = several("table")
    for make in (_infidelity, MoRF):
        scores = np.array(make()(inputs.model, inputs.x, y, a))
        means = make(return_aggregate=True)(inputs.model, inputs.x, y, a)
        np.testing.assert_allclose(means, scores.mean(0))


def test_flags_are_those_of_each_class():
    inputs, y, a = several("table")
    a[1, 2] = 0
    for metric in (_infidelity(), MoRF()):
        metric(inputs.model, inputs.x, y, a)
        assert metric.details["flags"].tolist() == [
            [int(Flag.ZERO_MAP) * ((sample, place) == (1, 2)) for place in range(K)]
            for sample in range(len(y))
        ]
    last = torch.nn.Linear(4, 4, bias=False, dtype=torch.float64)
    sure = torch.nn.Sequential(inputs.model, last).eval()
    with torch.no_grad():
        last.weight.copy_(1e6 * torch.eye(4))
        expected = sure(torch.from_numpy(inputs.x)).softmax(1).gather(1, torch.from_numpy(y))
    metric = _infidelity()
    metric(sure, inputs.x, y, a, softmax=True)
    at_end = (metric.details["flags"] & int(Flag.OUTPUT_AT_END)) > 0
    np.testing.assert_array_equal(at_end, ((expected == 0) | (expected == 1)).numpy())


def test_the_function_takes_a_class_a_map():
    inputs, y, a = several("table")
    x, maps = torch.from_numpy(inputs.x), torch.from_numpy(a).movedim(1, 0)
    found = infidelity(inputs.model, x, maps, torch.from_numpy(y), patch_sizes=[2], n_draws=5)
    for place in range(K):
        labels = torch.from_numpy(y[:, place])
        alone = infidelity(inputs.model, x, maps[place], labels, patch_sizes=[2], n_draws=5)
        torch.testing.assert_close(found.score[place], alone.score)


def _changed(y: np.ndarray, place: tuple[int, int], value: int) -> np.ndarray:
    y = y.copy()
    y[place] = value
    return y


def test_what_is_refused():
    inputs, y, a = several("image")
    call = partial(_infidelity(), inputs.model, inputs.x)
    removal = partial(MoRF(4), inputs.model, inputs.x)
    for each in (call, removal):
        with pytest.raises(ValueError, match=r"different classes .* sample 2: of one-hot labels"):
            each(_changed(y, (2, 0), y[2, 1]), a)
        with pytest.raises(ValueError, match=r"labels in y_batch must be below 4, .* sample 1 has"):
            each(_changed(y, (1, 2), 9), a)
        with pytest.raises(ValueError, match="must be at least 0, sample 3"):
            each(_changed(y, (3, 1), -1), a)
        # One-hot labels, and maps of one class or of another number of them.
        for maps in (a[:, 0], a[:, :2], None):
            with pytest.raises((ValueError, TypeError), match=r"y_batch must|explain_func|argmax"):
                each(y, maps)
        without_channels = a[:, :, 0]
        with pytest.raises(ValueError, match=r"axis of channels .* pass a_batch\[:, :, None\]"):
            each(y, without_channels)
        assert np.shape(each(y, without_channels[:, :, None])) == y.shape
    with pytest.raises(ValueError, match=r"by_class must be False for MoRF\(steps=4\)"):
        MoRF(4).score_maps(inputs.model, inputs.x, y, [*np.moveaxis(a, 1, 0)], by_class=True)
    with pytest.raises(ValueError, match=r"y_batch must have shape \(5, 2\)"):
        _infidelity().score_maps(inputs.model, inputs.x, y, [a[:, 0], a[:, 1]], by_class=True)
