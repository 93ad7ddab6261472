"""QGE around hand-made, Quantus's and this package's metrics."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import quantus
import torch
from quantus.helpers import asserts
from quantus.helpers import utils as quantus_utils
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric
from scipy.integrate import trapezoid
from torch import nn

from quantus_ext import (
    ABPC,
    QGE,
    ROAR,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    MoRF,
    PScore,
    RFidelity,
    SynScore,
    foreign,
)
from tests.cases import CASES
from tests.harness import make_inputs, rows_seen
from tests.metrics import quantus_metrics
from tests.metrics.quantus_metrics import CURVE, ENTRIES, LAYERS, ONE, Entry, N, gradients
from tests.reference import qge

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning",
    "ignore::DeprecationWarning",
    # A single epoch on six digits.
    "ignore:training lowered the accuracy:RuntimeWarning",
)

WEIGHTS = [4.0, 2.0, 1.0, 0.0]


def linear(*weights: float) -> nn.Module:
    """The first class's output is the weighted sum of the inputs, the other's 0."""
    model = nn.Linear(len(weights), 2, bias=False)
    model.weight.data = torch.tensor([list(weights), [0.0] * len(weights)])
    return model.eval()


def inverses(maps: np.ndarray, elements: Any = qge.single_values) -> np.ndarray:
    return np.stack(
        [qge.inverse(map_, index, elements=elements(map_)) for index, map_ in enumerate(maps)]
    )


def ones(n: int, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((n, width)), np.zeros(n, dtype=int)


# By hand.


def test_by_hand_where_higher_is_better():
    # Half of the relevance 4 + 3 + 2 + 1 lies in the mask; the inverse has 1 + 4 there.
    a, s = np.array([[[4.0, 3.0], [2.0, 1.0]]]), np.array([[[[1, 0], [0, 1]]]])
    metric = QGE(quantus.RelevanceMassAccuracy())
    x = np.ones((1, 1, 2, 2))
    model = nn.Sequential(nn.Flatten(), linear(*WEIGHTS)).eval()
    assert metric(model, x, np.array([0]), a, s, channel_first=True) == pytest.approx([0.0])
    s = np.array([[[[1, 1], [0, 0]]]])
    assert metric(model, x, np.array([0]), a, s, channel_first=True) == pytest.approx([0.7 - 0.3])
    assert metric.score_direction is ScoreDirection.HIGHER


def test_by_hand_where_lower_is_better():
    # Removing 4, 2, 1, 0 leaves 3, 1, 0, 0; removing 0, 1, 2, 4 leaves 7, 6, 4, 0.
    metric = QGE(quantus.PixelFlipping(perturb_baseline=0.0, normalise=False))
    x, y = ones(1)
    arguments = (linear(*WEIGHTS), x, y, np.array([WEIGHTS]))
    assert metric(*arguments, softmax=False) == pytest.approx([17 / 4 - 4 / 4])
    assert metric.details["score"] == pytest.approx([1.0])
    assert metric.details["reference"] == pytest.approx([17 / 4])
    np.testing.assert_allclose(metric.details["score_curve"], [[3, 1, 0, 0]])
    np.testing.assert_allclose(metric.details["reference_curve"], [[7, 6, 4, 0]])
    as_written = QGE(quantus.PixelFlipping(perturb_baseline=0.0, normalise=False), signed=False)
    assert as_written(*arguments, softmax=False) == pytest.approx([4 / 4 - 17 / 4])
    assert as_written.score_direction is ScoreDirection.LOWER
    assert metric.score_direction is ScoreDirection.HIGHER


def test_by_hand_around_a_metric_of_this_package():
    # x·e = 1·4 + 2·2 + 3·1 is what replacing all by 0 takes; the inverse says 1·1 + 2·2 + 3·4.
    metric = QGE(Infidelity(scheme="all", perturb_baseline=0.0))
    x, a = np.array([[1.0, 2.0, 3.0]]), np.array([[4.0, 2.0, 1.0]])
    assert metric(linear(4.0, 2.0, 1.0), x, np.array([0]), a) == pytest.approx([(17 - 11) ** 2])
    # Of one way to perturb, any map of the right sign could be rescaled to fit.
    assert np.isnan(metric.details["score_faithfulness"]).all()
    assert metric.details["score_infidelity"] == pytest.approx([0.0])
    assert metric.details["reference_scale"] == pytest.approx([11 / 17])
    assert metric.standard_errors == pytest.approx([0.0])


def test_a_value_swap_is_no_sign_flip():
    # Relevance mass divides by the sum, so a flipped sign cancels; the swap moves the mass.
    a, s = np.array([[[4.0, 3.0], [2.0, 0.0]]]), np.array([[[[1, 0], [0, 0]]]])
    model = nn.Sequential(nn.Flatten(), linear(*WEIGHTS)).eval()
    gaps = {
        kind: QGE(quantus.RelevanceMassAccuracy(), kind)(
            model, np.ones((1, 1, 2, 2)), np.array([0]), a, s, channel_first=True
        )
        for kind in ("inverse", "negated")
    }
    assert gaps["inverse"] == pytest.approx([4 / 9 - 0])
    assert gaps["negated"] == pytest.approx([0.0])


def test_a_value_swap_is_no_rescaling():
    # Pixel-Flipping sees ranks alone: any increasing function of the map would leave no gap.
    a = np.array([[0.1, 0.2, 0.4, 0.8], [0.8, 0.4, 0.2, 0.1], [80.0, 4.0, 0.2, -1.0]])
    metric = QGE(quantus.PixelFlipping(perturb_baseline=0.0, normalise=False))
    scores = metric(linear(*WEIGHTS), *ones(3), a, softmax=False)
    assert scores == pytest.approx([-13 / 4, 13 / 4, 13 / 4])


# What the metric ranks is what is turned round.


def images(n: int = 6) -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """A network on three channels of 8×8, and maps whose first channel dominates."""
    generator = np.random.default_rng(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double().eval()
    x = generator.normal(size=(n, 3, 8, 8))
    a = generator.normal(size=x.shape) * np.array([1.0, 0.02, 0.02])[:, None, None]
    return model, x, np.arange(n) % 3, a


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patch_size": 4},
        # Cut at the borders.
        {"patch_size": 3},
        {"element": "channel_value"},
        {"element": "segment"},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["dominated", "squared"])
def test_the_inverses_most_relevant_first_is_the_maps_least_relevant_first(settings, form):
    model, x, y, a = images()
    if form == "squared":
        a = a**2
    s = np.random.default_rng(0).choice([1, 2, 2, 3, 5, 8, 9], (len(x), 8, 8))
    arguments = (model, x, y, a, s if settings.get("element") == "segment" else None)
    gap = QGE(MoRF(6, **settings))(*arguments)
    area = ABPC(6, **settings)(*arguments)
    np.testing.assert_allclose(gap, area, rtol=1e-12, atol=1e-15)
    assert np.abs(area).min() > 1e-4


def test_a_linear_models_gap_by_hand_where_a_channel_dominates():
    # Two pixels of two channels; their sums are 3 and 1, the single values say nothing of that.
    model = linear(1.0, 0.0, 2.0, 0.0)
    x, a = np.ones((1, 2, 1, 2)), np.array([[[[9.0, 9.0]], [[-6.0, -8.0]]]])
    model = nn.Sequential(nn.Flatten(), model).eval()
    # The first pixel holds all: 3, 0, 0 as it goes first, 3, 3, 0 as it goes last.
    scores = QGE(MoRF(2))(model, x, np.array([0]), a, softmax=False, channel_first=True)
    assert scores == pytest.approx([(0 + 3 + 3) / 3 - (0 + 0 + 3) / 3])


def test_infidelity_and_syn_score_keep_the_channels_of_a_pixel_together():
    model, x, y, a = images()
    turned = inverses(a, qge.positions)
    for inner in (Infidelity(perturb_patch_sizes=[2], n_perturb_samples=9), SynScore()):
        s = np.random.default_rng(0).random((len(x), 8, 8)) < 0.3
        metric = QGE(inner)
        metric(model, x, y, a, s)
        expected = inner(model, x, y, turned, s)
        np.testing.assert_allclose(metric.details["reference"], expected, rtol=1e-9)


def test_random_orders_are_of_elements():
    model, x, y, a = images()
    metric = QGE(MoRF(4, patch_size=4), "random", 3)
    metric(model, x, y, a)
    patches = qge.grouped(a[0], qge.patch_ids((8, 8), 4))
    for draw, scores in enumerate(metric.details["references"].T):
        made = [qge.permuted(m, i, draw=draw, elements=patches) for i, m in enumerate(a)]
        expected = MoRF(4, patch_size=4)(model, x, y, np.stack(made))
        np.testing.assert_allclose(scores, expected, rtol=1e-9)


# Every metric of Quantus, on a trained network.


def make(name: str, **keywords: Any) -> Metric[Any]:
    return ENTRIES[name].make(**keywords)


def prepared(metric: Metric[Any], maps: np.ndarray) -> np.ndarray:
    maps = metric.normalise_func(maps) if metric.normalise else maps
    return np.abs(maps) if metric.abs else maps


def reduced(result: Any) -> np.ndarray:
    if isinstance(result, dict):
        return np.mean([np.asarray(column, float) for column in result.values()], axis=0)
    if len(result) == 1 and np.ndim(result[0]) == 2:
        result = result[0]
    return np.array([np.mean(np.asarray(item, float)) for item in result])


def by_hand(entry: Entry, seed: int, *, invert: bool) -> np.ndarray:
    """Call the metric as it is; or on inverted maps, those that it makes itself included."""
    problem, own = quantus_metrics.problem(), entry.make()
    arguments = problem.arguments(**entry.call)
    metric = own
    if invert:
        metric = entry.make(abs=False, normalise=False)
        arguments["a_batch"] = inverses(prepared(own, problem.a))
        arguments["explain_func"] = lambda **keywords: inverses(
            prepared(own, gradients(**keywords))
        )
    metric.return_aggregate = False
    if isinstance(metric, quantus.ROAD):
        metric.custom_postprocess = lambda **_: None
    if "s_batch" not in inspect.signature(metric.__call__).parameters:
        del arguments["s_batch"]
    foreign.seed_global_generators(seed)
    # Some of Quantus's metrics call numpy.trapz, which numpy 2.4 removed.
    with mock.patch.object(np, "trapz", trapezoid, create=True):
        if not entry.alone:
            return reduced(metric(**arguments))
        batches = [
            name for name in ("x_batch", "y_batch", "a_batch", "s_batch") if name in arguments
        ]
        return np.concatenate(
            [
                reduced(metric(**{**arguments, **{n: arguments[n][i : i + 1] for n in batches}}))
                for i in range(N)
            ]
        )


def test_the_registry_has_every_metric():
    assert list(ENTRIES) == quantus_metrics.names()
    assert len(ENTRIES) == 37


def test_the_docs_have_the_registrys_table():
    page = Path(__file__).parents[2] / "docs" / "qge.md"
    assert quantus_metrics.markdown_table() in page.read_text()


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if not entry.error])
def test_every_quantus_metric(name: str, monkeypatch: pytest.MonkeyPatch):
    entry, problem, states, explained = ENTRIES[name], quantus_metrics.problem(), [], []
    seed_by = foreign.seed_global_generators
    monkeypatch.setattr(
        foreign, "seed_global_generators", lambda seed: states.append(seed) or seed_by(seed)
    )

    def explain(**keywords: Any) -> np.ndarray:
        explained.append(len(keywords["inputs"]))
        return gradients(**keywords)

    metric = QGE(entry.make())
    with rows_seen(problem.model) as seen:
        scores = metric(**problem.arguments(explain_func=explain, **entry.call))

    assert len(scores) == N
    assert np.isfinite(scores).all()
    assert metric.n_evaluations == sum(map(len, seen))
    assert ("score_curve" in metric.details) == (entry.gives in {CURVE, LAYERS})
    assert entry.gives in {ONE, CURVE, LAYERS}
    sign = 1 if metric.direction is ScoreDirection.HIGHER else -1
    gap = sign * (metric.details["score"] - metric.details["reference"])
    np.testing.assert_allclose(scores, gap)
    if entry.always_zero:
        np.testing.assert_allclose(scores, 0, atol=1e-6)
    assert len(set(states)) == (N if entry.alone else 1)

    np.testing.assert_allclose(
        metric.details["score"], by_hand(entry, states[0], invert=False), rtol=1e-5
    )
    # Smooth MPRT explains by itself, past explain_func.
    if name == "Smooth MPRT":
        assert not explained
    else:
        assert bool(explained) == entry.explains_again
        np.testing.assert_allclose(
            metric.details["reference"], by_hand(entry, states[0], invert=True), rtol=1e-5
        )


AREAS = {
    "IROF": Entry(quantus.IROF, alone=True),
    "Pixel-Flipping": Entry(partial(quantus.PixelFlipping, return_auc_per_sample=True)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", AREAS)
@pytest.mark.parametrize("has_trapz", [True, False])
def test_areas_are_the_same_on_any_numpy(name, has_trapz, monkeypatch):
    entry, problem, own = AREAS[name], quantus_metrics.problem(), quantus_utils.calculate_auc
    metric = QGE(entry.make())
    with monkeypatch.context() as patched:
        patched.delattr(np, "trapz", raising=False)
        if has_trapz:
            patched.setattr(np, "trapz", trapezoid, raising=False)
        metric(**problem.arguments())
        assert hasattr(np, "trapz") == has_trapz
    assert quantus_utils.calculate_auc is own
    for which, invert in {"score": False, "reference": True}.items():
        expected = by_hand(entry, 0, invert=invert)
        np.testing.assert_allclose(metric.details[which], expected, rtol=1e-5)


def test_what_is_not_per_sample_is_refused():
    for name, entry in ENTRIES.items():
        if entry.error:
            with pytest.raises(ValueError, match=entry.error):
                QGE(make(name))


def shown_modules(model: nn.Module) -> dict[str, str]:
    """Everything that modules hold, hooks included, as text: their dicts change in place."""
    return {path: repr(vars(module)) for path, module in model.named_modules()}


def tuner() -> FineTuner:
    problem = quantus_metrics.problem()
    return FineTuner(problem.x, problem.y, epochs=1, display_progressbar=False)


def tuned() -> FFidelity:
    return FFidelity([0.25, 0.5], n_samples=2, fine_tune=tuner())


def retrained(**settings: Any) -> ROAR:
    return ROAR(tuner(), quantus_metrics.problem().a, [0.25, 0.5], **settings)


def test_nothing_of_the_callers_changes_around_any_metric():
    problem = quantus_metrics.problem()
    keywords: dict[str, Any] = {}
    names = ("Pixel-Flipping", "Max-Sensitivity", "Complexity", "Efficient MPRT", "ROAD")
    for metric in (*map(make, names), tuned(), retrained(), QGE(tuned())):
        metric.evaluation_scores = metric.all_evaluation_scores = ["kept"]
        before, shown = dict(vars(metric)), repr(vars(metric))
        arguments = problem.arguments(
            explain_func_kwargs=keywords, model_predict_kwargs=keywords, device="cpu"
        )
        arrays = {key: arguments[key].copy() for key in ("x_batch", "y_batch", "a_batch")}
        modules = shown_modules(problem.model)
        states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
        QGE(metric)(**arguments)
        assert all(vars(metric)[key] is value for key, value in before.items())
        assert repr(vars(metric)) == shown
        assert keywords == {}
        for key, array in arrays.items():
            np.testing.assert_array_equal(arguments[key], array)
        assert shown_modules(problem.model) == modules
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tobytes() == states[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), states[2])


def test_what_the_copy_keeps_of_the_call_can_be_read():
    problem = quantus_metrics.problem()
    metric = QGE(tuned())
    assert metric.inner is None
    metric(**problem.arguments())
    assert metric.inner.health is not None
    assert metric.metric.health is None
    metric = QGE(retrained())
    metric(**problem.arguments())
    assert len(metric.inner.reports) == 1
    assert pickle.loads(pickle.dumps(metric)).inner.reports == metric.inner.reports


def test_one_model_answers_for_roar():
    with pytest.raises(ValueError, match=r'retrain="once", has retrain=.per_sparsity'):
        QGE(retrained(retrain="per_sparsity", output="probability"))


def test_maps_that_the_metric_trains_on_are_prepared_alike():
    problem = quantus_metrics.problem()
    prepared = {"abs": True, "normalise": True, "normalise_func": np.negative}
    metric = QGE(retrained(output="probability"), **prepared)
    metric(**problem.arguments())
    expected = retrained(output="probability", **prepared)(**problem.arguments())
    np.testing.assert_allclose(metric.details["score"], expected, rtol=1e-6)
    assert not np.allclose(expected, retrained(output="probability")(**problem.arguments()))


def test_the_gap_turns_round_with_the_explanation():
    # On maps without ties: the inverse's inverse is the map.
    problem = quantus_metrics.problem()
    flipped = inverses(problem.a)
    for inner in (
        quantus.PixelFlipping(abs=False, normalise=False, features_in_step=16),
        quantus.TopKIntersection(k=30, abs=False),
        Infidelity(scheme="all", perturb_baseline=0.0),
        Infidelity(n_perturb_samples=20),
    ):
        gap = QGE(inner)(**problem.arguments())
        np.testing.assert_allclose(
            QGE(inner)(**problem.arguments(a_batch=flipped)), -np.array(gap), rtol=1e-4, atol=1e-6
        )
        assert np.abs(gap).min() > 0


def test_qge_of_qge_is_twice_the_gap():
    problem = quantus_metrics.problem()
    for inner in (
        quantus.PixelFlipping(features_in_step=16, abs=False, normalise=False),
        Infidelity(n_perturb_samples=20),
    ):
        once = QGE(inner)(**problem.arguments())
        nested = QGE(QGE(inner))
        np.testing.assert_allclose(
            nested(**problem.arguments()), 2 * np.array(once), rtol=1e-4, atol=1e-6
        )


def test_nested_random_metrics_are_paired_and_have_no_error():
    # Each inner gap of the inverse is the gap turned round, if and only if the draws are shared.
    problem = quantus_metrics.problem()
    inner = quantus.FaithfulnessCorrelation(subset_size=32, nr_runs=10, normalise=False, abs=False)
    gaps = []
    for seed in (0, None, None):
        metric = QGE(QGE(inner, seed=seed))
        gaps.append(metric(**problem.arguments(batch_size=4)))
        assert np.isnan(metric.standard_errors).all()
        np.testing.assert_allclose(metric.details["score"], -metric.details["reference"])
    assert gaps[1] != gaps[2]
    assert metric.metric.seed is None
    fixed = QGE(QGE(quantus.PixelFlipping(perturb_baseline=0.0, features_in_step=64)))
    fixed(**problem.arguments())
    assert (fixed.standard_errors == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_metrics_of_this_package_go_in_one_pass(name: str):
    case = CASES[name]
    inputs, inner = make_inputs(case.modalities[0]), case.metric()
    if isinstance(inner, ROAR):
        inner.retrain = "once"
    metric = QGE(inner)
    scores = inputs.call(metric)
    by_itself = inputs.call(inner)
    own_spaces = inner.details["space"]
    # PScore compares values by values, everything else ranks or perturbs positions.
    elements = qge.single_values if isinstance(inner, PScore) else qge.positions
    of_inverse = inputs.call(inner, a_batch=inverses(inputs.a, elements))
    np.testing.assert_allclose(metric.details["score"], by_itself, rtol=1e-9)
    np.testing.assert_allclose(metric.details["reference"], of_inverse, rtol=1e-9)
    sign = 1 if inner.score_direction is ScoreDirection.HIGHER else -1
    np.testing.assert_allclose(scores, sign * (by_itself - of_inverse), rtol=1e-7, atol=1e-9)
    asked = inner.n_evaluations
    assert metric.n_evaluations <= max(2 * asked - len(inputs.x), 0)
    is_known = (inner.standard_errors == 0).all()
    assert np.array_equal(
        metric.standard_errors, np.full(len(scores), 0.0 if is_known else np.nan), True
    )
    assert metric.default_softmax == inner.default_softmax
    np.testing.assert_allclose(metric.details["space"], own_spaces, rtol=1e-9)
    for detail, values in inner.details.items():
        if detail == "space":
            continue
        name = "flags" if detail == "flags" else f"reference_{detail}"
        np.testing.assert_allclose(metric.details[name], values, rtol=1e-9)


def test_own_draws_follow_the_inner_seed_and_ties_the_outer():
    inputs = make_inputs("table")
    tied = np.round(inputs.a)

    def gaps(inner_seed: int | None, seed: int | None) -> np.ndarray:
        inner = Infidelity(n_perturb_samples=10, perturb_baseline=0.0, seed=inner_seed)
        return inputs.call(QGE(inner, seed=seed), a_batch=tied)

    np.testing.assert_array_equal(gaps(0, 0), gaps(0, 0))
    assert not np.array_equal(gaps(0, 0), gaps(1, 0))
    assert not np.array_equal(gaps(0, 0), gaps(0, 1))
    assert not np.array_equal(gaps(None, 0), gaps(None, 0))
    assert not np.array_equal(gaps(0, None), gaps(0, None))


def test_many_references_go_in_blocks(monkeypatch: pytest.MonkeyPatch):
    inputs, rows = make_inputs("table"), []
    whole = QGE(RFidelity([0.5], n_samples=3, seed=None), "random", 8, seed=5)
    whole.metric.seed = 4
    expected = inputs.call(whole)
    evaluate = RFidelity.evaluate_batch

    def spied(metric: RFidelity, forward: Any, batch: Any) -> Any:
        rows.append(len(batch.maps))
        return evaluate(metric, forward, batch)

    monkeypatch.setattr(RFidelity, "evaluate_batch", spied)
    monkeypatch.setattr("quantus_ext.metrics.qge._MAP_BYTES", 3 * inputs.a.nbytes)
    inner = RFidelity([0.5], n_samples=3, seed=4)
    metric = QGE(inner, "random", 8, seed=5)
    np.testing.assert_allclose(inputs.call(metric), expected, rtol=1e-6)
    assert rows == [3, 3, 3]
    for name, values in whole.details.items():
        np.testing.assert_allclose(metric.details[name], values, rtol=1e-6)
    # Draws are shared by all blocks where the seed is fresh, too.
    monkeypatch.setattr("quantus_ext.engine.sampling.fresh_seed", lambda: rows.append(0) or 4)
    inner.seed = None
    np.testing.assert_allclose(inputs.call(metric), expected, rtol=1e-6)
    assert rows.count(0) == 1


def test_standard_errors_of_references_are_not_averaged():
    inputs = make_inputs("table")
    for count in (1, 2):
        metric = QGE(RFidelity([0.5], n_samples=3), "random", count)
        inputs.call(metric)
        assert ("reference_error_plus" in metric.details) == (count == 1)
        assert "score_error_plus" in metric.details


def test_the_inner_chunk_size_holds():
    inputs = make_inputs("table")
    for metric in (
        QGE(Infidelity(n_perturb_samples=50, chunk_size=4)),
        QGE(QGE(Infidelity(n_perturb_samples=50, chunk_size=4))),
        QGE(Infidelity(n_perturb_samples=50), chunk_size=4),
    ):
        with rows_seen(inputs.model) as seen:
            inputs.call(metric)
        assert max(map(len, seen)) == 4


def test_random_references_are_averaged_and_give_the_standard_error():
    problem = quantus_metrics.problem()
    inner = quantus.TopKIntersection(k=30, abs=False, normalise=False)
    metric = QGE(inner, "random", n_references=5)
    scores = metric(**problem.arguments())
    own = np.array(inner(**problem.arguments(explain_func=None)))
    references = []
    for draw in range(5):
        a = np.stack([qge.permuted(map_, i, draw=draw) for i, map_ in enumerate(problem.a)])
        references.append(inner(**problem.arguments(a_batch=a, explain_func=None)))
    np.testing.assert_allclose(scores, own - np.mean(references, 0), rtol=1e-6)
    np.testing.assert_allclose(metric.standard_errors, np.std(references, 0, ddof=1) / 5**0.5)
    single = QGE(inner, "random")
    single(**problem.arguments())
    assert np.isnan(single.standard_errors).all()


def test_deterministic_metrics_do_not_depend_on_batches_and_random_ones_not_on_splits():
    problem = quantus_metrics.problem()
    whole = QGE(make("Pixel-Flipping"))(**problem.arguments())
    for batch_size in (1, 4):
        again = QGE(make("Pixel-Flipping"))(**problem.arguments(batch_size=batch_size))
        np.testing.assert_allclose(again, whole, rtol=1e-4, atol=1e-6)
    metric = QGE(quantus.FaithfulnessCorrelation(subset_size=32, nr_runs=20, normalise=False))
    whole = metric(**problem.arguments(batch_size=2))
    part = {k: v[2:6] for k, v in problem.arguments().items() if k.endswith("_batch")}
    split = metric(
        **problem.arguments(**part, batch_size=2, index_batch=np.arange(2, 6), explain_func=None)
    )
    np.testing.assert_array_equal(split, whole[2:6])
    assert np.isnan(metric.standard_errors).all()
    fresh = QGE(quantus.FaithfulnessCorrelation(subset_size=32, nr_runs=20), seed=None)
    assert fresh(**problem.arguments()) != fresh(**problem.arguments())


def test_maps_keep_their_precision():
    problem = quantus_metrics.problem()
    order = np.random.default_rng(0).permuted(np.tile(np.arange(256.0), (N, 1)), axis=1)
    a = 1 + 1e-9 * order.reshape(problem.a.shape)
    inner = quantus.TopKIntersection(k=30, abs=False, normalise=False)
    metric = QGE(inner)
    metric(**problem.arguments(a_batch=a))
    assert metric.details["score"].tolist() == inner(**problem.arguments(a_batch=a))


def test_the_model_is_asked_by_the_metric_alone():
    problem = quantus_metrics.problem()
    metric = QGE(quantus.TopKIntersection(k=30))
    expected = metric(**problem.arguments())
    assert metric.n_evaluations == 0
    assert metric(**problem.arguments(batch_size=4)) == expected
    assert metric.n_evaluations == 0
    y = problem.y.copy()
    y[5] = 12
    with pytest.raises(ValueError, match=r"labels in y_batch must be below 10, .* sample 5 has 12"):
        QGE(make("Pixel-Flipping"))(**problem.arguments(y_batch=y, batch_size=4))
    one = nn.Sequential(nn.Flatten(), nn.Linear(256, 1)).eval()
    with pytest.raises(ValueError, match="softmax must be False where the model has one output"):
        QGE(make("Pixel-Flipping"))(
            **problem.arguments(model=one, y_batch=0 * problem.y, softmax=True)
        )


UNASKED = (
    *("Pointing Game", "Top-K Intersection", "Relevance Mass Accuracy", "Relevance Rank Accuracy"),
    *("Attribution Localisation ", "AUC", "Focus", "Sparseness", "Complexity"),
    "Effective Complexity",
)
"""Names of Quantus's metrics that ask no model."""


