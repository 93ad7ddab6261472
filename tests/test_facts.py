"""Every claim about a metric against a run, and the documents against the claims."""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantus
import torch
import yaml
from captum.metrics import infidelity as captum_infidelity
from scipy.integrate import trapezoid
from scipy.stats import sem
from torch import nn

import quantus_ext
from docs import write
from quantus_ext import (
    Deletion,
    Fidelity,
    FineTuner,
    Infidelity,
    MoRF,
    SynScore,
    card,
    metrics,
    perturbation,
)
from quantus_ext.base import TorchMetric
from quantus_ext.card import Card, card_of
from quantus_ext.facts import DETAILS, FACTS, MODALITIES, UNKNOWN, Facts
from tests import modalities
from tests.harness import Inputs, gradients, make_inputs, planted, rows_seen
from tests.trained import needed

DOCS = Path(__file__).parents[1] / "docs"


def test_every_metric_has_a_card():
    assert sorted(FACTS) == sorted(metrics.__all__)
    for name in metrics.__all__:
        assert card_of(getattr(metrics, name)).name == name


@pytest.mark.parametrize("name", FACTS)
def test_no_card_has_a_gap(name):
    facts = FACTS[name]
    assert re.fullmatch(r"[A-Z][^.?]*\?", facts.question)
    assert re.fullmatch(r"\S.*[^\s.]", facts.reading)
    assert re.fullmatch(r"\S.*[^\s.]", facts.formula)
    assert re.fullmatch(r"\S.*[^\s.]", facts.counted)
    assert (DOCS / facts.page).is_file()
    assert all((facts.paper.authors, facts.paper.title, re.search(r" \d{4}$", facts.paper.venue)))
    assert made(name).score_range[0] < made(name).score_range[1]
    assert not facts.around or facts.around in FACTS
    found = card_of(getattr(metrics, name))
    gaps = [f.name for f in fields(Card) if getattr(found, f.name) in (UNKNOWN, ())]
    assert gaps in ([], ["neighbours"])
    assert found.draws is not None
    assert found.linear is not None
    for text in (facts.departures, facts.unit, facts.limits):
        assert text == "" or re.fullmatch(r"\S.*\S", text)
    assert re.search(rf"\b{name}\b", (DOCS / facts.page).read_text("utf-8"))


def test_each_key_of_details_is_explained_and_used():
    assert set(DETAILS) - {"flags", "space"} == {
        key for facts in FACTS.values() for key in facts.details
    }


# A linear model, whose exact map is known: the outputs are -s and s, with s = w·x.

T = 12


def linear(w: np.ndarray) -> nn.Module:
    layer = nn.Linear(T, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.stack([-w, w])))
    return nn.Sequential(nn.Flatten(), layer).eval()


def weights(seed: int = 0, spread: float = 0.0) -> np.ndarray:
    # One feature says most, so that the label turns with it and can be learnt from it alone.
    w = np.array([3.0, *np.linspace(1, 0.1, T - 1)])
    return (w + spread * np.random.default_rng(seed).normal(size=T)).astype("float32")


