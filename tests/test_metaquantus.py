"""Meta-evaluation: every metric is an estimator of MetaQuantus, read in the right direction."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric
from torch import nn

from quantus_ext import QGE, FFidelity, Fidelity, FineTuner, Infidelity
from quantus_ext.finetune import cache, training, tuner
from quantus_ext.metaquantus import healing, score_direction
from quantus_ext.plotting import plot_area
from tests.cases import CASES
from tests.harness import planted
from tests.trained import Problem, by_gradient, problem, small_metrics

pytestmark = pytest.mark.slow

PARTS = {"IAC_{NR}", "IAC_{AR}", "IEC_{NR}", "IEC_{AR}"}


def test_direction_of_metrics():
    assert score_direction(Infidelity()) == "lower"
    assert score_direction(Fidelity()) == "higher"
    assert score_direction(Fidelity(score="minus")) == "lower"
    assert score_direction(QGE(Infidelity(), signed=False)) == "lower"
    assert score_direction(quantus.PixelFlipping()) == "lower"
    # Quantus declares it LOWER; it is the drop of the output.
    assert score_direction(quantus.RegionPerturbation()) == "higher"
    assert score_direction(ScoreDirection.HIGHER) == "higher"
    assert score_direction(score_direction("lower")) == "lower"


@pytest.mark.parametrize("text", ["higher", "lower"])
def test_direction_is_a_text(text):
    direction = score_direction(text)
    for made in (direction, copy.deepcopy(direction), pickle.loads(pickle.dumps(direction))):
        assert isinstance(made, str)
        assert bool(made) is (text == "lower")
        assert made == text
        assert hash(made) == hash(text)
        assert {text: 1}[made] == 1
        assert f"{made}" == text
        assert json.loads(json.dumps({"d": made, made: 1})) == {"d": text, text: 1}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("up", ValueError, "higher.*up"),
        ("", ValueError, "higher"),
        (Infidelity, TypeError, "instance"),
        (None, TypeError, "None"),
    ],
)
def test_direction_of_something_else(given, error, message):
    with pytest.raises(error, match=message):
        score_direction(given)


@pytest.fixture
def metaquantus() -> Iterator[Any]:
    module = pytest.importorskip("metaquantus")
    # It collects garbage at every call, and need not go through all that is loaded by now.
    gc.freeze()
    state = np.random.get_state()  # noqa: NPY002 - MetaQuantus draws from it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        yield module
    np.random.set_state(state)  # noqa: NPY002
    gc.unfreeze()


def suite(module: Any, *, kinds: tuple[str, ...] = ("Model", "Input")) -> dict[str, Any]:
    weights = partial(module.ModelPerturbationTest, noise_type="multiplicative", mean=1.0)
    tests = {
        "Model Resilience Test": weights(type="Resilience", std=0.001),
        "Model Adversary Test": weights(type="Adversary", std=10.0),
        "Input Resilience Test": module.InputPerturbationTest(type="Resilience", noise=0.001),
        "Input Adversary Test": module.InputPerturbationTest(type="Adversary", noise=20.0),
    }
    return {name: test for name, test in tests.items() if name.startswith(kinds)}


METHODS: dict[str, dict[str, Any]] = {"gradient": {}, "input×gradient": {}}
QUANTUS_METHODS: dict[str, dict[str, Any]] = {
    "Gradient": {},
    "Saliency": {},
    "IntegratedGradients": {"n_steps": 4},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_every_metric_is_an_estimator(metaquantus, name):
    given = problem(CASES[name].modalities[0])
    metric = CASES[name].metric()
    evaluation = metaquantus.MetaEvaluation(
        test_suite=suite(metaquantus),
        xai_methods=METHODS,
        iterations=2,
        nr_perturbations=2,
        explain_func=by_gradient,
        write_to_file=False,
    )
    evaluation(estimator=metric, **given.arguments(), score_direction=score_direction(metric))
    results = evaluation.results_meta_consistency_scores
    assert set(results) == {"Model", "Input"}
    for result in results.values():
        assert set(result["consistency_scores"]) == PARTS
        values = np.array([result["MC_mean"], *np.ravel([*result["consistency_scores"].values()])])
        assert np.isfinite(values).all()
        assert ((values >= 0) & (values <= 1)).all()
    for scores in evaluation.results_eval_scores.values():
        assert all(np.isfinite(values).all() for values in scores.values())


class Known(Metric[list[float]]):
    """Scores 0 what it knows, and the less (or more) the further model and input are from it."""

    def __init__(self, given: Problem, direction: ScoreDirection) -> None:
        super().__init__(
            abs=False,
            normalise=False,
            normalise_func=None,
            normalise_func_kwargs=None,
            return_aggregate=False,
            aggregate_func=np.mean,
            default_plot_func=None,
            disable_warnings=True,
            display_progressbar=False,
        )
        self.weights = [w.detach().clone() for w in given.model.parameters()]
        self.x = given.x.copy()
        self.score_direction = direction

    def __call__(self, model: nn.Module, x_batch: np.ndarray, **_: object) -> list[float]:
        of_weights = sum(
            float((w.detach() - known).abs().sum())
            for w, known in zip(model.parameters(), self.weights, strict=True)
        )
        distance = np.abs(x_batch - self.x).reshape(len(x_batch), -1).sum(1) + of_weights
        sign = -1.0 if self.score_direction is ScoreDirection.HIGHER else 1.0
        return [float(sign * d) for d in distance]


def _fixed(module: Any) -> Any:
    """Return MetaEvaluation as it is with its proposed fix: it compares with the two texts."""

    class Fixed(module.MetaEvaluation):
        @staticmethod
        def compute_iec_adversary(Q_star, Q_hat, indices, score_direction):  # noqa: N803
            assert score_direction in ("higher", "lower")
            star, hat = Q_star[:, indices], Q_hat[:, indices]
            worse = star < hat if score_direction == "lower" else star > hat
            return float(worse.mean())

    return Fixed


@pytest.mark.parametrize("is_fixed", [False, True], ids=["released", "proposed fix"])
@pytest.mark.parametrize("direction", ScoreDirection)
def test_adversaries_are_worse_in_the_right_direction(metaquantus, direction, is_fixed):
    given = problem("image")
    metric = Known(given, direction)
    kind = _fixed(metaquantus) if is_fixed else metaquantus.MetaEvaluation
    evaluation = kind(
        test_suite=suite(metaquantus),
        xai_methods=METHODS,
        iterations=1,
        nr_perturbations=2,
        explain_func=by_gradient,
        write_to_file=False,
    )
    evaluation(estimator=metric, **given.arguments(), score_direction=score_direction(metric))
    for kind in ("Model", "Input"):
        found = evaluation.results_meta_consistency_scores[kind]["consistency_scores"]
        assert found["IEC_{AR}"] == pytest.approx(1)
    # What it must not be read as gives the opposite.
    other = "lower" if direction is ScoreDirection.HIGHER else "higher"
    opposite = evaluation.run_inter_analysis(score_direction=score_direction(other))
    assert np.max(opposite["Model Adversary Test"]) == 0


@pytest.mark.filterwarnings("ignore")
def test_benchmarking_all_metrics(metaquantus):
    given = problem("image")
    estimators = {
        name: {"init": metric, "score_direction": score_direction(metric)}
        for name, metric in small_metrics().items()
    }
    benchmark = metaquantus.MetaEvaluationBenchmarking(
        master=metaquantus.MetaEvaluation(
            test_suite=suite(metaquantus),
            xai_methods={name: QUANTUS_METHODS[name] for name in ("Gradient", "Saliency")},
            iterations=1,
            nr_perturbations=2,
            write_to_file=False,
        ),
        estimators={"All": estimators},
        experimental_settings={
            "quarters": {
                "models": {"net": given.model},
                "gc_layers": {"net": None},
                "x_batch": given.x,
                "y_batch": given.y,
                "s_batch": planted(given.x),
            }
        },
        keep_results=True,
        softmax=True,
    )
    found = benchmark()["quarters"]["net"]["All"]
    assert list(found) == list(estimators)
    for name, results in found.items():
        kinds = results["results_meta_consistency_scores"]
        assert set(kinds) == {"Model", "Input"}
        for result in kinds.values():
            assert 0 <= result["MC_mean"] <= 1, name
    # As they are: one column a metric.
    axes = plot_area(found)
    assert [axis.get_title().splitlines()[0] for axis in axes] == list(estimators)


@pytest.mark.filterwarnings("ignore")
def test_one_training_for_each_distinct_model(metaquantus, monkeypatch):
    given = problem("image")
    trained: list[nn.Module] = []

    def counted(model: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        trained.append(model)
        return training.train(model, *arguments, **keywords)

    monkeypatch.setattr(tuner, "train", counted)
    cache.clear_memory()
    fine_tune = FineTuner(given.x_train, given.y_train, epochs=1, display_progressbar=False)
    metric = FFidelity([0.1, 0.3], fine_tune=fine_tune, n_samples=2)
    calls = []
    monkeypatch.setattr(
        FFidelity,
        "__call__",
        lambda self, *a, _call=FFidelity.__call__, **k: calls.append(1) or _call(self, *a, **k),
    )
    name = "Model Resilience Test"
    evaluation = metaquantus.MetaEvaluation(
        test_suite={name: suite(metaquantus)[name]},
        xai_methods=QUANTUS_METHODS,
        iterations=1,
        nr_perturbations=5,
        write_to_file=False,
    )
    evaluation(estimator=metric, **given.arguments(), score_direction=score_direction(metric))
    assert len(calls) == (1 + 5) * 3
    assert len(trained) == 1 + 5


def f_fidelity(given: Problem, epochs: int = 20) -> FFidelity:
    """Return an F-Fidelity that has enough training to heal what was perturbed."""
    fine_tune = FineTuner(
        given.x_train, given.y_train, epochs=epochs, lr=0.02, display_progressbar=False
    )
    return FFidelity([0.1, 0.3], fine_tune=fine_tune, n_samples=2)


@pytest.mark.filterwarnings("ignore")
def test_tuning_that_heals_a_perturbed_model_is_said_to(metaquantus):
    given = problem("image")
    for kind, is_healed in (("Resilience", False), ("Adversary", True)):
        metric = f_fidelity(given)
        name = f"Model {kind} Test"
        evaluation = metaquantus.MetaEvaluation(
            test_suite={name: suite(metaquantus)[name]},
            xai_methods=METHODS,
            iterations=1,
            nr_perturbations=3,
            explain_func=by_gradient,
            write_to_file=False,
        )
        evaluation(estimator=metric, **given.arguments(), score_direction=score_direction(metric))
        found = healing(metric)
        assert found.calls == (1 + 3) * 2
        if is_healed:
            # Never the original, which needs no healing.
            assert 0 < found.healed <= 3 * 2
            assert found.accuracy_before < 0.7 < 0.9 < found.accuracy_after
            assert f"healed the model in {found.healed} of 8 calls" in str(found)
            assert "healed the model" in next(h.verdict for h in metric.healths if h.is_healed)
        else:
            assert found.healed == 0
            assert np.isnan([found.accuracy_before, found.accuracy_after]).all()
            assert str(found) == "Tuning healed no model: 8 calls."


def test_healing_of_something_else():
    with pytest.raises(TypeError, match="metric must be an FFidelity"):
        healing(Infidelity())
    with pytest.raises(ValueError, match="metric must have been called"):
        healing(FFidelity())