class Refuses(nn.Module):
    """Takes no input at all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked")


@pytest.mark.parametrize("name", list(ENTRIES))
def test_no_model_is_needed_where_the_metric_asks_none(name: str):
    entry, problem = ENTRIES[name], quantus_metrics.problem()
    if entry.error:
        return
    call = problem.arguments(**entry.call)
    if name not in UNASKED:
        with pytest.raises(
            TypeError, match=r"model must be a torch.nn.Module (for|if) .*, is None"
        ):
            QGE(entry.make())(**{**call, "model": None})
        return
    metric = QGE(entry.make())
    expected = metric(**call)
    for model in (None, Refuses().eval()):
        assert metric(**{**call, "model": model}) == expected
        assert metric.n_evaluations == 0
    with pytest.raises(TypeError, match="a_batch must hold attributions where model is None"):
        metric(**{**call, "model": None, "a_batch": None})
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module for QGE .*, is None"):
        metric(**{**call, "model": None, "y_batch": None})


def test_no_model_is_needed_for_a_planted_truth():
    problem = quantus_metrics.problem()
    for metric in (SynScore(), QGE(SynScore()), QGE(QGE(SynScore()))):
        call = problem.arguments()
        expected = metric(**call)
        assert metric.n_evaluations == 0
        for model in (None, Refuses().eval()):
            for y in (problem.y, None):
                assert metric(**{**call, "model": model, "y_batch": y}) == expected
        with pytest.raises(TypeError, match="a_batch must hold attributions where model is None"):
            metric(**{**call, "model": None, "a_batch": None})
    for other in (Fidelity(), Infidelity(), QGE(Fidelity())):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, is NoneType"):
            other(**{**call, "model": None})


def test_maps_without_an_order_score_alike_for_any_batch():
    problem, strict = quantus_metrics.problem(), asserts.assert_attributions
    a = problem.a.copy()
    a[2], a[3], a[4], a[5] = 0, 1, 0.5, -np.abs(a[5])
    settings = {"abs": False, "normalise": False}

    def zeros_again(**keywords: Any) -> np.ndarray:
        return gradients(**keywords) * 0

    for metric, more in (
        (make("Pixel-Flipping", **settings), {"a_batch": a}),
        (make("Pixel-Flipping"), {"a_batch": a}),
        (make("Pixel-Flipping"), {"a_batch": None, "explain_func": zeros_again}),
        (QGE(make("Pixel-Flipping", **settings)), {"a_batch": a}),
        (make("Top-K Intersection", **settings), {"a_batch": a}),
        (make("Max-Sensitivity", **settings), {"explain_func": zeros_again}),
        (make("Max-Sensitivity"), {"explain_func": zeros_again}),
    ):
        whole = QGE(metric)(**problem.arguments(**more))
        for batch_size in (1, 4):
            again = QGE(metric)(**problem.arguments(batch_size=batch_size, **more))
            np.testing.assert_allclose(again, whole, rtol=1e-4, atol=1e-6)
    assert asserts.assert_attributions is strict


def test_shapes_of_maps_made_again_are_checked():
    def too_wide(**keywords: Any) -> np.ndarray:
        return np.ones((len(keywords["inputs"]), 1, 16, 17))

    with pytest.raises(ValueError, match=r"MaxSensitivity refuses the batch of samples .* shapes"):
        QGE(make("Max-Sensitivity"))(**quantus_metrics.problem().arguments(explain_func=too_wide))


def test_a_map_made_again_that_is_nan_leaves_the_others_their_scores():
    problem = quantus_metrics.problem()

    def unknown(**keywords: Any) -> np.ndarray:
        maps = gradients(**keywords)
        maps[2] = np.nan
        return maps

    inner = quantus.MaxSensitivity(nr_samples=2, normalise=False)
    expected = QGE(inner)(**problem.arguments())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        scores = QGE(inner)(**problem.arguments(explain_func=unknown))
    known = np.arange(N) != 2
    np.testing.assert_allclose(np.array(scores)[known], np.array(expected)[known], rtol=1e-5)


@pytest.mark.parametrize(
    "give",
    [
        lambda maps: torch.tensor(maps, requires_grad=True),
        lambda maps: np.ascontiguousarray(maps[..., ::-1])[..., ::-1],
        lambda maps: maps.astype(np.float64),
    ],
    ids=["tensor", "strides", "float64"],
)
@pytest.mark.parametrize("normalise", [False, True])
def test_maps_made_again_come_in_any_form(give: Any, normalise: bool):
    problem = quantus_metrics.problem()
    inner = quantus.MaxSensitivity(nr_samples=2, normalise=normalise, abs=normalise)
    expected = QGE(inner)(**problem.arguments())
    for a in (problem.a, None):
        scores = QGE(inner)(
            **problem.arguments(a_batch=a, explain_func=lambda **k: give(gradients(**k)))
        )
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("compiled", ["script", "trace"])
def test_torchscript_models(compiled: str):
    problem = quantus_metrics.problem()
    if compiled == "script":
        model = torch.jit.script(problem.model)
    else:
        model = torch.jit.trace(problem.model, torch.from_numpy(problem.x))
    for inner in (make("Pixel-Flipping"), Infidelity(n_perturb_samples=4)):
        plain, metric = QGE(inner), QGE(inner)
        expected = plain(**problem.arguments())
        scores = metric(**problem.arguments(model=model))
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
        assert metric.n_evaluations == plain.n_evaluations


def test_maps_are_made_where_none_are_given():
    problem = quantus_metrics.problem()
    for name in ("Pixel-Flipping", "Max-Sensitivity", "MPRT"):
        given = QGE(make(name))(**problem.arguments())
        made = QGE(make(name))(**problem.arguments(a_batch=None))
        np.testing.assert_allclose(made, given, rtol=1e-5, atol=1e-6)


def test_smooth_mprt_makes_its_own_first_maps(monkeypatch: pytest.MonkeyPatch):
    problem, states, seed_by = quantus_metrics.problem(), [], foreign.seed_global_generators
    monkeypatch.setattr(
        foreign, "seed_global_generators", lambda seed: states.append(seed) or seed_by(seed)
    )
    metric, arguments = QGE(make("Smooth MPRT")), problem.arguments(a_batch=None)
    metric(**arguments)
    seed_by(states[0])
    np.testing.assert_allclose(
        metric.details["score"], reduced(make("Smooth MPRT")(**arguments)), rtol=1e-5
    )
    given = QGE(make("Smooth MPRT"))
    given(**problem.arguments())
    assert not np.allclose(given.details["score"], metric.details["score"])


def test_ties_in_maps_made_again_break_alike():
    # With the same places for the same ties a robust explanation stays robust when inverted.
    problem = quantus_metrics.problem()

    def coarse(**keywords: Any) -> np.ndarray:
        return np.round(gradients(**keywords) * 0 + problem.a, 1)

    metric = QGE(quantus.MaxSensitivity(nr_samples=2))
    arguments = problem.arguments(explain_func=coarse, a_batch=np.round(problem.a, 1))
    assert metric(**arguments) == [0.0] * N
    np.testing.assert_array_equal(metric.details["reference"], 0)


def test_a_sample_without_a_score_is_nan_and_warns():
    problem = quantus_metrics.problem()
    s = problem.s.copy()
    s[2] = False
    with pytest.warns(RuntimeWarning, match=r"samples \[2\] .*: their metric gives NaN"):
        scores = QGE(quantus.TopKIntersection(k=30))(**problem.arguments(s_batch=s))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [2]


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (quantus.RegionPerturbation(), ScoreDirection.HIGHER),
        (quantus.RegionPerturbation(order="lerf"), ScoreDirection.LOWER),
        (quantus.Consistency(), ScoreDirection.HIGHER),
        (quantus.IROF(), ScoreDirection.HIGHER),
        (quantus.ROAD(), ScoreDirection.LOWER),
        (Infidelity(), ScoreDirection.LOWER),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_direction(metric: Metric[Any], direction: ScoreDirection):
    assert QGE(metric).direction is direction
    assert QGE(metric, direction="lower").direction is ScoreDirection.LOWER
    assert QGE(metric, direction=ScoreDirection.HIGHER).direction is ScoreDirection.HIGHER
    assert QGE(QGE(metric)).direction is ScoreDirection.HIGHER
    assert QGE(QGE(metric, signed=False)).direction is direction


def test_direction_turns_the_gap():
    problem, inner = quantus_metrics.problem(), make("Pixel-Flipping")
    turned = QGE(inner, direction="higher")(**problem.arguments())
    np.testing.assert_allclose(turned, -np.array(QGE(inner)(**problem.arguments())))


def test_reduce():
    problem, inner = quantus_metrics.problem(), make("Pixel-Flipping")
    metric = QGE(inner, reduce=np.max)
    scores = metric(**problem.arguments())
    curves = metric.details["reference_curve"].max(1) - metric.details["score_curve"].max(1)
    np.testing.assert_allclose(scores, curves)
    with pytest.raises(ValueError, match="reduce must make one number of each of the 6 curves"):
        QGE(inner, reduce=lambda curves, axis: 1.0)(**problem.arguments())
    for one_number in (Fidelity(), QGE(inner)):
        with pytest.raises(
            ValueError, match=r"reduce is not used around .*, which returns one number"
        ):
            QGE(one_number, reduce=np.max)


def test_describes_its_metric():
    metric = QGE(quantus.AttributionLocalisation())
    assert metric.name == "QGE (Attribution Localisation)"
    assert metric.evaluation_category is quantus.AttributionLocalisation.evaluation_category
    assert metric.data_applicability == quantus.AttributionLocalisation.data_applicability
    assert metric.abs
    assert metric.normalise
    assert not QGE(quantus.AttributionLocalisation(), abs=False).abs


def test_normalisation_is_the_metrics_own_or_the_one_given():
    def scaled(maps: np.ndarray, by: float = 2.0) -> np.ndarray:
        return maps * by

    inner = Takes(normalise=True)
    inner.normalise_func = scaled
    one = np.ones(1)
    assert QGE(inner).normalise_func(one) == 2
    assert QGE(inner, normalise_func_kwargs={"by": 3.0}).normalise_func(one) == 3
    assert QGE(inner, normalise_func=np.negative).normalise_func(one) == -1


def test_who_says_how_to_normalise_wants_it():
    inputs = make_inputs("table")
    settings = {"normalise_func": lambda maps: 3 * maps}
    for make_one in (Infidelity, lambda **given: QGE(Infidelity(), **given)):
        expected = inputs.call(make_one(normalise=True, **settings))
        np.testing.assert_array_equal(inputs.call(make_one(**settings)), expected)
        plain = inputs.call(make_one(normalise=False, **settings))
        np.testing.assert_array_equal(plain, inputs.call(make_one()))
        assert not np.allclose(plain, expected)
    assert QGE(quantus.PixelFlipping(), normalise_func=None).normalise
    assert not QGE(Infidelity(), normalise_func_kwargs=None).normalise


def test_pickles_and_copies():
    problem = quantus_metrics.problem()
    metric = QGE(make("Pixel-Flipping"))
    scores = metric(**problem.arguments())
    for twin in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert twin(**problem.arguments()) == scores


class Returns(Metric[Any]):
    """A metric that returns what it is told."""

    name = "Returns"
    data_applicability = quantus.PixelFlipping.data_applicability
    model_applicability = quantus.PixelFlipping.model_applicability
    score_direction = ScoreDirection.HIGHER
    evaluation_category = quantus.PixelFlipping.evaluation_category

    def __init__(self, result: Any) -> None:
        super().__init__(False, False, None, None, True, np.mean, None, True, False)
        self.result = result

    def evaluate_batch(self, **data: Any) -> Any:
        return self.result


def with_first(item: Any) -> list[Any]:
    return [item, *[[1.0, 2.0]] * (N - 1)]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0, 2.0], "Returns gives 2 scores for 6 samples"),
        ([[1.0], [1.0, 2.0]] * 3, "curves of different lengths"),
        (with_first(0.5), "curves of different lengths"),
        (with_first("good"), "Returns's score of sample 0 must be a number .*, is 'good'"),
        (with_first({"a": 1}), "Returns's score of sample 0 must be a number .*, is {'a': 1}"),
        (with_first([1, [2, 3]]), r"Returns's score of sample 0 must .*, is \[1, \[2, 3\]\]"),
        (with_first([torch.ones((), requires_grad=True)] * 2), "Returns's score of sample 0 must"),
        ([1.0] * 5 + [1j], "Returns's score of sample 5 must be a number .*, is 1j"),
    ],
)
def test_results_that_do_not_compare(result: Any, message: str):
    with pytest.raises(ValueError, match=message):
        QGE(Returns(result))(**quantus_metrics.problem().arguments())


def test_results_of_other_kinds():
    problem = quantus_metrics.problem()
    for result in (
        [True] * N,
        [None, *[1] * (N - 1)],
        torch.ones(N),
        np.ones((N, 2, 3)),
        [torch.ones(2, requires_grad=True)] * N,
        with_first(np.nan),
        with_first(None),
    ):
        metric = QGE(Returns(result))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            scores = metric(**problem.arguments())
        assert np.nansum(scores) == 0
        assert len(scores) == N
    assert np.flatnonzero(np.isnan(scores)).tolist() == [0]


class Pooled(Returns):
    """A metric that returns what it is told, unlisted."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.result


