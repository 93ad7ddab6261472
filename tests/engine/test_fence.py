"""Whatever foreign code leaves, models and process are as before, and no other score changes."""

from __future__ import annotations

import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import quantus
import torch
from torch import nn

import quantus_ext
from quantus_ext.engine import fence
from quantus_ext.engine.fence import Fence, listening
from quantus_ext.engine.global_state import isolated_random_state
from quantus_ext.evaluation.result import Evaluation
from tests import leaving, state
from tests.harness import gradients
from tests.leaving import LEAVE, WEIGHTS, Leaving, harmless, network

SILENT = ("gradients", "generators")
"""Nothing is said of these: gradients are no part of the model, and draws are seeded."""
REPLACED = "another parameter object"


def around(model: nn.Module, leave: Any) -> list[str]:
    """Run foreign code behind a fence and return what is said of it."""
    with listening() as heard, isolated_random_state(), Fence("it").around(model):
        leave(model)
    return heard


@pytest.fixture(autouse=True)
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the fence misses must not meet the next test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = fence.Settings()
    yield
    settings.put_back()


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("name", LEAVE)
def test_everything_is_as_before(name: str, raises: bool):
    model = network()
    model.head.bias.grad = torch.ones(3)
    before = {**state.of_model(model), **state.of_process()}

    def leave(given: nn.Module) -> None:
        LEAVE[name](given)
        if raises:
            raise RuntimeError("in the middle")

    expected = (
        (RuntimeError, "in the middle") if raises else (ValueError, r"head\.weight.*: they were")
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if raises or name in (*WEIGHTS, REPLACED):
            with pytest.raises(expected[0], match=expected[1]):
                around(model, leave)
        else:
            assert len(around(model, leave)) == (name not in SILENT)
    assert caught == []
    assert state.differences(before, {**state.of_model(model), **state.of_process()}) == []


@pytest.mark.parametrize("place", ["weight", "bias"])
def test_what_was_changed_and_put_back_is_fine(place: str):
    def careful(model: Any) -> None:
        kept = getattr(model.head, place)
        values, buffer = kept.detach().clone(), model.features[1].running_mean.clone()
        kept.data.mul_(2)
        model.train()
        model(torch.ones(2, 1, 6, 6))
        model.head._parameters[place] = nn.Parameter(values)
        handle = model.register_forward_hook(lambda *_: None)
        handle.remove()
        model.head._parameters[place] = kept
        kept.data.copy_(values)
        model.eval()
        model.features[1].running_mean.copy_(buffer)
        model.features[1].running_var.copy_(variance)
        model.features[1].num_batches_tracked.sub_(1)

    model = network()
    variance = model.features[1].running_var.clone()
    assert around(model, careful) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_every_type_of_number(dtype: torch.dtype):
    model = nn.Module()
    model.register_buffer("kept", torch.tensor([1, torch.nan, torch.inf]).to(dtype))
    model.register_buffer("flags", torch.tensor([True, False]))
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    assert around(model.eval(), lambda model: None) == []
    for name in ("kept", "flags", "sparse"):
        (said,) = around(model, lambda model, name=name: getattr(model, name).zero_())
        assert said == f"it left other values of {name}; that was put back"
    assert torch.equal(model.kept.isnan(), torch.tensor([False, True, False]))
    assert torch.equal(model.sparse.to_dense(), torch.eye(3))


@pytest.mark.parametrize("made_in", [False, True])
@pytest.mark.parametrize("called_in", [False, True])
def test_inference_mode(made_in: bool, called_in: bool):
    with torch.inference_mode(made_in):
        model = network()
    expected = model.head.weight.clone()

    def negates(model: Any) -> None:
        with torch.inference_mode():
            model.head.weight.data.neg_() if made_in else model.head.weight.neg_()

    with torch.inference_mode(called_in):
        with pytest.raises(ValueError, match=r"changes head\.weight"):
            around(model, negates)
        assert torch.equal(model.head.weight, expected)


@pytest.mark.parametrize("form", [torch.jit.script, partial(torch.jit.trace, example_inputs=None)])
def test_scripts(form: Any):
    plain = network()
    x = torch.ones(2, 1, 6, 6)
    script = torch.jit.script(plain) if form is torch.jit.script else torch.jit.trace(plain, x)
    before = script(x)
    assert around(script, lambda model: model.train()) != []
    assert not script.training
    with pytest.raises(ValueError, match=r"head\.weight"):
        around(script, lambda model: model.head.weight.data.neg_())
    assert torch.equal(script(x), before)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.layer = nn.LSTM(6, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0][:, -1]


def test_weights_that_a_recurrent_layer_holds_twice():
    model, x = Recurrent().eval(), torch.ones(2, 4, 6)
    before = model(x)

    def replaces(model: Any) -> None:
        model.layer.weight_ih_l0 = nn.Parameter(torch.zeros(12, 6))

    with pytest.raises(ValueError, match=r"layer\.weight_ih_l0: they were put back"):
        around(model, replaces)
    assert torch.equal(model(x), before)
    assert around(model, lambda model: model.double().float()) == []
    assert torch.equal(model(x), before)


def test_tied_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))).eval()
    model[1][0].weight = model[0].weight
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"changes 0\.weight: they were"):
        around(model, lambda model: model[1][0].weight.data.neg_())
    assert model[1][0].weight is model[0].weight
    assert torch.equal(model[0].weight, before)