def samples(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return features that scatter in size, the first with the sign of the label."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(0.2, 2.0, (len(labels), T)) * generator.choice([-1, 1], (len(labels), T))
    x[:, 0] = np.abs(x[:, 0]) * (2 * labels - 1)
    return x.astype("float32")


Explain = Callable[[nn.Module, np.ndarray, np.ndarray], np.ndarray]


def by_gradient(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
    return gradients(model, inputs, targets) * inputs


MODEL, X = linear(weights()), samples(np.arange(32) % 2, seed=1)


def answers(x: np.ndarray) -> np.ndarray:
    return MODEL(torch.from_numpy(x)).argmax(1).numpy()


Y = answers(X)


def made(name: str, explain: Explain = by_gradient, **settings: Any) -> TorchMetric:
    """Make a metric; what is trained is trained on maps by the explainer that it is to score."""
    x = samples(np.arange(1000) % 2, seed=2)
    labels = answers(x)
    tuner = FineTuner(x, labels, epochs=10, lr=0.02, display_progressbar=False)
    others = [linear(weights(seed, spread=0.1)) for seed in (1, 2)]
    given = needed(name, tuner, others, explain(MODEL, x, labels))
    return getattr(metrics, name)(**{**given, **settings})


def called(metric: TorchMetric, a: np.ndarray) -> np.ndarray:
    contributions = by_gradient(MODEL, X, Y)
    return np.array(
        metric(
            model=MODEL,
            x_batch=X,
            y_batch=Y,
            a_batch=a,
            s_batch=contributions > np.median(contributions, 1)[:, None],
            explain_func=by_gradient,
        )
    )


def scored(name: str, explain: Explain, sign: int = 1) -> np.ndarray:
    """Return the scores, the higher the better, of a linear model by maps times a sign."""

    def signed(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        maps = explain(model, inputs, targets)
        # Were elements that speak for the class removed from training data, those that are left
        # would tell it.
        return sign * (np.abs(maps) if name == "ROAR" else maps)

    metric = made(name, signed, **_around(name, {}))
    scores = called(metric, signed(MODEL, X, Y))
    low, high = metric.score_range
    assert np.isfinite(scores).all()
    assert (low <= scores).all()
    assert (scores <= high).all()
    return scores if card_of(metric).direction == "higher" else -scores


def right_explainer(name: str) -> Explain:
    """Return the one whose maps are exact for the metric as it is made."""
    metric = made(FACTS[name].around or name)
    return gradients if getattr(metric, "multiply_by_inputs", True) is False else by_gradient


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FACTS)
def test_the_exact_map_is_better_than_its_negative(name):
    explain = right_explainer(name)
    better_by = scored(name, explain) - scored(name, explain, -1)
    assert better_by.mean() > 2 * sem(better_by)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts.carries_input])
def test_a_map_should_have_the_input_as_a_factor(name):
    better_by = scored(name, by_gradient) - scored(name, gradients)
    assert better_by.mean() > 2 * sem(better_by)


def test_where_an_argument_says_whether_it_has_both_readings_are_exact():
    says = [name for name in FACTS if hasattr(made(name), "multiply_by_inputs")]
    assert says == ["Infidelity"]
    for by_inputs, explain in ((True, by_gradient), (False, gradients)):
        metric = made("Infidelity", multiply_by_inputs=by_inputs, perturb_baseline=0.0)
        np.testing.assert_allclose(called(metric, explain(MODEL, X, Y)), 0, atol=1e-10)
        assert FACTS["Infidelity"].carries_input is None


