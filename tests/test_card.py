"""Cards: of what they are made, how they are shown, and what reports have of them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import quantus
import torch
from quantus.helpers.enums import ScoreDirection

import quantus_ext
from quantus_ext import (
    QGE,
    AverageDrop,
    Card,
    Deletion,
    Fidelity,
    Infidelity,
    MoRF,
    RFidelity,
    SynScore,
    card_of,
)
from quantus_ext.facts import FACTS, UNKNOWN, Facts
from quantus_ext.foreign import Foreign
from quantus_ext.metrics import __all__ as names
from tests.harness import make_inputs

OWN = [
    Infidelity(),
    Infidelity(multiply_by_inputs=True),
    RFidelity(score="minus", output="probability"),
    MoRF(features_in_step=3),
    QGE(MoRF()),
    QGE(quantus.Sufficiency()),
    quantus.Sufficiency(),
    Foreign(quantus.Sparseness()),
]


@pytest.mark.parametrize("metric", OWN, ids=lambda metric: type(metric).__name__)
def test_a_card_survives_json(metric):
    card = card_of(metric)
    assert Card.of_plain(json.loads(card.to_json())) == card
    assert "NaN" not in card.to_json()
    assert "Infinity" not in card.to_json()


def test_an_instance_says_what_its_arguments_change():
    of_class, lower = card_of(RFidelity), RFidelity(score="minus", output="probability").card()
    assert (of_class.direction, lower.direction) == ("higher", "lower")
    assert (of_class.space, lower.space) == ("label", "probability")
    assert of_class.carries_input is lower.carries_input is True
    assert "score='minus'" in lower.settings
    assert Infidelity().card().carries_input is card_of(Infidelity).carries_input is False
    assert Infidelity(multiply_by_inputs=True).card().carries_input is True
    assert QGE(Infidelity(multiply_by_inputs=True)).card().carries_input is True


@pytest.mark.parametrize(
    "metric", [MoRF(features_in_step=3), Infidelity(scheme="quantus"), QGE(MoRF())]
)
def test_a_formula_that_does_not_hold_is_not_given(metric):
    assert metric.card().evaluations == UNKNOWN
    assert SynScore().card().evaluations == "0"


def test_a_wrapper_has_what_its_metric_has():
    for inner in (MoRF(), Infidelity(), RFidelity(), SynScore()):
        of_inner, card = inner.card(), QGE(inner).card()
        for name in ("space", "removed", "draws", "modalities", "carries_input"):
            assert getattr(card, name) == getattr(of_inner, name), name
        assert card.direction == "higher"
        low, high = of_inner.score_range
        assert card.score_range == (low - high, high - low)
    assert QGE(Infidelity(), signed=False).card().direction == "lower"
    assert QGE(Infidelity()).card().linear is not None
    assert QGE(MoRF()).card().linear is None


@pytest.mark.parametrize(
    ("make", "evaluations", "counted"),
    [
        (partial(Deletion, 3), "1 + steps", 1 + 3),
        (partial(Deletion, 3, n_samples=4), UNKNOWN, 1 + 3 * 4),
        (partial(Fidelity, [0.5], output="probability"), "1 + 2 * sizes", 1 + 2),
        (AverageDrop, "2", 2),
    ],
)
def test_random_replacements_are_draws(make, evaluations, counted):
    inputs = make_inputs("table")
    assert not make().card().draws
    metric = make(perturb_baseline="uniform")
    card, wrapped = metric.card(), QGE(metric).card()
    assert (card.draws, wrapped.draws, card.evaluations) == (True, True, evaluations)
    assert not np.allclose(
        inputs.call(metric), inputs.call(make(perturb_baseline="uniform", seed=1))
    )
    assert metric.n_evaluations == len(inputs.x) * counted


class Mine(MoRF):
    """How mine it is.

    And more.
    """


class Undecided(quantus.Sparseness):
    score_direction = None


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (quantus.Sufficiency(), "higher"),
        (quantus.RegionPerturbation(), "higher"),
        (Undecided(), UNKNOWN),
        (Mine(), "higher"),
    ],
)
def test_what_nobody_checked_is_not_verified(metric, direction):
    card = card_of(metric)
    assert (card.name, card.direction) == (type(metric).__name__, direction)
    assert card.linear is card.draws is card.paper is None
    for name in ("formula", "ties", "removed", "evaluations", "limits", "unit", "departures"):
        assert getattr(card, name) == UNKNOWN, name
    shown = dict(card.rows())
    for label in ("a score of 0.3 says", "works with", "expects maps", "random", "source"):
        assert shown[label] == UNKNOWN, label


def test_what_a_class_says_of_itself_is_marked_as_its_own_words():
    assert card_of(Mine()).question == "How mine it is. (its own words)"
    assert card_of(Mine()).score_range == (-1, 1)
    assert card_of(quantus.Sufficiency()).score_range is None


def test_a_card_shows_all_it_knows_in_every_form(monkeypatch):
    monkeypatch.setitem(FACTS, "MoRF", Facts(limits="a <b> of `c_d` | *e*", evaluations="1"))
    card = MoRF(4).card()
    assert "limits: a <b> of `c_d` | *e*" in repr(card)
    assert "a &lt;b&gt; of <code>c_d</code> | *e*" in card._repr_html_()
    assert r"- limits: a \<b\> of `c_d` \| \*e\*" in card.to_markdown()
    for form in (repr(card), card._repr_html_(), card.to_markdown()):
        assert "MoRF(steps=4)" in form


def test_the_frame_has_every_metric_with_every_column():
    table = quantus_ext.cards()
    assert list(table.index) == list(FACTS)
    assert sorted(names) == sorted(table.index)
    for name in table.index:
        card = card_of(getattr(quantus_ext, name))
        assert all(table.loc[name, column] == getattr(card, column) for column in table.columns)
    assert "not verified" not in table.map(str).to_numpy()


def test_the_frame_takes_any_metric():
    table = quantus_ext.cards([quantus.Sufficiency(), MoRF()])
    assert list(table.index) == ["Sufficiency", "MoRF"]
    assert isinstance(table, pd.DataFrame)
    assert table.direction.tolist() == [ScoreDirection.HIGHER.value] * 2


@pytest.mark.parametrize("given", [[3], MoRF(), ["MoRF"]])
def test_what_is_no_metric_is_refused(given: Any):
    with pytest.raises(TypeError, match="of must"):
        quantus_ext.cards(given)
    with pytest.raises(TypeError, match="metric must"):
        card_of("MoRF")


# In reports.


@pytest.fixture(scope="module")
def evaluation() -> quantus_ext.Evaluation:
    model, x = torch.nn.Linear(6, 2).eval(), np.random.default_rng(0).random((4, 6), "float32")
    with torch.no_grad():
        model.weight.copy_(torch.arange(12.0).reshape(2, 6))
    return quantus_ext.evaluate(
        {"M|1": MoRF(2), "S": quantus.Sparseness(), "Q": QGE(MoRF(2))},
        {"x": x, "-x": -x},
        model,
        x,
        np.zeros(4, dtype=int),
    )


def test_an_evaluation_has_the_cards_of_its_metrics(evaluation):
    assert list(evaluation.cards) == ["M|1", "S", "Q"]
    assert evaluation.cards["M|1"] == MoRF(2).card()
    assert evaluation.cards["S"] == card_of(quantus.Sparseness())
    assert quantus_ext.Evaluation.from_json(evaluation.to_json()).cards == evaluation.cards
    for name, card in evaluation.cards.items():
        assert card.direction == evaluation.directions[name].value


def test_reports_say_what_the_metrics_mean(evaluation, tmp_path):
    text, page = evaluation.to_markdown(), evaluation.to_html(tmp_path / "page.html").read_text()
    for card in evaluation.cards.values():
        assert card.summary() in text
        assert card.to_html() in page
    assert r"- **M\|1**: How far does the output drop" in text
    assert "<details><summary>M|1</summary>" in page


def test_scores_alone_have_no_cards(tmp_path):
    bare = quantus_ext.Evaluation.of_scores({"A": {"M": [1.0]}, "B": {"M": [2.0]}}, {"M": "lower"})
    assert bare.cards == {}
    assert quantus_ext.Evaluation.from_json(bare.to_json()).cards == {}
    assert "What the metrics measure" not in bare.to_markdown()
