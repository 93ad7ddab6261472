"""Automatic numbers of draws keep what they promise, however the samples come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import quantus_ext
from quantus_ext import QGE, AutoDraws, FFidelity, FineTuner, Infidelity, RFidelity, evaluate
from quantus_ext.draws import FEWEST, draws_for_a_ranking, draws_for_intervals, pilot_draws

N = 48


def problem(n: int = N) -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """Return a network, inputs, classes, and gradients times inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    x = np.random.default_rng(0).normal(size=(n, 12)).astype(np.float32)
    rows = torch.from_numpy(x).requires_grad_()
    outputs = model(rows)
    y = outputs.argmax(1)
    (gradient,) = torch.autograd.grad(outputs.gather(1, y[:, None]).sum(), rows)
    return model, x, y.numpy(), (gradient * rows).detach().numpy()


def auto(**given: object) -> RFidelity:
    return RFidelity([0.25, 0.5], n_samples="auto", output="probability", **given)


def replicates(
    seed: int, between: float, within: float, n: int, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make two sets of scores, (1, n), of true scores with these standard deviations."""
    generator = np.random.default_rng(seed)
    true = generator.normal(scale=between, size=n)
    noise = generator.normal(scale=within / draws**0.5, size=(2, n))
    return (true + noise[0])[None], (true + noise[1])[None]


@pytest.mark.parametrize("ratio", [0.5, 2.0, 4.0])
def test_intervals_are_as_narrow_as_promised(ratio):
    found = np.array(
        [draws_for_intervals(*replicates(seed, 1, ratio, 32, 5), 0.05, 50).n for seed in range(200)]
    )
    wider = np.sqrt(1 + ratio**2 / found)
    # The pilot's bound holds with 90 % confidence; what the most draws can't reach, none can.
    kept = (wider <= 1.05) | (found == 50)
    assert kept.mean() > 0.84
    # And no more than it takes, on the whole.
    assert np.median(found) <= max(FEWEST, min(50, 2.5 * ratio**2 / (1.05**2 - 1)))


@pytest.mark.parametrize("tail", [1.0, 1.5])
@pytest.mark.parametrize("ratio", [1.0, 6.0])
def test_intervals_of_scores_with_heavy_tails_are_nearly_so(tail, ratio):
    rng = np.random.default_rng(0)
    of_all = rng.lognormal(sigma=tail, size=400_000)
    # As of Infidelity, draws differ in proportion to the score; w² is ``ratio`` times b².
    share = np.sqrt(ratio * of_all.var() / np.square(of_all).mean())
    found = []
    for _ in range(200):
        true = rng.lognormal(sigma=tail, size=32)
        pair = (true * (1 + share * rng.normal(size=32) / 20**0.5) for _ in range(2))
        found.append(draws_for_intervals(*map(np.atleast_2d, pair), 0.05, 200).n)
    kept = (np.sqrt(1 + ratio / np.array(found)) <= 1.05) | (np.array(found) == 200)
    # 62 % to 80 % by the bound for normal scores alone.
    assert kept.mean() > 0.84


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0, 3),
    st.floats(0, 3),
    st.sampled_from([1.0, 8.0, 40.0]),
)
def test_a_ranking_costs_as_few_rows_as_the_variances_allow(seed, between, within, rows):
    draws = pilot_draws(200)
    pair = replicates(seed, between, within, 32, draws)
    n = draws_for_a_ranking(*pair, rows, 200).n
    e2 = float(np.square(pair[0] - pair[1]).mean() / 2)
    b2 = max(float(((pair[0] + pair[1]) / 2).var(ddof=1)) - e2 / 2, 0)
    cost = [(b2 + draws * e2 / k) * (1 + rows * k) for k in range(FEWEST, 201)]
    assert cost[n - FEWEST] <= min(cost) * (1 + 1e-9)


def test_the_means_are_those_of_many_draws():
    model, x, y, a = problem(200)
    metric = auto(score="gap")
    few = metric(model, x, y, a)
    many = RFidelity([0.25, 0.5], n_samples=200, output="probability", score="gap")
    all_of_them = many(model, x, y, a)
    spread = np.std(all_of_them, ddof=1)
    assert FEWEST <= metric.draws.n < 50
    assert np.std(few, ddof=1) < 1.05 * spread
    assert abs(np.mean(few) - np.mean(all_of_them)) < 4 * spread / 200**0.5
    assert np.isfinite(metric.standard_errors).all()
    assert metric.n_evaluations < many.n_evaluations / 2


@pytest.mark.parametrize("batch_size", [5, 16, N])
def test_batches_do_not_decide(batch_size):
    model, x, y, a = problem()
    metric, whole = auto(), auto()
    found = metric(model, x, y, a, batch_size=batch_size)
    np.testing.assert_allclose(found, whole(model, x, y, a), rtol=1e-5, atol=1e-7)
    assert metric.draws == whole.draws
    np.testing.assert_allclose(
        found,
        RFidelity([0.25, 0.5], n_samples=metric.draws.n, output="probability")(model, x, y, a),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["all", "ranked"])
def test_evaluate_decides_once_for_all_shards_and_workers(tmp_path, goal):
    model, x, y, a = problem(24)
    maps = {"right": a, "wrong": -a, "random": np.random.default_rng(1).permuted(a, axis=1)}
    given = {
        "metrics": {
            "R-Fidelity": auto(),
            "QGE": QGE(Infidelity(n_perturb_samples=AutoDraws(at_most=20))),
        },
        "xai_methods": maps,
        "model": model,
        "x_batch": x,
        "y_batch": y,
        "until": None if goal == "all" else "ranked",
    }
    whole = evaluate(**given, batch_size=8)
    draws = whole.settings["draws"]
    assert set(draws) == {"R-Fidelity", "QGE"}
    for again in (
        evaluate(**given, batch_size=4, shard_size=8),
        evaluate(**given, batch_size=8, n_jobs=2),
        evaluate(**given, batch_size=8, store=tmp_path / "store"),
    ):
        assert again.settings["draws"] == draws
        np.testing.assert_allclose(again.scores, whole.scores, rtol=1e-4, atol=1e-6)
    shards = sorted((tmp_path / "store" / "shards").iterdir())
    for file in shards[1:]:
        file.unlink()
    resumed = evaluate(**given, batch_size=8, store=tmp_path / "store")
    assert resumed.settings["draws"] == draws
    np.testing.assert_allclose(resumed.scores, whole.scores, rtol=1e-4, atol=1e-6)


def test_the_store_keeps_a_decision_for_all_runs(tmp_path):
    model, x, y, a = problem()
    given = ({"R": auto()}, {"a": a, "b": -a}, model, x, y)
    first = evaluate(*given, store=tmp_path)
    (kept,) = tmp_path.glob("draws-*.json")
    for file in (tmp_path / "shards").iterdir():
        file.unlink()
    kept.write_text(kept.read_text()[:-20])
    with pytest.warns(RuntimeWarning, match="is left out and found again: it is damaged"):
        again = evaluate(*given, store=tmp_path)
    assert again.settings["draws"] == first.settings["draws"]
    # With nothing left to do as well.
    assert evaluate(*given, store=tmp_path).settings == first.settings


def test_a_tuned_copy_answers_in_the_pilot_too():
    model, x, y, a = problem()
    tuner = FineTuner(x, y, epochs=1, display_progressbar=False)
    metric = FFidelity(
        [0.5], fine_tune=tuner, n_samples=AutoDraws(n_pilot=16), beta=0.4, output="probability"
    )
    found = metric(model, x, y, a)
    fixed = FFidelity(
        [0.5], fine_tune=tuner, n_samples=metric.draws.n, beta=0.4, output="probability"
    )
    np.testing.assert_allclose(found, fixed(model, x, y, a), rtol=1e-5, atol=1e-7)
    assert metric.health is not None
    assert len(metric.healths) == 1


def test_a_ranking_takes_one_draw_where_sizes_tell_how_certain_it_is():
    model, x, y, a = problem()
    ranking = AutoDraws(goal="ranking")

    def drawn(metric: object) -> int:
        metric(model, x, y, a)
        assert np.isfinite(metric.standard_errors).all()
        return metric.draws.n

    sizes = np.linspace(0.1, 1, 10).round(1)
    assert drawn(RFidelity(sizes, n_samples=ranking, output="probability")) == 1
    # Of one size a standard error takes two, and so it does of what has no sizes.
    assert drawn(RFidelity([0.5], n_samples=ranking, output="probability")) >= FEWEST
    assert QGE(RFidelity(sizes, n_samples=ranking)).known_draws().n == 1
    assert drawn(Infidelity(n_perturb_samples=ranking)) >= FEWEST


def test_few_samples_get_the_most_draws():
    model, x, y, a = problem(4)
    metric = auto()
    metric(model, x, y, a)
    assert metric.draws.n == 50
    assert "4 samples are too few" in metric.draws.reason


def test_maps_that_are_made_and_predicted_classes():
    model, x, _, _ = problem()

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(inputs).requires_grad_()
        chosen = model(rows).gather(1, torch.from_numpy(targets)[:, None])
        return (torch.autograd.grad(chosen.sum(), rows)[0] * rows).detach().numpy()

    made, given = auto(), auto()
    y = model(torch.from_numpy(x)).argmax(1).numpy()
    np.testing.assert_allclose(
        made(model, x, y, explain_func=explain),
        given(model, x, None, explain(model, x, y)),
        rtol=1e-5,
        atol=1e-7,
    )
    assert made.draws == given.draws


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoDraws(widening=0), "must be above 0"),
        (lambda: AutoDraws(n_pilot=4), "at least 8"),
        (lambda: AutoDraws(at_most=1), "at least 2"),
        (lambda: AutoDraws(goal="speed"), "one of 'intervals', 'ranking'"),
        (lambda: RFidelity(n_samples="many"), '"auto" or AutoDraws'),
        (lambda: RFidelity(n_samples="auto", tolerance=0.1), "where tolerance is given"),
        (lambda: Infidelity(n_perturb_samples="auto", scheme="quantus"), "not defined"),
        (lambda: Infidelity(n_perturb_samples="auto", rescale=True), "where rescale is True"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_random_curves_take_it():
    model, x, y, a = problem()
    metric = quantus_ext.Deletion(4, n_samples="auto", perturb_baseline="uniform")
    metric(model, x, y, a)
    assert FEWEST <= metric.draws.n <= 50
    fixed = quantus_ext.Deletion(4, n_samples="auto")
    fixed(model, x, y, a)
    once = quantus_ext.Deletion(4)
    once(model, x, y, a)
    assert fixed.draws.n == 1
    assert fixed.n_evaluations == once.n_evaluations
