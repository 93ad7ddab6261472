"""Flags: each tripped by a map made for it, none by ordinary maps, and what reports say of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import nn

import quantus_ext
from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    Evaluation,
    Fidelity,
    Infidelity,
    MoRF,
    RFidelity,
    SynScore,
    flags,
    scoring,
)
from quantus_ext.adapters import TokenIds
from quantus_ext.base import TorchMetric
from quantus_ext.batch import Batch
from quantus_ext.engine.forward import Forward
from quantus_ext.facts import FACTS
from quantus_ext.flags import MEANINGS, Flag
from quantus_ext.functional.scores import Scores
from quantus_ext.metrics.removal import RemovalMetric
from tests import test_facts
from tests.harness import gradients
from tests.test_facts import called, made

SHAPE = (1, 8, 8)
T = 64


class Network(nn.Module):
    """Answers with probabilities that are neither 0 nor 1, and knows its class."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        weights = np.random.default_rng(0).normal(size=(3, T)) / 20
        self.layer = nn.Linear(T, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(scale * weights))
            self.layer.bias.copy_(torch.tensor([0.0, 0.1, 0.2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


MODEL = Network().eval()
X = np.random.default_rng(1).uniform(0.1, 1, (5, *SHAPE)).astype("float32")
DISTINCT = np.random.default_rng(2).normal(size=X.shape)


def predicted(x: np.ndarray, model: nn.Module = MODEL) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).argmax(1).numpy()


Y = predicted(X)
SEGMENTS = np.broadcast_to(np.arange(8) % 3 == 0, (1000, 8, 8))
RANKING = [ABPC(), Deletion(10), Fidelity(), RFidelity(n_samples=2), QGE(MoRF())]
OTHERS = [Infidelity(n_perturb_samples=8), SynScore(), QGE(Infidelity(n_perturb_samples=8))]


def flagged(
    metric: TorchMetric,
    a: np.ndarray,
    x: np.ndarray = X,
    y: np.ndarray = Y,
    model: nn.Module = MODEL,
    **keywords: Any,
) -> list[Flag]:
    """Return the flags of each sample."""
    metric(model, x, y, a, SEGMENTS[: len(x)], **keywords)
    values = metric.details["flags"]
    assert values.dtype == np.int64
    assert values.shape == (len(x),)
    return [Flag(value) for value in values.tolist()]


@pytest.mark.parametrize("metric", [*RANKING, *OTHERS], ids=repr)
def test_each_map_has_the_flag_that_it_was_made_for(metric):
    ranks = metric in RANKING
    half = np.where(np.arange(T).reshape(SHAPE) < 40, 0.0, DISTINCT)
    # Each of seven values has the same number of elements, so that no tie is large.
    seven = np.broadcast_to(np.arange(T).reshape(SHAPE) % 7, X.shape)
    cases = [
        (np.zeros_like(DISTINCT), Flag.ZERO_MAP),
        (np.full_like(DISTINCT, -2.0), Flag.CONSTANT_MAP),
        (half, Flag.TIES if ranks else Flag(0)),
        (seven, Flag.FEW_VALUES if ranks else Flag(0)),
        (DISTINCT, Flag(0)),
    ]
    for a, expected in cases:
        assert flagged(metric, a) == [expected] * len(X)
    mixed = np.stack([a[0] for a, _ in cases])
    assert flagged(metric, mixed) == [expected for _, expected in cases]


def test_outputs_at_their_end():
    # float32 has no probability between this one and 1.
    sure = Network(scale=1e4).eval()
    y = predicted(X, sure)
    assert flagged(MoRF(), DISTINCT, y=y, model=sure) == [Flag.OUTPUT_AT_END] * 5
    none = (y + 1) % 3
    with torch.no_grad():
        expected = [
            Flag.OUTPUT_AT_END if p in (0, 1) else Flag(0)
            for p in sure(torch.from_numpy(X)).softmax(1)[range(5), none].tolist()
        ]
    assert expected.count(Flag.OUTPUT_AT_END) > 0
    assert flagged(MoRF(), DISTINCT, y=none, model=sure) == expected
    # What is no probability has no end, and what reads labels does not see one.
    for metric in (Infidelity(n_perturb_samples=4), Fidelity()):
        assert flagged(metric, DISTINCT, y=y, model=sure) == [Flag(0)] * 5
    assert flagged(MoRF(), DISTINCT, y=y, model=sure, softmax=False) == [Flag(0)] * 5
    by_probability = Fidelity(output="probability")
    assert flagged(by_probability, DISTINCT, y=y, model=sure) == [Flag.OUTPUT_AT_END] * 5


def test_labels_that_are_not_predicted():
    y = np.where(np.arange(5) < 2, Y, (Y + 1) % 3)
    expected = [Flag(0)] * 2 + [Flag.OTHER_LABEL] * 3
    for metric in (Fidelity(), RFidelity(n_samples=2), QGE(Fidelity())):
        assert flagged(metric, DISTINCT, y=y) == expected
    for metric in (MoRF(), Fidelity(output="probability"), Infidelity(n_perturb_samples=4)):
        assert flagged(metric, DISTINCT, y=y) == [Flag(0)] * 5


def test_ties_of_what_removal_does_not_change_do_not_count():
    x, a = X.copy(), DISTINCT.copy()
    x.reshape(5, T)[:, :40] = 0
    a.reshape(5, T)[:, :40] = 0
    assert flagged(MoRF(), a, x) == [Flag(0)] * 5
    assert flagged(MoRF(perturb_baseline=1.0), a, x) == [Flag.TIES] * 5
    # Noise changes whatever it is.
    noisy = MoRF(perturb_baseline="uniform", n_samples=2)
    assert flagged(noisy, a, x) == [Flag.TIES] * 5


def test_the_share_of_tied_pairs_is_that_of_all_pairs(monkeypatch):
    generator = np.random.default_rng(3)
    for _ in range(20):
        a = generator.integers(0, generator.integers(2, 30), X.shape).astype(float)
        values = a[0].ravel()
        equal = values[:, None] == values[None]
        share = (equal.sum() - T) / (T * (T - 1))
        for bound, expected in ((share, True), (share + 1e-9, False)):
            monkeypatch.setattr(flags, "MANY_TIES", bound)
            found = flagged(ABPC(), a[:1], X[:1], Y[:1])[0]
            assert bool(found & Flag.TIES) is expected


def test_cuts_are_what_is_removed():
    # Nine distinct values of 64 elements can be cut in eight places.
    nine = np.broadcast_to(np.arange(T).reshape(SHAPE) // 8 + (DISTINCT[0] > 9), X.shape).copy()
    nine[:, 0, 0, 0] = 100
    assert flagged(MoRF(9), nine) == [Flag(0)] * 5
    assert flagged(MoRF(10), nine) == [Flag.FEW_VALUES] * 5
    assert flagged(MoRF(features_in_step=7), nine) == [Flag.FEW_VALUES] * 5
    assert flagged(MoRF(features_in_step=8), nine) == [Flag(0)] * 5
    assert flagged(Fidelity([0.1, 0.1001, 0.5, 1.0]), nine) == [Flag(0)] * 5
    # Elements and not values are ranked.
    assert flagged(MoRF(20, patch_size=2), DISTINCT) == [Flag(0)] * 5
    patched = DISTINCT.copy()
    patched[:, :, 1::2] = -patched[:, :, ::2]
    assert flagged(MoRF(20), patched) == [Flag(0)] * 5
    assert flagged(MoRF(20, patch_size=2), np.round(patched, 1)) != [Flag(0)] * 5


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 4), nn.Linear(4, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids).cumsum(1).tanh().mean(1))


def test_padding_is_not_part_of_a_map():
    model = TokenIds(Reader().eval(), mask_id=1, pad_id=0, special_ids=[2])
    ids = np.array([[2, 5, 6, 7, 2, 0, 0], [2, 5, 6, 2, 0, 0, 0], [2, 4, 5, 6, 7, 8, 2]])
    a = np.array(
        [[9.0, 1, 1, 1, 9, 8, 7], [9, 0, 0, 9, 8, 7, 6], [9, 5, 4, 3, 2, 1, 9]], dtype=float
    )
    found = flagged(MoRF(), a, ids, np.zeros(3, dtype=int), model)
    assert found == [Flag.CONSTANT_MAP, Flag.ZERO_MAP, Flag(0)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FACTS)
def test_every_metric_says_that_a_map_is_constant(name):
    called(metric := made(name), np.ones_like(test_facts.X))
    assert (metric.details["flags"] & int(Flag.CONSTANT_MAP)).all()


def test_a_metric_of_another_package_says_what_is_known_of_the_map():
    maps = [np.zeros_like(DISTINCT), DISTINCT]
    evaluation = quantus_ext.evaluate(
        {"S": quantus.Sparseness()}, dict(zip("ab", maps, strict=True)), MODEL, X, Y
    )
    assert evaluation.flags.tolist() == [[[Flag.ZERO_MAP] * 5], [[0] * 5]]


def ordinary() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return samples and maps of each kind that explainers give, 1,008 in all."""
    x = np.random.default_rng(5).uniform(-1, 1, (168, *SHAPE)).astype("float32")
    y = predicted(x)
    gradient = gradients(MODEL, x, y)
    noise = np.random.default_rng(6).normal(size=x.shape)
    # As digits have it: nothing on the border, where input times gradient is 0.
    framed = x.copy()
    framed[:, :, :3], framed[:, :, :, :2] = 0, 0
    return [
        (x, gradient * (1 + 0.1 * noise)),
        (x, gradient * x),
        (framed, gradients(MODEL, framed, predicted(framed)) * framed),
        (x, np.abs(noise)),
        (x, noise.astype("float32")),
        # With as many levels as a picture has.
        (x, np.round(127 + 40 * noise).clip(0, 255)),
    ]


@pytest.mark.parametrize("metric", [MoRF(), Fidelity(), Infidelity(n_perturb_samples=4)], ids=repr)
def test_no_ordinary_map_has_a_flag(metric):
    given = ordinary()
    assert sum(len(x) for x, _ in given) >= 1000
    for x, a in given:
        assert flagged(metric, a, x, predicted(x)) == [Flag(0)] * len(x)


@pytest.mark.parametrize("metric", [MoRF(), Infidelity(n_perturb_samples=4), QGE(Fidelity())])
def test_flags_change_no_score_and_ask_no_row(metric, monkeypatch):
    maps = np.round(DISTINCT)
    scores = metric(MODEL, X, Y, maps)
    rows = metric.n_evaluations
    monkeypatch.setattr(
        scoring, "_flags", lambda *_, **__: torch.zeros(1, len(X), dtype=torch.int64)
    )
    assert metric(MODEL, X, Y, maps) == scores
    assert metric.n_evaluations == rows


class Own(RemovalMetric):
    """A metric as somebody else writes it: it says nothing about where it cuts rankings."""

    name = "own"

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        zeros = batch.maps.new_zeros(batch.maps.shape[:2])
        return Scores(zeros, zeros, {})


def test_a_metric_that_does_not_say_where_it_cuts_flags_ties():
    metric = Own()
    metric(MODEL, X, Y, DISTINCT)
    assert not metric.details["flags"].any()
    tied = np.zeros_like(DISTINCT)
    tied[:, ..., :1] = 1
    metric(MODEL, X + 1, Y, tied)
    assert (metric.details["flags"] == Flag.TIES).all()


# In reports.


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    maps = DISTINCT.copy()
    maps[1:3] = 0
    return quantus_ext.evaluate(
        {"MoRF": MoRF(), "Q|x": Fidelity()},
        {"<zeros>": maps, "fine": DISTINCT},
        MODEL,
        X,
        Y,
        batch_size=2,
    )


def test_flags_are_counted_by_explainer(evaluation):
    counts = evaluation.flagged()
    assert counts.to_dict("records") == [
        {"explainer": "<zeros>", "flag": "ZERO_MAP", "metric": metric, "samples": 2}
        for metric in ("MoRF", "Q|x")
    ]
    assert np.isfinite(evaluation.scores).all()


def test_reports_tell_them(evaluation, tmp_path):
    line = "the map is 0 everywhere (samples by MoRF 2, Q|x 2)"
    page = evaluation.to_html(tmp_path / "page.html").read_text()
    assert f"<li>&lt;zeros&gt;: {line}</li>" in page
    text = evaluation.to_markdown()
    assert r"- \<zeros\>: the map is 0 everywhere (samples by MoRF 2, Q\|x 2)" in text
    fine = quantus_ext.evaluate({"MoRF": MoRF()}, {"fine": DISTINCT}, MODEL, X, Y)
    assert "arbitrary" not in fine.to_markdown()
    assert "arbitrary" not in fine.to_html(tmp_path / "fine.html").read_text()


def test_they_survive_json_and_a_store(evaluation, tmp_path):
    again = Evaluation.from_json(evaluation.to_json())
    np.testing.assert_array_equal(again.flags, evaluation.flags)
    content = json.loads(evaluation.to_json())
    assert content["flags"][0][0] == [0, 1, 1, 0, 0]
    arguments = {"MoRF": MoRF()}, {"a": np.zeros_like(X)}, MODEL, X, Y
    for _ in range(2):
        kept = quantus_ext.evaluate(*arguments, store=tmp_path / "store")
        assert (kept.flags == int(Flag.ZERO_MAP)).all()


def test_every_flag_has_a_meaning():
    assert list(MEANINGS) == list(Flag)