def test_a_metrics_own_threads_explain_within_its_turn():
    class InThreads(quantus.MaxSensitivity):
        def evaluate_batch(self, *arguments: Any, **keywords: Any) -> Any:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(super().evaluate_batch, *arguments, **keywords).result(10)

    x, y = leaving.data(4)
    a = gradients(network(), x, y)
    first, second = (
        quantus_ext.QGE(kind(nr_samples=2, disable_warnings=True))(
            network(), x, y, a, explain_func=gradients, device="cpu"
        )
        for kind in (InThreads, quantus.MaxSensitivity)
    )
    assert first == second


def test_values_of_large_models_are_found_and_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fence, "_COPIED_BYTES", 100)
    for name in (*WEIGHTS, REPLACED, "a buffer in place", "a buffer by .data"):
        with pytest.raises(ValueError, match="load them again"):
            around(network(), LEAVE[name])
    model = network()
    assert around(model, lambda model: model.train()) != []
    assert not model.training

    def exchanges(model: Any) -> None:
        values = model.head.weight.data.reshape(-1)
        values[:2] = values[:2].flip(0).clone()

    with pytest.raises(ValueError, match=r"changes head\.weight"):
        around(model, exchanges)


def test_it_is_said_once_and_of_whom():
    x, y = leaving.data()
    metric = quantus_ext.MoRF(6)
    with pytest.warns(UserWarning, match="left") as caught:
        metric(network(), x, y, batch_size=2, explain_func=Leaving("training mode"))
    (said,) = [str(each.message) for each in caught]
    assert said == (
        "the explainer 'Leaving' left training mode of the model, features, features.0 and 4 more; "
        "that was put back"
    )


def metrics() -> dict[str, Any]:
    return {
        "R-Fidelity": quantus_ext.RFidelity([0.3, 0.6], n_samples=4, output="probability"),
        "PScore": quantus_ext.PScore([network(1), network(2)]),
        "QGE": quantus_ext.QGE(
            quantus.FaithfulnessCorrelation(nr_runs=4, subset_size=6, disable_warnings=True)
        ),
        "Max-Sensitivity": quantus.MaxSensitivity(nr_samples=2, disable_warnings=True),
    }


def evaluated(explainers: dict[str, Any], **given: Any) -> Evaluation:
    x, y = leaving.data(4)
    return quantus_ext.evaluate(
        metrics(), explainers, network(), x, y, batch_size=2, shard_size=2, **given
    )


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """Scores by noise, by gradients and after them, where nobody leaves anything."""
    explainers = {"noise": leaving.noise, "harmless": harmless(), "after": gradients}
    return evaluated(explainers).scores


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["alone", "threads", "processes"])
def test_no_score_of_others_changes(how: str, clean: np.ndarray):
    # All of them at once; in other workers some.
    some = list(LEAVE)[:: 1 if how == "alone" else 5]
    careless = {name: Leaving(name) for name in some if name != "generators"}
    raising = {f"{name}, raises": Leaving(name, raises=True) for name in some}
    explainers = {"noise": leaving.noise, **careless, **raising, "after": gradients}
    settings = {"alone": {}, "threads": {"n_jobs": 2}, "processes": {"n_jobs": 2}}[how]
    backend = "threading" if how == "threads" else "loky"
    with joblib.parallel_config(backend=backend):
        found = evaluated(explainers, **settings)
    names = list(found.explainers)
    np.testing.assert_array_equal(found.scores[0], clean[0])
    np.testing.assert_array_equal(found.scores[-1], clean[2])
    for name in careless:
        scores = found.scores[names.index(name)]
        if name in (*WEIGHTS, REPLACED):
            assert np.isnan(scores).all()
        else:
            np.testing.assert_array_equal(scores, clean[1], err_msg=name)
    failed = {failure.explainer for failure in found.failures}
    assert failed == {*raising} | ({*WEIGHTS, REPLACED} & {*careless})