@pytest.mark.parametrize("result", [None, 0.5, torch.tensor(1.0)], ids=str)
def test_results_that_are_no_list(result: Any):
    with pytest.raises(ValueError, match=r"Pooled gives .*, not a score for each of the 6 samples"):
        QGE(Pooled(result))(**quantus_metrics.problem().arguments())


@pytest.mark.parametrize("result", [{"layer": 0.5}, {}], ids=str)
def test_pooled_dicts_are_refused(result: Any):
    with pytest.raises(ValueError, match="Pooled gives a dict whose values are not one number"):
        QGE(Pooled(result))(**quantus_metrics.problem().arguments())
    with pytest.raises(ValueError, match="Pooled's 'layer' must be a number or a curve"):
        QGE(Pooled({"layer": {"of": 1}}))(**quantus_metrics.problem().arguments())


def test_calls_that_hand_their_arguments_on():
    class Handing(quantus.PixelFlipping):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            return super().__call__(*arguments, **keywords)

    problem = quantus_metrics.problem()
    expected = QGE(quantus.PixelFlipping(features_in_step=16))(**problem.arguments())
    assert QGE(Handing(features_in_step=16))(**problem.arguments()) == expected


def test_metrics_that_cannot_be_copied():
    inner = make("Pixel-Flipping")
    inner.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"metric must be one that copy.deepcopy .* PixelFlipping"):
        QGE(inner)(**quantus_metrics.problem().arguments())


