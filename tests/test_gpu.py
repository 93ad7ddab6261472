"""The contract on a GPU: skipped where there is none; ``--device cpu`` tries it on a processor."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
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
    evaluate,
)
from quantus_ext.base import TorchMetric
from quantus_ext.engine.masked import MaskedModel
from tests.cases import CASES
from tests.harness import Case, Inputs, make_inputs
from tests.test_contract import softmax_of

pytestmark = pytest.mark.gpu

case_and_modality = pytest.mark.parametrize(
    ("case", "modality"),
    [
        pytest.param(case, modality, id=f"{name}-{modality}")
        for name, case in CASES.items()
        for modality in case.modalities
        # Trainings are compared by their scores, and what explains asks the processor's models.
        if not case.trains and not case.explains
    ],
)
WAITING_FOR_NOTHING = {
    "windows": lambda: Infidelity(n_perturb_samples=20),
    "windows of some sizes": lambda: Infidelity(n_perturb_samples=20, perturb_patch_sizes=[2, 3]),
    "subsets": lambda: Infidelity(n_perturb_samples=20, scheme="subset"),
    "everything": lambda: Infidelity(n_perturb_samples=20, scheme="all"),
    "inputs": lambda: Infidelity(n_perturb_samples=20, multiply_by_inputs=True),
    "uniform": lambda: Infidelity(n_perturb_samples=20, perturb_baseline="uniform"),
    "array": lambda: Infidelity(n_perturb_samples=20, perturb_baseline=0.5),
    "labels": lambda: RFidelity([0.3, 0.6], n_samples=20),
    "probabilities": lambda: RFidelity([0.3, 0.6], n_samples=20, output="probability"),
    "whole parts": lambda: Fidelity([0.3, 0.6]),
    "patches": lambda: RFidelity([0.5], n_samples=20, element="patch", patch_size=2),
    **{metric.__name__: lambda metric=metric: metric(4) for metric in (MoRF, LeRF, ABPC)},
    **{metric.__name__: lambda metric=metric: metric(4) for metric in (Deletion, Insertion)},
    "QGE": lambda: QGE(Infidelity(n_perturb_samples=20)),
}


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> torch.device:
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    return chosen


@pytest.fixture(autouse=True)
def _whole_float32() -> Iterator[None]:
    """Compute convolutions in float32 as they are written, not in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on(device: torch.device, modality: str, **keywords: object) -> Inputs:
    inputs = make_inputs(modality, **keywords)
    return replace(inputs, model=copy.deepcopy(inputs.model).to(device))


@case_and_modality
def test_equals_the_slow_reference(case: Case, modality: str, device: torch.device):
    inputs, index = on(device, modality), np.array([3, 0, 12, 7, 1000])
    metric = case.metric()
    scores = inputs.call(metric, index_batch=index)
    predict = make_inputs(modality).predict(softmax=softmax_of(metric))
    expected = case.reference(predict, inputs.x, inputs.y, inputs.a, index)
    np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-12)


@case_and_modality
def test_scores_do_not_depend_on_batches_and_chunks(case, modality, device):
    inputs = on(device, modality, n=9, dtype=torch.float32)
    results = [
        inputs.call(case.metric(chunk_size=chunk_size), batch_size=batch_size)
        for batch_size, chunk_size in ((64, 1000), (7, 16), (1, 1))
    ]
    scale = np.abs(results[0]).max()
    for scores in results[1:]:
        np.testing.assert_allclose(scores, results[0], rtol=1e-5, atol=1e-5 * scale)


@case_and_modality
def test_twice_the_same_call_gives_the_same_bits(case, modality, device):
    inputs = on(device, modality, dtype=torch.float32)
    np.testing.assert_array_equal(inputs.call(case.metric()), inputs.call(case.metric()))


@case_and_modality
def test_nothing_of_the_callers_changes(case, modality, device):
    inputs = on(device, modality)
    tensors = {
        "x_batch": torch.from_numpy(inputs.x).to(device),
        "y_batch": torch.from_numpy(inputs.y).to(device),
        "a_batch": torch.from_numpy(inputs.a).to(device),
    }
    before = copy.deepcopy([tensors, inputs.model.state_dict()])
    state = _random_states(device)
    scores = inputs.call(case.metric(), **tensors)
    assert _random_states(device) == state
    for now, then in zip([tensors, inputs.model.state_dict()], before, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)
    np.testing.assert_array_equal(inputs.call(case.metric()), scores)


def _random_states(device: torch.device) -> list[list[int]]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [state.tolist() for state in states]


@contextmanager
def refusing_to_wait(device: torch.device) -> Iterator[None]:
    """Raise where the host waits for a GPU."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("name", WAITING_FOR_NOTHING)
def test_nothing_in_the_loop_waits(name, modality, device, monkeypatch):
    if name == "patches" and modality == "table":
        pytest.skip("tables have no patches")
    inputs = on(device, modality, dtype=torch.float32)
    metric = WAITING_FOR_NOTHING[name]()
    loops = []

    def guarded(method):
        def called(*given, **named):
            loops.append(method.__name__)
            with refusing_to_wait(device):
                return method(*given, **named)

        return called

    for method in (MaskedModel.sum_draws, MaskedModel.without):
        monkeypatch.setattr(MaskedModel, method.__name__, guarded(method))
    inputs.call(metric, softmax=True)
    assert loops


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("make", [Infidelity, RFidelity, MoRF], ids=lambda make: make.__name__)
def test_low_precision_makes_nearly_the_same_scores(make, modality, device):
    inputs = on(device, modality, dtype=torch.float32)
    metric, full = make(precision="bfloat16"), make()
    scores, expected = inputs.call(metric), inputs.call(full)
    assert metric.n_evaluations == full.n_evaluations
    np.testing.assert_allclose(scores, expected, atol=0.2 * max(np.abs(expected).max(), 0.1))


class _Full(nn.Module):
    """A network that says it has no memory for more than some rows."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most = model, most

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("too many rows")
        outputs: torch.Tensor = self.model(rows)
        return outputs


def test_chunks_of_images_shrink_where_memory_runs_out(device):
    inputs = on(device, "image")
    expected = inputs.call(Infidelity())
    full = replace(inputs, model=_Full(inputs.model, 50).eval())
    with pytest.warns(ResourceWarning, match="memory ran out"):
        np.testing.assert_allclose(full.call(Infidelity(chunk_size=400)), expected, rtol=1e-9)


def test_evaluate_scores_images_as_calls_do(device):
    inputs = on(device, "image")
    metrics: dict[str, TorchMetric] = {
        "windows": Infidelity(n_perturb_samples=20),
        "labels": RFidelity([0.5], n_samples=10),
        "curve": Deletion(4),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(metrics, {"given": inputs.a}, inputs.model, inputs.x, inputs.y, cases=0)
    for name, metric in metrics.items():
        np.testing.assert_allclose(
            found.scores_of("given", name), inputs.call(metric), rtol=1e-9, atol=1e-12
        )
