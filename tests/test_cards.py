"""Every claim of a metric's card against a run, and the documents against the cards."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import sem
from torch import nn

import quantus_ext
from docs import write
from quantus_ext import FineTuner, cards, metrics
from quantus_ext.base import TorchMetric
from quantus_ext.cards import CARDS, DETAILS, Card
from tests.harness import gradients, rows_seen
from tests.trained import needed

DOCS = Path(__file__).parents[1] / "docs"


def test_every_metric_has_a_card():
    assert sorted(CARDS) == sorted(metrics.__all__)


@pytest.mark.parametrize("name", CARDS)
def test_no_card_has_a_gap(name):
    card = CARDS[name]
    assert re.fullmatch(r"[A-Z][^.?]*\?", card.question)
    assert re.fullmatch(r"\S.*[^\s.]", card.formula)
    assert re.fullmatch(r"\S.*[^\s.]", card.counted)
    assert (DOCS / card.page).is_file()
    assert all((card.paper.authors, card.paper.title, re.search(r" \d{4}$", card.paper.venue)))
    assert made(name).score_range[0] < made(name).score_range[1]
    assert not card.around or card.around in CARDS
    assert re.search(rf"\b{name}\b", (DOCS / card.page).read_text("utf-8"))


def test_each_key_of_details_is_explained_and_used():
    assert set(DETAILS) == {key for card in CARDS.values() for key in card.details}


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
    return getattr(metrics, name)(**given, **settings)


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

    metric = made(name, signed)
    scores = called(metric, signed(MODEL, X, Y))
    low, high = metric.score_range
    assert np.isfinite(scores).all()
    assert (low <= scores).all()
    assert (scores <= high).all()
    return scores if cards.direction(name).value == "higher" else -scores


def right_explainer(name: str) -> Explain:
    """Return the one whose maps are exact for the metric as it is made."""
    metric = made(CARDS[name].around or name)
    return gradients if getattr(metric, "multiply_by_inputs", True) is False else by_gradient


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CARDS)
def test_the_exact_map_is_better_than_its_negative(name):
    explain = right_explainer(name)
    better_by = scored(name, explain) - scored(name, explain, -1)
    assert better_by.mean() > 2 * sem(better_by)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.carries_input])
def test_a_map_should_have_the_input_as_a_factor(name):
    better_by = scored(name, by_gradient) - scored(name, gradients)
    assert better_by.mean() > 2 * sem(better_by)


def test_where_an_argument_says_whether_it_has_both_readings_are_exact():
    says = [name for name in CARDS if hasattr(made(name), "multiply_by_inputs")]
    assert says == ["Infidelity"]
    for by_inputs, explain in ((True, by_gradient), (False, gradients)):
        metric = made("Infidelity", multiply_by_inputs=by_inputs, perturb_baseline=0.0)
        np.testing.assert_allclose(called(metric, explain(MODEL, X, Y)), 0, atol=1e-10)
        assert CARDS["Infidelity"].carries_input is None


# What they cost: a model that counts its rows, and as few elements as there are steps.


@pytest.fixture
def untrained(monkeypatch) -> None:
    """Let each metric ask the model itself, so that it sees the rows of the scores alone."""
    for name in CARDS:
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
    for name, card in CARDS.items():
        yield name, {}, {}
        taken = inspect.signature(getattr(metrics, card.around or name)).parameters
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
    around = CARDS[name].around
    given |= {"metric": getattr(metrics, around)(**settings)} if around else settings
    metric = getattr(metrics, name)(**given)
    with rows_seen(model) as seen:
        metric(model, x, np.array([0, 2]), x, s_batch=x[:, 0] > 0, explain_func=gradients)
    assert sum(map(len, seen)) == metric.n_evaluations == n * cards.cost(name, **counts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", CARDS)
def test_details_are_those_of_a_call(name):
    metric = made(name)
    called(metric, by_gradient(MODEL, X, Y))
    expected = {*CARDS[name].details}
    if CARDS[name].around:
        inner = CARDS[CARDS[name].around].details
        expected |= {f"{whose}_{key}" for whose in ("score", "reference") for key in inner}
    assert set(metric.details) == expected
    assert {len(values) for values in metric.details.values()} == {len(X)}


# The documents.


def test_documents_are_what_the_cards_make():
    for page in write.pages():
        text = page.read_text("utf-8")
        assert write.written(text) == text, f"run python -m docs.write: {page.name} is old"


def test_every_table_stands_in_a_document_once():
    assert sorted(itertools.chain(*write.pages().values())) == sorted(write.TABLES)


def test_every_metric_stands_in_every_table(monkeypatch):
    card = CARDS["MoRF"]
    new = Card(**{**vars(card), "question": "Is it new?", "details": ("curve", "new")})
    monkeypatch.setitem(CARDS, "New", new)
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
    assert sorted(cited) == sorted(CARDS)
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