@pytest.mark.slow
def test_an_evaluation_says_what_was_left_wherever_it_was():
    explainers = {"careless": Leaving("a forward hook"), "fine": gradients}
    for settings in ({}, {"n_jobs": 2}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluated(explainers, **settings)
        said = [str(each.message) for each in caught if "that was put back" in str(each.message)]
        assert said[0] == (
            "the explainer 'careless' left forward hooks of features.2; that was put back"
        )
        # Metrics that explain again tell of it as well.
        assert len(said) == len(set(said))


@pytest.mark.parametrize("name", ["training mode", "a buffer by .data", "default dtype"])
@pytest.mark.filterwarnings("ignore")
def test_metrics_that_explain_score_as_after_a_harmless_explainer(name: str):
    x, y = leaving.data(4)
    for make in (
        lambda: quantus_ext.RFidelity([0.3, 0.6], n_samples=4, output="probability"),
        lambda: quantus_ext.PScore([network(1), network(2)]),
        lambda: quantus_ext.QGE(quantus.MaxSensitivity(nr_samples=2, disable_warnings=True)),
    ):
        careless, fine = (
            make()(network(), x, y, batch_size=2, explain_func=explain, device="cpu")
            for explain in (Leaving(name), harmless())
        )
        assert careless == fine


class Careless(quantus.FaithfulnessCorrelation):
    """A metric that leaves the model in training mode, with another buffer, and raises."""

    fails = False

    def evaluate_batch(self, *arguments: Any, **keywords: Any) -> Any:
        scores = super().evaluate_batch(*arguments, **keywords)
        model = keywords["model"].get_model()
        model.train()
        model.features[1].running_mean.data.add_(1)
        torch.set_default_dtype(torch.float64)
        if self.fails:
            raise RuntimeError("in the middle")
        return scores


@pytest.mark.parametrize("fails", [False, True])
def test_metrics_of_other_packages_leave_nothing(fails: bool):
    x, y = leaving.data(4)
    a = gradients(network(), x, y)
    model = network()
    given = {"nr_runs": 4, "subset_size": 6, "disable_warnings": True}
    expected = quantus_ext.QGE(quantus.FaithfulnessCorrelation(**given))(
        model, x, y, a, batch_size=2, device="cpu"
    )
    before = state.of_model(model)
    metric = Careless(**given)
    metric.fails = fails
    failing = pytest.raises(RuntimeError, match="in the middle") if fails else nullcontext()
    found = None
    with pytest.warns(UserWarning, match="the metric Careless left"), failing:
        found = quantus_ext.QGE(metric)(model, x, y, a, batch_size=2, device="cpu")
    assert found == (None if fails else expected)
    assert state.differences(before, state.of_model(model)) == []
    assert torch.get_default_dtype() == torch.float32


def test_a_metric_that_explains_gets_the_maps_of_an_evaluation():
    x, y = leaving.data()
    metric = quantus_ext.MoRF(6)
    expected = evaluated({"noise": leaving.noise}).scores.shape  # draws, and leaves the state
    np.random.seed(3)  # noqa: NPY002
    first = metric(network(), x, y, batch_size=2, explain_func=leaving.noise)
    found = quantus_ext.evaluate(
        [quantus_ext.MoRF(6)], {"noise": leaving.noise}, network(), x, y, batch_size=2
    )
    assert first == found.scores[0, 0].tolist()
    assert expected == (1, 4, 4)
    other = quantus_ext.MoRF(6, seed=1)(network(), x, y, batch_size=2, explain_func=leaving.noise)
    assert other != first


def test_keywords_that_are_arrays_are_each_batchs_own():
    def spoils(model: Any, inputs: Any, targets: Any, baseline: np.ndarray) -> np.ndarray:
        made = gradients(model, inputs, targets) * (inputs - baseline)
        baseline[...] = np.nan
        return made

    x, y = leaving.data()
    baseline = np.zeros(1, dtype=np.float32)
    scores = quantus_ext.MoRF(6)(
        network(),
        x,
        y,
        batch_size=2,
        explain_func=spoils,
        explain_func_kwargs={"baseline": baseline},
    )
    assert np.isfinite(scores).all()
    assert baseline == 0