def _ones(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.ones_like(inputs)


def _noise(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.random.default_rng(len(inputs)).normal(size=inputs.shape).astype("float32")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FACTS)
def test_scores_of_maps_of_a_linear_model(name):
    exact = right_explainer(name)
    found = [
        scored(name, explain, sign).mean()
        for explain, sign in ((exact, 1), (exact, -1), (_ones, 1), (_noise, 1))
    ]
    better = -1 if card_of(getattr(metrics, name)).direction == "lower" else 1
    # Trained models differ from machine to machine, by less than their maps' scores do.
    off = 0.06 if FACTS[name].besides in ("training", "fine-tuning") else 0.006
    np.testing.assert_allclose(better * np.array(found), FACTS[name].linear, atol=off, rtol=1e-3)


# What a score reads, what it draws, and what becomes of ties.


def _asked(name: str, a: np.ndarray, softmax: bool | None = None, **settings: Any) -> np.ndarray:
    """Score samples of which a few have an unsure label."""
    metric = made(name, right_explainer(name), **_around(name, settings))
    near = X * np.linspace(0.05, 1, len(X), dtype="float32")[:, None]
    truth = np.tile(np.arange(T) < 4, (len(X), 1))
    return np.array(
        metric(MODEL, near, Y, a, truth, explain_func=right_explainer(name), softmax=softmax)
    )


def _around(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a metric, of a wrapper those of the metric that it is around."""
    around = FACTS[name].around
    if not around:
        return settings
    own = {key: settings.pop(key) for key in ("seed",) if key in settings}
    return {"metric": getattr(metrics, around)(**settings, **own), **own}


DISTINCT = np.random.default_rng(5).normal(size=X.shape)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FACTS)
def test_the_space_is_what_a_score_reads(name):
    by_default, probabilities, logits = (
        _asked(name, DISTINCT, softmax=softmax) for softmax in (None, True, False)
    )
    same = (
        np.allclose(by_default, probabilities, atol=1e-6),
        np.allclose(by_default, logits, atol=1e-6),
    )
    space = card_of(made(name)).space
    assert space == card_of(getattr(metrics, name)).space
    if name == "AverageIncrease":
        # Logit and probability rise together where the other logit is the negative one.
        assert same == (True, True)
        logit_of_one = nn.Sequential(
            linear(weights()), nn.Linear(2, 2).requires_grad_(False)
        ).eval()
        logit_of_one[1].weight.copy_(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        same = tuple(
            np.array_equal(
                made(name)(logit_of_one, X, Y, DISTINCT),
                made(name)(logit_of_one, X, Y, DISTINCT, softmax=softmax),
            )
            for softmax in (True, False)
        )
    assert (
        same
        == {
            "logit": (False, True),
            "probability": (True, False),
            "label": (True, True),
            "nothing": (True, True),
        }[space]
    )
    if same == (True, True):
        metric = made(name)
        other = linear(-weights())
        with rows_seen(other):
            scores = metric(other, X, Y, DISTINCT, DISTINCT > 0, explain_func=right_explainer(name))
        changed = not np.allclose(
            scores, metric(MODEL, X, Y, DISTINCT, DISTINCT > 0, explain_func=right_explainer(name))
        )
        # ROAR asks a model that was trained anew.
        assert changed == (space == "label" and name != "ROAR")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FACTS)
def test_what_the_seed_decides(name):
    taken = inspect.signature(getattr(metrics, FACTS[name].around or name)).parameters
    few = {
        key: 3
        for key in ("n_samples", "n_perturb_samples")
        if key in taken and taken[key].default != 1
    }
    card = card_of(getattr(metrics, name))
    by_seed = [_asked(name, DISTINCT, seed=seed, **few) for seed in (1, 2)]
    assert (not np.allclose(*by_seed)) == card.draws
    # All of the possible masks, or nothing but whole sizes: no draw is left.
    every = {"alpha": 1.0, "n_perturb_samples": 500}
    all_of_them = {key: value for key, value in every.items() if key in taken}
    tied = np.round(DISTINCT)
    by_seed = [_asked(name, tied, seed=seed, **all_of_them) for seed in (1, 2)]
    assert (not np.allclose(*by_seed)) == (card.ties == "at random")
    half = np.array_equal(_asked(name, np.ones_like(X)), np.full(len(X), 0.5))
    assert half == (card.ties == "count half")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", FACTS)
def test_what_a_removed_element_becomes(name):
    model = linear(weights())
    metric = made(name)
    with rows_seen(model) as seen:
        metric(model, X, Y, DISTINCT, DISTINCT > 0, explain_func=right_explainer(name))
    rows = torch.cat(seen).numpy() if seen else X
    removed = card_of(metric).removed
    if removed == "what the map, scaled to [0, 1], leaves of it":
        low, high = DISTINCT.min(1, keepdims=True), DISTINCT.max(1, keepdims=True)
        weighted = X * (DISTINCT - low) / (high - low)
        np.testing.assert_allclose(rows, np.concatenate([X, weighted]), rtol=1e-5, atol=1e-6)
        return
    changed = rows[~np.isin(rows, X)]
    expected = {
        "0": [0.0],
        "the sample's minimum": X.min(1),
        "nothing is removed": [],
    }[removed]
    if len(expected) > 1:
        # The minimum is among the values of the sample already.
        assert len(changed) == 0
        assert all(np.isin(row[~np.isin(row, X)], expected).all() for row in rows)
        assert len(rows) > len(X)
    else:
        assert {*changed.tolist()} == {*expected}


# What they take.

_AS_READ = {
    "image": ["images `(n, C, H, W)`"],
    "volume": ["volumes, video `(n, C, D, H, W)`"],
    "series": ["series `(n, C, T)`", "series of different lengths (`Series`)"],
    "table": [
        "tables `(n, F)`",
        "tables with blocks of columns (`Columns`)",
    ],
    "data frame": ["data frames (`DataFrame`)"],
    "text": ["text `(n, L)` (`TokenIds`)", "text, maps over embeddings `(n, L, D)`"],
    "prompt": ["prompts of a language model (`Generation`)"],
    "graph": [f"graphs, {what} (`Graphs`)" for what in ("their edges", "their nodes")],
}
"""The rows of the table of what can be combined, by the words of the cards."""


def test_each_modality_is_in_the_table_of_what_can_be_combined():
    assert tuple(_AS_READ) == MODALITIES
    named = {name for names in _AS_READ.values() for name in names}
    assert named <= {*modalities.MODALITIES}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modality", _AS_READ)
@pytest.mark.parametrize("name", FACTS)
def test_modalities_are_those_that_run(name, modality):
    if modality == "graph":
        pytest.importorskip("torch_geometric")
    runs = all(_runs(name, modalities.MODALITIES[read]()) for read in _AS_READ[modality])
    assert runs == (modality in card_of(made(name)).modalities)


def _runs(name: str, given: modalities.Modality) -> bool:
    """Score both samples with the default removal, in whichever form fits."""
    if name not in ("PScore", "SynScore"):
        ways = [
            (metric, which)
            for metric, (_, whiches) in modalities.METRICS.items()
            for which in whiches
            if metric.split(",")[0] == name
        ]
        return any(modalities.scored(given, metric, which, "default") for metric, which in ways)
    truth = np.zeros(given.segments.shape, dtype=bool)
    truth.reshape(2, -1)[:, ::2] = True
    if name == "PScore":
        # Of another class, so that it is not the scored one.
        metric: TorchMetric = quantus_ext.PScore([_other(given.model)])
    else:
        metric = quantus_ext.SynScore()
    scores = metric(
        given.model,
        given.x if given.frame is None else given.frame,
        np.array([0, given.classes - 1]),
        given.a,
        truth,
        explain_func=lambda model, inputs, targets: given.a + 0.1,
    )
    return bool(np.isfinite(scores).all())


def _other(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.register_buffer("version", torch.ones(1))
    return other


# Metrics of other packages that ask the same.


Pair = tuple[Any, Any]
"""Scores of this package turned into those of the other one, and its own."""


def _image() -> Inputs:
    inputs = make_inputs("image", dtype=torch.float32)
    # Quantus takes patches of four that do not go beyond the image.
    assert inputs.x.shape[2] % 4 == inputs.x.shape[3] % 4 == 0
    return inputs


AS_THEY_ARE: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}


def _infidelity_of_quantus() -> Pair:
    theirs = quantus.Infidelity(perturb_patch_sizes=[4], n_perturb_samples=2, **AS_THEY_ARE)
    ours = Infidelity(scheme="quantus", perturb_patch_sizes=[4], n_perturb_samples=2)
    inputs = _image()
    return inputs.call(ours), inputs.call(theirs)


def _infidelity_of_captum() -> Pair:
    def halved(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs / 2, inputs / 2

    inputs = _image()
    ours = Infidelity(perturb_func=perturbation.from_captum(halved), n_perturb_samples=3)
    x, y, a = map(torch.from_numpy, (inputs.x, inputs.y, inputs.a))
    return inputs.call(ours), captum_infidelity(inputs.model, halved, x, a, target=y).numpy()


def _road() -> Pair:
    x = np.random.default_rng(0).normal(size=(9, *IMAGE)).astype("float32")
    inputs = Inputs(of_images(), x, np.arange(9) % 3, x[::-1].copy())
    theirs = quantus.ROAD(percentages=[10, 50], noise=0.0, **AS_THEY_ARE)
    shares = theirs(inputs.model, inputs.x, inputs.y, inputs.a, device="cpu")
    ours = inputs.call(Fidelity([0.1, 0.5]))
    return ours.mean(), 1 - np.mean([*shares.values()])


def _region_perturbation() -> Pair:
    theirs = quantus.RegionPerturbation(
        patch_size=2, regions_evaluation=16, order="morf", perturb_baseline=0.0, **AS_THEY_ARE
    )
    inputs = _image()
    drops = np.array(theirs(inputs.model, inputs.x, inputs.y, inputs.a, softmax=True, device="cpu"))
    return inputs.call(MoRF(16, patch_size=2)), np.insert(drops, 0, 0, 1).mean(1)


def _pixel_flipping() -> Pair:
    theirs = quantus.PixelFlipping(features_in_step=4, perturb_baseline=0.0, **AS_THEY_ARE)
    inputs = _image()
    curves = np.array(
        theirs(inputs.model, inputs.x, inputs.y, inputs.a, softmax=True, device="cpu")
    )
    # Quantus calls numpy.trapz, which numpy 2.4 removed.
    areas = trapezoid(curves, axis=1)
    ours = Deletion(features_in_step=4, element="channel_value")
    scores = inputs.call(ours)
    clean = ours.details["original_score"]
    return scores, (areas + (clean + curves[:, 0]) / 2) / curves.shape[1]


def _auc() -> Pair:
    inputs = _image()
    a, s = inputs.a.sum(1, keepdims=True), planted(inputs.x)[:, None]
    theirs = quantus.AUC(**AS_THEY_ARE)(inputs.model, inputs.x, inputs.y, a, s, device="cpu")
    return SynScore()(inputs.model, inputs.x, inputs.y, a, s), theirs


COMPARED: dict[tuple[str, str], Callable[[], Pair]] = {
    ("Infidelity", "quantus.Infidelity"): _infidelity_of_quantus,
    ("Infidelity", "captum.metrics.infidelity"): _infidelity_of_captum,
    ("Fidelity", "quantus.ROAD"): _road,
    ("MoRF", "quantus.RegionPerturbation"): _region_perturbation,
    ("Deletion", "quantus.PixelFlipping"): _pixel_flipping,
    ("SynScore", "quantus.AUC"): _auc,
}


def test_each_neighbour_is_compared():
    named = [(name, other.name) for name, facts in FACTS.items() for other in facts.neighbours]
    assert sorted(named) == sorted(COMPARED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "other"), COMPARED)
def test_a_neighbour_converts_as_the_card_says(name, other):
    ours, theirs = COMPARED[name, other]()
    says = next(each.converts for each in FACTS[name].neighbours if each.name == other)
    assert np.allclose(ours, theirs, rtol=1e-4) == says


# What they cost: a model that counts its rows, and as few elements as there are steps.


@pytest.fixture
def untrained(monkeypatch) -> None:
    """Let each metric ask the model itself, so that it sees the rows of the scores alone."""
    for name in FACTS:
        asked = lambda self, model, *_: model  # noqa: E731
        monkeypatch.setattr(getattr(metrics, name), "model_to_ask", asked)


IMAGE = (1, 28, 28)


def of_images() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).eval()


VARIED: list[tuple[dict[str, Any], dict[str, int]]] = [
    # 10 and 11 % of 784 elements are two sizes, 20 % twice is one.
    ({"sparsity": [0.1, 0.11, 0.2, 0.2]}, {"sizes": 3}),
    ({"steps": 7}, {"steps": 7}),
    ({"steps": [0.3, 0.3001, 0.9]}, {"steps": 3}),
    ({"n_samples": 3}, {"n_samples": 3}),
    ({"n_perturb_samples": 9}, {"n_perturb_samples": 9}),
]
"""Arguments that make a metric cost less, and what they come to."""


def grids() -> Iterator[tuple[str, dict[str, Any], dict[str, int]]]:
    """Yield settings of each metric, and what its card's expression is to be given."""
    for name, facts in FACTS.items():
        yield name, {}, {}
        taken = inspect.signature(getattr(metrics, facts.around or name)).parameters
        for settings, counts in VARIED:
            (argument,) = settings
            # Draws that are one by default are drawn for random replacements only.
            if argument in taken and taken[argument].default != 1:
                yield name, settings, counts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("name", "settings", "counts"), list(grids()))
def test_evaluations_are_what_a_model_counts(name, settings, counts):
    n = 2
    x = np.random.default_rng(0).normal(size=(n, *IMAGE)).astype("float32")
    model = of_images()
    data = np.zeros((3, *IMAGE)), np.arange(3)
    tuner = FineTuner(*data, display_progressbar=False)
    given = needed(name, tuner, [of_images()], data[0])
    around = FACTS[name].around
    given |= {"metric": getattr(metrics, around)(**settings)} if around else settings
    metric = getattr(metrics, name)(**given)
    with rows_seen(model) as seen:
        metric(model, x, np.array([0, 2]), x, s_batch=x[:, 0] > 0, explain_func=gradients)
    assert sum(map(len, seen)) == metric.n_evaluations == n * card.cost(name, **counts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", FACTS)
def test_details_are_those_of_a_call(name):
    metric = made(name)
    called(metric, by_gradient(MODEL, X, Y))
    expected = {*FACTS[name].details}
    if FACTS[name].around:
        inner = FACTS[FACTS[name].around].details
        expected |= {f"{whose}_{key}" for whose in ("score", "reference") for key in inner}
    assert set(metric.details) == {*expected, "flags", "space"}
    assert {len(values) for values in metric.details.values()} == {len(X)}


# Which test computes what.

COMPUTED: dict[str, Callable[..., None]] = {
    "name": test_every_metric_has_a_card,
    "direction": test_the_exact_map_is_better_than_its_negative,
    "score_range": test_the_exact_map_is_better_than_its_negative,
    "linear": test_scores_of_maps_of_a_linear_model,
    "carries_input": test_a_map_should_have_the_input_as_a_factor,
    "space": test_the_space_is_what_a_score_reads,
    "draws": test_what_the_seed_decides,
    "ties": test_what_the_seed_decides,
    "removed": test_what_a_removed_element_becomes,
    "modalities": test_modalities_are_those_that_run,
    "neighbours": test_a_neighbour_converts_as_the_card_says,
    "evaluations": test_evaluations_are_what_a_model_counts,
    "details": test_details_are_those_of_a_call,
}
TEXTS = {
    *(
        "question",
        "reading",
        "formula",
        "paper",
        "equation",
        "departures",
        "page",
        "unit",
        "counted",
    ),
    *("besides", "limits", "around", "settings"),
}
"""For people."""


def test_a_test_computes_each_claim():
    assert {*COMPUTED} | TEXTS == {field.name for field in fields(Card)}
    assert not {*COMPUTED} & TEXTS


# The documents.


def test_documents_are_what_the_cards_make():
    for page in write.pages():
        text = page.read_text("utf-8")
        assert write.written(text) == text, f"run python -m docs.write: {page.name} is old"


def test_every_table_stands_in_a_document_once():
    assert sorted(itertools.chain(*write.pages().values())) == sorted(write.TABLES)


def test_every_metric_stands_in_every_table(monkeypatch):
    facts = FACTS["MoRF"]
    new = Facts(**{**vars(facts), "question": "Is it new?", "details": ("curve", "new")})
    monkeypatch.setitem(FACTS, "New", new)
    monkeypatch.setitem(DETAILS, "new", "something")
    monkeypatch.setattr(metrics, "New", quantus_ext.MoRF, raising=False)
    for name, table in write.TABLES.items():
        if name != "meanings":
            assert re.search(r"`New`|:: New$", table(), re.MULTILINE), name
    assert "| `new` | something |" in write.meanings()
    assert "Is it new?" in write.overview()


def test_the_citation_file_names_a_paper_for_every_metric():
    found = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    cited = [
        name
        for each in found["references"]
        for name in re.findall(r"`(\w+)`", each.get("notes", ""))
    ]
    assert sorted(cited) == sorted(FACTS)
    for reference in found["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)
        assert all(
            {"given-names", "family-names"} == set(author) for author in reference["authors"]
        )


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table: {} -->\nold\n<!-- end -->\n",
        ".. table: {}\nold\n.. end\n",
        "# table: {}\nold\n# end\n",
    ],
)
def test_only_what_is_between_the_marks_is_written(text):
    text = f"before\n{text}after\n"
    made = write.written(text.format("costs"))
    assert made == text.format("costs").replace("old", write.costs())
    assert write.written(made) == made
    with pytest.raises(KeyError, match="cots"):
        write.written(text.format("cots"))
