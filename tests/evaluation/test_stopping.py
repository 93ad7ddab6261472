"""A run that ends when its ranking is known: what it asks, what it says, and how often it errs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import quantus
import torch
from scipy import stats
from torch import nn

import quantus_ext
from quantus_ext import Evaluation, evaluate
from quantus_ext.evaluation.statistics import paired_means
from quantus_ext.evaluation.stopping import Looks, StoppingRule, Verdict
from quantus_ext.files import sealed_json
from tests.evaluation.problem import Fails, data, network, noise, rows_counted
from tests.harness import gradients

N = 96


def sharp(counter: Path | None = None) -> nn.Module:
    """Return a model whose answers change with what is removed."""
    model = network(counter)
    with torch.no_grad():
        model.layers[3].weight *= 20
    return model


def right(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return inputs * gradients(model, inputs, targets)


def opposite(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -right(model, inputs, targets)


METHODS = {"right": right, "again": right, "opposite": opposite, "noise": noise}


def metrics():
    return {
        "MoRF": quantus_ext.MoRF(4),
        "R-Fidelity": quantus_ext.RFidelity([0.5], n_samples=2, output="probability"),
        "INFD": quantus_ext.Infidelity(n_perturb_samples=4, perturb_patch_sizes=[2]),
        "Pixels": quantus.FaithfulnessCorrelation(nr_runs=4, subset_size=3, disable_warnings=True),
    }


def run(**given: object) -> Evaluation:
    x, y = data(N)
    given = {
        "metrics": metrics(),
        "xai_methods": METHODS,
        "model": sharp(),
        "x_batch": x,
        "y_batch": y,
        "batch_size": 8,
        "until": "ranked",
        "smallest_difference": 0.2,
        **given,
    }
    return evaluate(**given)


@pytest.fixture(scope="module")
def ranked() -> Evaluation:
    return run()


def same(first: Evaluation, second: Evaluation, rtol: float = 1e-6) -> None:
    np.testing.assert_allclose(first.scores, second.scores, rtol=rtol, atol=1e-7)
    np.testing.assert_array_equal(first.stopping.counts, second.stopping.counts)
    np.testing.assert_array_equal(first.stopping.verdicts, second.stopping.verdicts)
    np.testing.assert_array_equal(first.stopping.order, second.stopping.order)


def test_fewer_samples_are_scored_and_each_as_in_a_full_run(ranked):
    counts = ranked.stopping.counts
    assert counts.min() < N
    names = ["MoRF", "R-Fidelity", "INFD"]
    full = run(until=None, smallest_difference=None, metrics={k: metrics()[k] for k in names})
    for row, explainer in enumerate(ranked.explainers):
        for column, metric in enumerate(ranked.metrics):
            asked = ranked.stopping.order[: counts[row, column]]
            scores = ranked.scores_of(explainer, metric)
            assert np.isnan(np.delete(scores, asked)).all()
            # Explainers that draw from global states do so batch by batch.
            if metric in names and explainer != "noise":
                expected = full.scores_of(explainer, metric)[asked]
                np.testing.assert_allclose(scores[asked], expected, rtol=1e-5, atol=1e-7)


def test_rows_that_are_not_needed_are_not_sent(tmp_path):
    counter, whole = tmp_path / "rows", tmp_path / "all"
    chosen = {"MoRF": quantus_ext.MoRF(4)}
    # Maps that are there already ask nothing by themselves.
    x, y = data(N)
    maps = {"right": right(sharp(), x, y), "wrong": -right(sharp(), x, y)}
    early = run(model=sharp(counter), xai_methods=maps, metrics=chosen)
    run(model=sharp(whole), xai_methods=maps, metrics=chosen, until=None, smallest_difference=None)
    share = early.stopping.counts.max() / N
    assert share < 1
    assert rows_counted(counter) < rows_counted(whole) * (share + 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [{"n_jobs": 2}, {"shard_size": 8, "batch_size": 4}],
    ids=["workers", "batches"],
)
def test_the_outcome_does_not_depend_on_how_it_is_run(given):
    chosen = {k: metrics()[k] for k in ("MoRF", "INFD")}
    methods = {k: METHODS[k] for k in ("right", "opposite", "again")}
    same(
        run(metrics=chosen, xai_methods=methods), run(metrics=chosen, xai_methods=methods, **given)
    )


def test_a_run_that_was_cut_off_goes_on(tmp_path, ranked):
    counter = tmp_path / "rows"
    x, y = data(N)
    methods = {"a": right(sharp(), x, y), "b": -right(sharp(), x, y)}
    chosen = {"MoRF": quantus_ext.MoRF(4), "INFD": metrics()["INFD"]}
    settings = {"metrics": chosen, "smallest_difference": {"MoRF": 0.2}}
    whole = run(xai_methods=methods, model=sharp(counter), **settings)
    needed = rows_counted(counter)
    store = tmp_path / "store"
    run(xai_methods=methods, store=store, **settings)
    # As killed in the middle: later shards are not there.
    files = sorted((store / "shards").iterdir(), key=lambda file: file.name[5:])
    for file in files[len(files) // 2 :]:
        file.unlink()
    counter.unlink()
    again = run(xai_methods=methods, model=sharp(counter), store=store, **settings)
    same(again, whole)
    assert rows_counted(counter) < needed
    counter.unlink()
    same(run(xai_methods=methods, model=sharp(counter), store=store, **settings), whole)
    # What tells the model from others, and nothing else.
    assert rows_counted(counter) <= 16
    stricter = run(
        xai_methods=methods, store=store, metrics=chosen, smallest_difference={"MoRF": 1e-6}
    )
    same(stricter, run(xai_methods=methods, metrics=chosen, smallest_difference={"MoRF": 1e-6}))


def test_data_in_files_are_read_in_the_same_order(tmp_path):
    x, y = data(N)
    a = right(sharp(), x, y)
    for name, values in (("x", x), ("y", y), ("a", a)):
        np.save(tmp_path / f"{name}.npy", values)
    chosen = {"MoRF": quantus_ext.MoRF(4)}
    found = run(
        metrics=chosen,
        x_batch=tmp_path / "x.npy",
        y_batch=tmp_path / "y.npy",
        xai_methods={"right": tmp_path / "a.npy", "wrong": -a},
    )
    same(found, run(metrics=chosen, xai_methods={"right": a, "wrong": -a}))
    for case in found.cases:
        np.testing.assert_array_equal(case.x, x[case.index])
        np.testing.assert_array_equal(case.maps["right"], a[case.index])
        assert case.y == y[case.index]


def test_what_belongs_to_samples_goes_along_in_their_order():
    x, _ = data(N)
    generator = np.random.default_rng(0)
    truth = (generator.random((N, 1, 4, 4)) < 0.3).astype(int)
    truth[:, 0, 0, 0], truth[:, 0, 0, 1] = 0, 1
    maps = {"truth": truth.astype(float), "noise": generator.random(x.shape)}
    found = run(
        metrics={"Syn": quantus_ext.SynScore()},
        xai_methods=maps,
        s_batch=truth,
        smallest_difference=None,
    )
    assert (found.scores_asked("truth", "Syn") == 1).all()
    assert found.stopping.counts.max() < N


def test_what_it_says(ranked):
    ranking = ranked.ranking()
    by_name = {row.explainer: row for row in ranking.of("MoRF")}
    assert by_name["right"].close == ("again",)
    assert by_name["right"].ties == ()
    assert by_name["right"].shown_rank == "1 ≈"
    assert by_name["opposite"].rank == 4
    assert by_name["opposite"].n == ranked.stopping.counts[2, 0]
    for row in ranking.rows:
        assert row.low <= row.mean <= row.high
    compared = ranked.compare("right", "opposite").rows[0]
    assert compared.p_value < 0.05
    assert compared.low > 0
    assert compared.n == min(ranked.stopping.counts[[0, 2], 0])
    again = ranked.compare("right", "again").rows[0]
    assert (again.difference, again.p_value) == (0, 1)
    assert again.low < 0 < again.high
    assert ranked.agreement().correlation.shape == (4, 4)


def test_json_keeps_it(ranked):
    read = Evaluation.from_json(ranked.to_json())
    same(read, ranked, rtol=0)
    assert read.ranking() == ranked.ranking()
    assert read.stopping.rule == ranked.stopping.rule
    content = json.loads(ranked.to_json())
    content["stopping"]["order"][0] = content["stopping"]["order"][1]
    with pytest.raises(ValueError, match="where it stopped does not fit its scores"):
        Evaluation.from_json(sealed_json({k: v for k, v in content.items() if k != "sha256"}))


def test_pages_say_on_how_many_samples_each_number_rests(ranked, tmp_path):
    page = ranked.to_html(tmp_path / "page.html").read_text()
    text = ranked.to_markdown()
    for told in (page, text):
        assert "ended when the ranking was known" in told
    for count in np.unique(ranked.stopping.counts):
        assert f"{count} samples" in page
        assert f"n = {count}" in text


def test_a_failing_explainer_is_not_asked_for_ever(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    chosen = {"Fails": Fails(mark, int(run().stopping.order[3])), "MoRF": quantus_ext.MoRF(4)}
    with pytest.warns(RuntimeWarning, match="some scores are NaN"):
        found = run(metrics=chosen, xai_methods={"a": right, "b": opposite})
    assert found.stopping.counts[:, 0].tolist() == [8, 8]
    assert found.ranking().order("Fails") == ()
    assert found.ranking().order("MoRF") == ("a", "b")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"until": "soon"}, ValueError, "until must be one of 'ranked', is 'soon'"),
        ({"until": None}, ValueError, 'smallest_difference needs until="ranked"'),
        ({"xai_methods": {"a": right}}, ValueError, "at least two explainers"),
        ({"smallest_difference": 0}, ValueError, "must be above 0"),
        ({"smallest_difference": {"LeRF": 1}}, ValueError, "names of columns, .* has LeRF"),
        ({"score_bounds": {"INFD": (1, 0)}}, ValueError, "the lower one first"),
        ({"score_bounds": {"INFD": (0, 1e-9)}}, ValueError, "scores of INFD must be between 0 and"),
        ({"score_bounds": {"MoRF": (0, 1)}}, ValueError, "whose metric says so itself"),
    ],
)
def test_bad_arguments_are_named(given, error, message):
    with pytest.raises(error, match=message):
        run(**given)


def test_a_dry_run_says_that_it_may_be_less(capsys):
    assert str(run(dry_run=True)).startswith("at most about ")


def test_missing_scores_of_another_explainer_decide_nothing():
    generator = np.random.default_rng(0)
    third = np.arange(150) % 3 == 0
    scores = np.stack(
        [
            np.where(third, 0.5, -0.32) + generator.normal(0, 0.1, 150),
            generator.normal(0, 0.01, 150),
            np.where(third, 0.25 + generator.normal(0, 3, 150), np.nan),
        ]
    )[:, None]
    rule = StoppingRule(0.95, 3, {}, {}, {})
    looks = Looks(rule, np.arange(150), ["a", "b", "c"], ["m"], [1])
    looks.look(scores, 150, np.zeros((3, 1), dtype=bool))
    assert looks.found.verdicts[0, 0, 1] == Verdict.OPEN


def test_ranks_are_those_of_the_verdicts():
    early, late = np.full(40, 0.9), np.zeros(360)
    scores = np.stack([np.r_[early, late], np.r_[0 * early, late + 0.9]])[:, None]
    rule = StoppingRule(0.95, 1, {}, {"m": (0, 1)}, {"m": 1.0})
    looks = Looks(rule, np.arange(400), ["a", "b"], ["m"], [1])
    looks.look(scores, 400, np.zeros((2, 1), dtype=bool))
    names = [{"m": scores[place, 0]} for place in range(2)]
    found = Evaluation.of_scores(dict(zip("ab", names, strict=True)), {"m": "higher"})
    ranked = dataclasses.replace(found, stopping=looks.found).ranking()
    assert looks.found.verdicts[0, 0, 1] == Verdict.BETTER
    assert ranked.order("m") == ("a", "b")


def test_a_copy_is_tuned_alike_and_drift_sees_no_change():
    x, y = data(N)
    maps = {"right": right(sharp(), x, y), "wrong": -right(sharp(), x, y)}
    metric = quantus_ext.FFidelity([0.5], n_samples=2, output="probability", beta=0.4)
    given = {"metrics": {"F": metric}, "xai_methods": maps}
    with pytest.warns(UserWarning, match="fine_tune is None"):
        early, full = run(**given), run(**given, until=None, smallest_difference=None)
    for name in maps:
        asked = early.stopping.order[: early.stopping.counts[list(maps).index(name), 0]]
        np.testing.assert_allclose(
            early.scores_asked(name, "F"), full.scores_of(name, "F")[asked], rtol=1e-5, atol=1e-7
        )
    assert early.drift(full).verdict == "same"


# Error rates, without a model: scores as they come from samples in random order.

RUNS, SAMPLES, LOOK = 200, 320, 16
MEANS = {
    "equal": [0.0, 0.0, 0.0, 0.0],
    "near": [0.0, 0.0, 0.01, 0.1],
}


def scores_of(generator: np.random.Generator, means: list[float], kind: str) -> np.ndarray:
    """Make scores (4 explainers, 2 metrics, samples): samples differ more than explainers do."""
    shape = (len(means), 2, SAMPLES)
    hard = generator.normal(size=shape[1:]) * 0.2
    if kind == "bounded":
        own = generator.beta(2, 2, size=shape) * 0.4 - 0.2
        return np.clip(hard, -0.6, 0.6) + own + np.array(means)[:, None, None]
    tails = generator.standard_t(3, size=shape) * 0.1
    return hard + tails + np.array(means)[:, None, None]


def outcome(scores: np.ndarray, kind: str) -> np.ndarray:
    explainers, columns, n = scores.shape
    names = ["a", "b"]
    bounds = dict.fromkeys(names, (-1.0, 1.0)) if kind == "bounded" else {}
    rule = StoppingRule(0.9, 6 * columns, {}, bounds, dict.fromkeys(bounds, 2.0))
    # One sample is never scored, so that no test of all follows: that is of another kind.
    looks = Looks(rule, np.arange(n + 1), list("vwxyz"[:explainers]), names, [1, -1])
    for end in range(LOOK, n + 1, LOOK):
        looks.look(scores, end, np.zeros((explainers, columns), dtype=bool))
    return looks.found.verdicts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bounded", "heavy tails"])
@pytest.mark.parametrize("means", MEANS)
def test_wrong_verdicts_are_as_rare_as_they_should_be(kind, means):
    generator = np.random.default_rng(3)
    true = np.sign(np.subtract.outer(MEANS[means], MEANS[means]))
    wrong = found = 0
    for _ in range(RUNS):
        verdicts = outcome(scores_of(generator, MEANS[means], kind), kind)
        said = verdicts * np.array([1, -1])[:, None, None]
        wrong += bool(((said != Verdict.OPEN) & (said != true)).any())
        found += bool((said[:, 0, 3] == -1).all())
    assert wrong <= stats.binom.ppf(0.999, RUNS, 0.1)
    if means == "near":
        assert found > 0.9 * RUNS


@pytest.mark.slow
def test_a_test_repeated_at_every_look_would_err_often():
    generator = np.random.default_rng(3)
    wrong = 0
    for _ in range(RUNS):
        scores = scores_of(generator, MEANS["equal"], "bounded")
        wrong += any(
            not paired_means(scores[:, 0, :end], confidence=0.9, n_resamples=100).tied.all()
            for end in range(LOOK, SAMPLES + 1, LOOK)
        )
    assert wrong > 2 * RUNS * 0.1