def test_errors_count_the_samples_as_the_caller_does():
    problem = quantus_metrics.problem()
    ids = np.zeros((N, 8, 8), dtype=int)
    for inner in (Fidelity([0.5], element="segment"), SynScore()):
        with pytest.raises(ValueError, match=r"s_batch must .*\(6, .*16, 16\).* has \(6, 8, 8\)"):
            QGE(inner)(**problem.arguments(s_batch=ids))


def test_explanations_of_part_of_a_batch_need_single_batches():
    class OneByOne(Returns):
        def evaluate_batch(self, model: Any, x_batch: Any, y_batch: Any, **data: Any) -> Any:
            rows = zip(x_batch, y_batch, strict=True)
            return [self.explain_batch(model, x[None], np.array([y])).max() for x, y in rows]

    metric, problem = QGE(OneByOne(None)), quantus_metrics.problem()
    with pytest.raises(ValueError, match=r"asked for 1 maps within a batch of 6 .* batch_size=1"):
        metric(**problem.arguments())
    assert metric(**problem.arguments(batch_size=1)) == [0.0] * N


def test_maps_that_quantus_refuses_are_named():
    problem = quantus_metrics.problem()
    for a, message in (
        (np.zeros_like(problem.a), "all equal to zero"),
        (-np.abs(problem.a), "not all be less than zero"),
        (np.full_like(problem.a, 0.5), "uniformly distributed"),
    ):
        metric = QGE(quantus.TopKIntersection(k=3))
        for batch_size in (1, N):
            with pytest.raises(ValueError, match=f"TopKIntersection refuses a_batch: .*{message}"):
                metric(**problem.arguments(a_batch=a, batch_size=batch_size))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metric": quantus.PixelFlipping}, TypeError, "metric must be an instance of a Quantus"),
        ({"reference": "opposite"}, ValueError, "reference must be one of 'inverse', 'random'"),
        ({"n_references": 0}, ValueError, "n_references must be at least 1, is 0"),
        ({"n_references": 2}, ValueError, 'n_references above 1 needs reference="random", is 2'),
        ({"direction": "up"}, ValueError, "direction must be one of 'higher', 'lower', is 'up'"),
        ({"reduce": "mean"}, TypeError, "reduce must be callable, is 'mean'"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        QGE(**{"metric": quantus.PixelFlipping(), **arguments})


def test_a_metric_without_a_direction_needs_one():
    class Undirected(Returns):
        score_direction = None

    with pytest.raises(ValueError, match=r"direction must be given: Undirected.score_direction"):
        QGE(Undirected([0.0] * N))
    assert QGE(Undirected([0.0] * N), direction="higher").direction is ScoreDirection.HIGHER


def test_in_quantus_evaluate():
    problem = quantus_metrics.problem()
    results = quantus.evaluate(
        metrics={"gap": QGE(make("Pixel-Flipping")), "stable": QGE(make("Max-Sensitivity"))},
        xai_methods={"gradients": gradients},
        model=problem.model,
        x_batch=problem.x,
        y_batch=problem.y,
        s_batch=problem.s,
        explain_func_kwargs={},
        call_kwargs={"plain": {}},
    )
    expected = QGE(make("Pixel-Flipping"))(**problem.arguments())
    np.testing.assert_allclose(results["gradients"]["gap"], expected, rtol=1e-5)


def test_past_results_are_not_copied():
    class Heavy(list[float]):
        def __deepcopy__(self, memo: dict[int, object]) -> list[float]:
            raise AssertionError("past results are copied")

    problem, inner = quantus_metrics.problem(), make("Pixel-Flipping")
    scores = QGE(inner)(**problem.arguments())
    inner.evaluation_scores = inner.all_evaluation_scores = Heavy([1.0])
    assert QGE(inner)(**problem.arguments()) == scores
    assert inner.all_evaluation_scores == [1.0]


def test_masks_come_as_lists_too():
    problem = quantus_metrics.problem()
    for inner in (make("Pixel-Flipping"), Infidelity(n_perturb_samples=4)):
        expected = QGE(inner)(**problem.arguments())
        assert QGE(inner)(**problem.arguments(s_batch=[None] * N)) == expected
    expected = QGE(make("AUC"))(**problem.arguments())
    assert QGE(make("AUC"))(**problem.arguments(s_batch=list(problem.s))) == expected
    with pytest.raises(ValueError, match="s_batch must hold all segmentations or none, is None at"):
        QGE(make("AUC"))(**problem.arguments(s_batch=[*problem.s[1:], None]))


class Takes(Returns):
    """A metric that scores a map by its first value and writes into what it is given."""

    def __init__(self, **common: Any) -> None:
        super().__init__(None)
        self.abs, self.normalise = common.get("abs", False), common.get("normalise", False)
        self.normalise_func = lambda maps: 2 * maps + 1

    def evaluate_batch(self, x_batch: Any, y_batch: Any, a_batch: Any, s_batch: Any, **_: Any):
        scores = a_batch.reshape(len(a_batch), -1)[:, 0].tolist()
        for given in (x_batch, y_batch, a_batch, s_batch):
            given[:] = 0
        return scores


def test_what_a_metric_writes_into_is_not_the_callers():
    problem = quantus_metrics.problem()
    arguments = problem.arguments()
    metric = QGE(Takes())
    metric(**arguments)
    first = problem.a.reshape(N, -1)[:, 0]
    np.testing.assert_array_equal(metric.details["score"], first)
    np.testing.assert_array_equal(
        metric.details["reference"], inverses(problem.a).reshape(N, -1)[:, 0]
    )
    for name in ("x", "y", "a", "s"):
        np.testing.assert_array_equal(arguments[f"{name}_batch"], getattr(problem, name))


def test_maps_are_prepared_once_and_before_they_are_compared():
    problem = quantus_metrics.problem()
    metric = QGE(Takes(abs=True, normalise=True), "negated", direction="higher")
    a = problem.a.copy()
    # Quantus refuses maps that are negative throughout; this value becomes 0.
    a[:, 0, 0, 1] = -0.5
    metric(**problem.arguments(a_batch=a))
    first = np.abs(2 * a + 1).reshape(N, -1)[:, 0]
    np.testing.assert_allclose(metric.details["score"], first, rtol=1e-6)
    np.testing.assert_allclose(metric.details["reference"], -first, rtol=1e-6)


def test_the_inner_metrics_own_custom_batch_goes_along_with_the_samples():
    problem, entry = quantus_metrics.problem(), ENTRIES["Focus"]
    whole = QGE(entry.make())(**problem.arguments(**entry.call))
    batches = QGE(entry.make())(**problem.arguments(**entry.call, batch_size=4))
    np.testing.assert_allclose(batches, whole, rtol=1e-5)
    for rows in (entry.call["custom_batch"] * 2, np.ones((3, 4), dtype=int)):
        with pytest.raises(ValueError, match="custom_batch must hold one item for each of the 6"):
            QGE(entry.make())(**problem.arguments(custom_batch=rows))


def test_threads_do_not_disturb_each_other_nor_quantus():
    inputs, strict = make_inputs("image", dtype=torch.float32), asserts.assert_attributions

    def scores(_: int) -> list[float]:
        metric = QGE(quantus.FaithfulnessCorrelation(subset_size=9, nr_runs=10))
        return metric(inputs.model, inputs.x, inputs.y, inputs.a, device="cpu")

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(scores, range(8)))
    assert all(result == results[0] for result in results)
    assert asserts.assert_attributions is strict
