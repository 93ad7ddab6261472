"""What ``evaluate`` takes, does and refuses."""

from __future__ import annotations

import copy
import random
import tracemalloc

import numpy as np
import pytest
import quantus
import torch

import quantus_ext
from quantus_ext import QGE, FFidelity, FineTuner, Infidelity, MoRF, evaluate
from quantus_ext.adapters import TokenIds
from quantus_ext.batch import Batch
from quantus_ext.engine.forward import Forward
from quantus_ext.evaluation import Estimate
from quantus_ext.functional.scores import Scores
from tests.evaluation.problem import (
    BATCH,
    METHODS,
    Fails,
    N,
    assert_same,
    broken,
    data,
    metrics,
    network,
    noise,
    rows_counted,
    run,
)
from tests.harness import gradients


def test_quantus_evaluate_gives_the_same():
    """The same arguments by position, the same dict and the same table back."""
    x, y = data()
    given = (
        {"EC": quantus.EffectiveComplexity(disable_warnings=True), "MoRF": MoRF(4)},
        {"own": lambda model, inputs, targets, **_: gradients(model, inputs, targets)},
        network(),
        x,
        y,
    )
    for agg_func in (np.mean, lambda scores: scores):
        theirs = quantus.evaluate(*given, None, agg_func, {})
        ours = evaluate(*given, None, agg_func, {}).to_dict()
        assert list(theirs) == list(ours)
        for metric, scores in theirs["own"].items():
            np.testing.assert_allclose(ours["own"][metric], scores, rtol=1e-5)
    frame = evaluate(*given, None, np.mean, {}, None, True)
    theirs = quantus.evaluate(*given, None, np.mean, {}, None, True)
    np.testing.assert_allclose(frame.to_numpy(float), theirs.to_numpy(float), rtol=1e-5)
    assert list(frame.index) == list(theirs.index)


def test_each_kind_of_explainer():
    x, y = data()
    maps = gradients(network(), x, y)

    def named(model, inputs, targets, method, scale):
        assert method == "named"
        return scale * gradients(model, inputs, targets)

    evaluation = run(
        metrics={"MoRF": MoRF(4)},
        xai_methods={
            "array": maps,
            "tensor": torch.from_numpy(maps),
            "named": named,
            "nested": {"explain_func": gradients, "explain_func_kwargs": {}},
            "Saliency": {"xai_lib": "captum", "abs": False},
        },
        explain_func_kwargs={"scale": 2.0},
    )
    assert not evaluation.failures
    for name in ("tensor", "named", "nested"):
        np.testing.assert_allclose(
            evaluation.scores_of(name, "MoRF"), evaluation.scores_of("array", "MoRF"), atol=1e-6
        )
    saliency = MoRF(4)(network(), x, y, np.abs(maps))
    np.testing.assert_allclose(evaluation.scores_of("Saliency", "MoRF"), saliency, rtol=1e-5)


def by_method(model, inputs, targets, method):
    """Explain as the method of that name says, and by no other."""
    return {"gradients": 1, "turned": -1}[method] * gradients(model, inputs, targets)


def test_the_method_that_is_given_wins_over_the_name():
    named = {"explain_func": by_method, "explain_func_kwargs": {"method": "turned"}}
    own = run(metrics={"MoRF": MoRF(4)}, xai_methods={"mine": named, "gradients": by_method})
    assert not own.failures
    shared = run(
        metrics={"MoRF": MoRF(4)},
        xai_methods={"mine": {"explain_func": by_method}},
        explain_func_kwargs={"method": "turned"},
    )
    x, y = data()
    expected = MoRF(4)(network(), x, y, -gradients(network(), x, y))
    for found in (own, shared):
        np.testing.assert_allclose(found.scores_of("mine", "MoRF"), expected, atol=1e-6)
    # A metric that explains again does it by the same method.
    stable = quantus.MaxSensitivity(nr_samples=2, disable_warnings=True)
    assert not run(metrics={"stable": stable}, xai_methods={"mine": named}).failures


def test_keywords_that_nobody_takes_are_named():
    x, _ = data()
    with pytest.warns(UserWarning, match="explain_func_kwargs, scale, are not used"):
        run(metrics={"MoRF": MoRF(2)}, xai_methods={"a": x}, explain_func_kwargs={"scale": 2})


@pytest.mark.parametrize(
    ("given", "batch_size", "shard_size"),
    [
        ({}, 64, 256),
        ({"batch_size": 8}, 8, 32),
        ({"shard_size": 8}, 8, 8),
        ({"shard_size": 64}, 64, 64),
        ({"shard_size": 96}, 48, 96),
        ({"shard_size": 512}, 64, 512),
        ({"shard_size": 8, "batch_size": 4}, 4, 8),
    ],
)
def test_default_sizes_fit_what_is_given(given, batch_size, shard_size):
    x, y = data()
    methods = {"own": x}
    found = evaluate({"MoRF": MoRF(2)}, methods, network(), x, y, **given)
    sizes = found.settings["batch_size"], found.settings["shard_size"]
    assert sizes == (batch_size, shard_size)


def test_files_are_read_shard_by_shard(tmp_path):
    x, y = data()
    for name, values in (("x", x), ("y", y), ("a", gradients(network(), x, y))):
        np.save(tmp_path / f"{name}.npy", values)
    evaluation = run(
        x_batch=tmp_path / "x.npy",
        y_batch=str(tmp_path / "y.npy"),
        xai_methods={"gradients": tmp_path / "a.npy", "noise": noise},
    )
    assert_same(evaluation, run())


def test_segmentations_are_split_as_the_samples_are():
    x, y = data()
    s = x > 0.5
    s[:, 0, 0, :2] = [True, False]
    evaluation = run(metrics={"SynScore": quantus_ext.SynScore()}, s_batch=s)
    expected = quantus_ext.SynScore()(network(), x, y, gradients(network(), x, y), s)
    np.testing.assert_allclose(evaluation.scores_of("gradients", "SynScore"), expected)


def test_a_model_is_not_asked_where_no_metric_asks_one(tmp_path):
    x, y = data()
    s = x > 0.5
    s[:, 0, 0, :2] = [True, False]
    located = quantus.RelevanceMassAccuracy(disable_warnings=True)
    chosen = {"SynScore": quantus_ext.SynScore(), "Mass": located, "QGE": QGE(located)}
    counter = tmp_path / "rows"
    found = run(
        metrics=chosen,
        xai_methods={"maps": gradients(network(), x, y)},
        model=network(counter),
        s_batch=s,
    )
    assert not found.failures
    assert found.n_evaluations.sum() == 0
    # What the model is known by is a few answers.
    assert rows_counted(counter) < N


def test_a_failure_stays_in_its_cell(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    with pytest.warns(RuntimeWarning) as told:
        evaluation = run(
            metrics={"fails": Fails(mark, 9), **metrics()},
            xai_methods={"broken": broken, **METHODS},
        )
    assert len(told) == 1
    assert str(told[0].message) == (
        "some scores are NaN, and without a rank, because of errors: broken by fails, INFD, "
        "R-Fidelity, QGE, Correlation (explaining failed: RuntimeError: no such layer); gradients "
        "by fails (RuntimeError: cannot score sample 9); noise by fails (RuntimeError: cannot "
        "score sample 9). All are in evaluation.failures, with their tracebacks"
    )
    assert told[0].filename.endswith("problem.py")
    assert evaluation.ranking().order("fails") == ()
    whole = run()
    for explainer in METHODS:
        for metric in metrics():
            np.testing.assert_array_equal(
                evaluation.scores_of(explainer, metric), whole.scores_of(explainer, metric)
            )
        scores = evaluation.scores_of(explainer, "fails")
        assert np.flatnonzero(np.isnan(scores)).tolist() == list(range(8, 16))
    assert np.isnan(evaluation.scores[0]).all()
    failures = {(f.explainer, f.metric, f.start): f for f in evaluation.failures}
    assert len(failures) == 3 * 5 + 2
    own = failures["noise", "fails", 8]
    assert own.error == "RuntimeError: cannot score sample 9"
    assert "evaluate_batch" in own.traceback
    assert failures["broken", "INFD", 0].error == ("explaining failed: RuntimeError: no such layer")


def test_each_shard_is_explained_once_for_all_metrics():
    calls = []

    def explain(model, inputs, targets):
        calls.append(len(inputs))
        return gradients(model, inputs, targets)

    run(xai_methods={"explain": explain})
    assert calls == [BATCH] * (N // BATCH)


def test_clean_outputs_are_computed_once_a_shard(tmp_path):
    counter = tmp_path / "rows"

    def rows(n_metrics, n_methods):
        counter.unlink(missing_ok=True)
        found = run(
            metrics={f"MoRF {i}": MoRF(4) for i in range(n_metrics)},
            xai_methods={str(i): np.ones((N, 1, 4, 4), np.float32) for i in range(n_methods)},
            model=network(counter),
        )
        # Both ends of each curve are counted as evaluations.
        assert found.n_evaluations.sum() == n_metrics * n_methods * N * 5
        return rows_counted(counter)

    # Of each further metric, and explainer with the same ranking, everything is known.
    assert rows(3, 2) == rows(1, 1) >= 5 * N


def test_nothing_of_the_callers_changes():
    model, (x, y), given = network(), data(), metrics()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    before = copy.deepcopy((x, y, model.state_dict()))
    run(metrics=given, model=model, x_batch=x, y_batch=y, verbose=True)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1][1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert all(torch.equal(v, before[2][name]) for name, v in model.state_dict().items())
    assert all(metric.evaluation_scores == [] for metric in given.values())
    assert not model._forward_pre_hooks


def test_calls_with_other_arguments_are_columns_of_their_own():
    calls = {"logits": {"softmax": False}, "probabilities": {"softmax": True}}
    evaluation = run(metrics={"MoRF": MoRF(4)}, call_kwargs=calls)
    assert evaluation.metrics == ("MoRF (logits)", "MoRF (probabilities)")
    x, y = data()
    a = gradients(network(), x, y)
    for name, call in calls.items():
        found = evaluation.to_dict()["gradients"]["MoRF"][name]
        np.testing.assert_allclose(found, MoRF(4)(network(), x, y, a, **call), atol=1e-6)
    with pytest.raises(ValueError, match="return_as_df needs one call"):
        run(metrics={"MoRF": MoRF(4)}, call_kwargs=calls, return_as_df=True)


@pytest.mark.parametrize("softmax", [True, False])
def test_a_softmax_is_that_of_all_calls(softmax):
    metrics = {
        "MoRF": MoRF(4),
        "INFD": Infidelity(n_perturb_samples=5, perturb_patch_sizes=[2]),
        "Quantus's": quantus.FaithfulnessCorrelation(
            nr_runs=5, subset_size=3, return_aggregate=False, disable_warnings=True
        ),
    }
    found = run(metrics=metrics, softmax=softmax)
    assert_same(found, run(metrics=metrics, call_kwargs={"": {"softmax": softmax}}))
    other = run(metrics=metrics, softmax=not softmax)
    for metric in metrics:
        assert (
            found.scores_of("gradients", metric) != other.scores_of("gradients", metric)
        ).any(), metric


def tuned_once(**settings):
    x, y = data()
    tuner = settings.pop("fine_tune", FineTuner(x, y, epochs=1, display_progressbar=False))
    metric = FFidelity([0.5], fine_tune=tuner, n_samples=4, output="probability", beta=0.4)
    return run(metrics={"FF": metric}, **settings)


def test_f_fidelity_is_tuned_once_before_the_split():
    trained = []

    def fine_tune(model, mask_sampler):
        trained.append(model)
        torch.nn.init.normal_(model.layers[1].weight)
        return model

    evaluation = tuned_once(fine_tune=fine_tune)
    assert len(trained) == 1
    x, y = data()
    whole = FFidelity([0.5], fine_tune=fine_tune, n_samples=4, output="probability", beta=0.4)
    expected = whole(network(), x, y, gradients(network(), x, y), batch_size=BATCH)
    np.testing.assert_allclose(evaluation.scores_of("gradients", "FF"), expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:fine_tune is None")
def test_f_fidelity_without_data_of_its_own_is_tuned_on_the_whole_set():
    small = tuned_once(fine_tune=None, shard_size=BATCH)
    np.testing.assert_allclose(
        small.scores, tuned_once(fine_tune=None, shard_size=N).scores, rtol=1e-5
    )
    x, y = data()
    whole = FFidelity([0.5], n_samples=4, output="probability", beta=0.4)
    expected = whole(network(), x, y, gradients(network(), x, y), batch_size=BATCH)
    np.testing.assert_allclose(small.scores_of("gradients", "FF"), expected, rtol=1e-5)


def test_roar_within_qge_is_trained_once_before_the_split():
    x, y = data()
    tuner = FineTuner(x, y, epochs=1, display_progressbar=False)
    roar = quantus_ext.ROAR(tuner, gradients(network(), x, y), [0.3, 0.6], output="probability")
    expected = QGE(roar)(network(), x, y, gradients(network(), x, y), batch_size=BATCH)
    evaluation = run(metrics={"QGE": QGE(roar)})
    np.testing.assert_allclose(evaluation.scores_of("gradients", "QGE"), expected, rtol=1e-5)


def test_a_seed_of_none_is_fresh_and_the_same_for_all_shards():
    metric = {
        "INFD": quantus_ext.Infidelity(n_perturb_samples=4, perturb_patch_sizes=[2], seed=None)
    }
    x, y = data(2 * BATCH)
    twice = np.concatenate([x[:BATCH]] * 2)
    # Constant inputs would show shards that share draws, equal seeds that they don't.
    first = run(metrics=metric, x_batch=twice, y_batch=y, xai_methods={"g": gradients})
    second = run(metrics=metric, x_batch=twice, y_batch=y, xai_methods={"g": gradients})
    # Not of every sample: of so few windows the same four come again at times.
    assert (first.scores != second.scores).any()
    assert metric["INFD"].seed is None


def test_noise_is_fresh_with_a_seed_of_none_and_else_the_same():
    assert_same(run(), run())
    first, second = (run(seed=None).scores_of("noise", "INFD") for _ in range(2))
    assert (first != second).all()
    assert (run(seed=1).scores_of("noise", "INFD") != run().scores_of("noise", "INFD")).all()


def test_a_dry_run_says_what_it_would_cost_and_does_not_start(tmp_path, capsys):
    counter = tmp_path / "rows"
    found = run(model=network(counter), dry_run=True, store=tmp_path / "store")
    assert isinstance(found, Estimate)
    assert not (tmp_path / "store").exists()
    assert rows_counted(counter) < 1200
    assert found.n_evaluations == pytest.approx(run().n_rows, rel=0.1)
    assert found.seconds > 0
    assert found.n_tasks == 3
    printed = capsys.readouterr().out
    assert f"{found.n_evaluations:,} evaluations" in printed
    failing = run(xai_methods={"broken": broken}, dry_run=True)
    assert "will fail: broken, INFD: explaining failed: RuntimeError" in str(failing)


def test_a_dry_run_trains_nothing():
    def fine_tune(model, mask_sampler):
        raise AssertionError("trained")

    assert not tuned_once(fine_tune=fine_tune, dry_run=True).failures


def test_metrics_in_a_list_have_their_own_names():
    evaluation = run(metrics=[MoRF(4), quantus_ext.Deletion(4)])
    assert evaluation.metrics == ("MoRF", "Deletion")
    with pytest.raises(ValueError, match="different names, pass a dict; they have MoRF, MoRF"):
        run(metrics=[MoRF(4), MoRF(8)])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a torch.nn.Module"),
        ({"model": network().train()}, ValueError, "evaluation mode"),
        ({"metrics": {}}, ValueError, "metrics must hold at least one"),
        ({"metrics": "MoRF"}, TypeError, "metrics must be a dict or a list"),
        ({"metrics": {"m": 3}}, TypeError, r"metrics\['m'\] must be a metric"),
        ({"xai_methods": {}}, TypeError, "xai_methods must be a dict"),
        ({"xai_methods": {"a": 3}}, TypeError, r"xai_methods\['a'\] must be an array"),
        (
            {"xai_methods": {"a": np.ones((5, 1, 4, 4))}},
            ValueError,
            "map for each of the 24 samples",
        ),
        ({"y_batch": None}, TypeError, "y_batch must hold the explained classes"),
        ({"y_batch": np.zeros(5, int)}, ValueError, "y_batch must have 24 rows"),
        ({"y_batch": np.full(N, 0.5)}, TypeError, "must hold integers"),
        ({"shard_size": 6}, ValueError, "shard_size must be a multiple of batch_size, 4, is 6"),
        ({"shard_size": 0}, ValueError, "shard_size must be at least 1"),
        ({"confidence": 1.0}, ValueError, "confidence must be between 0 and 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"devices": []}, ValueError, "devices must be a list"),
        ({"devices": ["cpu"], "device": "cpu"}, ValueError, "both given"),
        ({"cases": -1}, ValueError, "cases must be at least 0"),
        ({"call_kwargs": {"a": 3}}, TypeError, "call_kwargs must be a dict"),
        ({"call_kwargs": {"a": {"a_batch": 3}}}, ValueError, "must not hold a_batch"),
        ({"softmax": "no"}, TypeError, "softmax must be True or False, is 'no'"),
        (
            {"softmax": True, "call_kwargs": {"a": {"softmax": False}}},
            ValueError,
            r"softmax=True is that of all calls: leave it out, .* call_kwargs\['a'\]",
        ),
        ({"x_batch": "missing.npy"}, FileNotFoundError, "missing.npy"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"explain_func_kwargs": 3}, TypeError, "explain_func_kwargs must be a dict, is 3"),
        (
            {"explain_func_kwargs": {"method": "turned"}},
            ValueError,
            "must not hold one method for gradients, noise, has 'turned'",
        ),
        (
            {"xai_methods": {"a": {"explain_func": gradients, "kwargs": {}}}},
            TypeError,
            r"xai_methods\['a'\] must hold a callable explain_func",
        ),
        (
            {"xai_methods": {"a": {"explain_func": "Saliency"}}},
            TypeError,
            r"xai_methods\['a'\] must hold a callable explain_func",
        ),
    ],
)
def test_what_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        run(**settings)


def test_verbose_wins_over_its_old_name(capsys):
    with pytest.warns(DeprecationWarning, match="old name of verbose"):
        run(metrics={"MoRF": MoRF(2)}, progress=True, verbose=False)
    assert not capsys.readouterr().out


def test_the_old_name_of_verbose(capsys):
    with pytest.warns(DeprecationWarning, match="old name of verbose"):
        run(progress=True)
    assert "evaluations" in capsys.readouterr().out


def test_no_cases():
    assert run(cases=0).cases == ()


class Cheap(quantus_ext.SynScore):
    """Asks the model nothing, so that there is little but attributions."""

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        score = batch.maps.flatten(2).sum(2).double()
        return Scores(score, torch.zeros_like(score), {})


@pytest.mark.slow
def test_fifty_thousand_samples_stream_through(tmp_path):
    """What is held at a time does not grow with the samples, but for the scores."""
    n = 50_000
    generator = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", generator.normal(size=(n, 1, 4, 4)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.zeros(n, dtype=np.int64))

    def explain(model, inputs, targets):
        return inputs.astype(np.float64)

    given = {
        "metrics": {"cheap": Cheap()},
        "xai_methods": {"a": explain, "b": explain},
        "model": network(),
        "x_batch": tmp_path / "x.npy",
        "y_batch": tmp_path / "y.npy",
        "batch_size": 500,
    }
    tracemalloc.start()
    try:
        found = run(**{**given, "shard_size": 500})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.n == n
    assert not found.failures
    scores = found.scores.nbytes + found.standard_errors.nbytes
    attributions = 2 * n * 16 * 8
    assert peak < 2 * scores + attributions / 10


def similarity(a, b, **kwargs):
    return np.array([np.corrcoef(i.ravel(), j.ravel())[0, 1] for i, j in zip(a, b, strict=True)])


def test_metrics_that_explain_again_do_not_get_the_draws_of_the_explanation():
    def drawn(model, inputs, targets):
        return torch.randn(inputs.shape).numpy()

    metric = quantus.RandomLogit(num_classes=3, similarity_func=similarity, disable_warnings=True)
    found = run(metrics={"RandomLogit": metric}, xai_methods={"drawn": drawn})
    assert not found.failures
    assert abs(found.scores.mean()) < 0.3


def test_an_explainer_that_leaves_training_mode_takes_nothing_from_others():
    def trains(model, inputs, targets):
        model.train()
        return inputs

    model = network()
    found = run(xai_methods={"trains": trains, "noise": noise}, model=model)
    assert not found.failures
    assert not model.training


def test_an_explainer_that_changes_weights_fails_in_its_cell():
    def changes(model, inputs, targets):
        with torch.no_grad():
            model.layers[1].weight.add_(0.1)
        return inputs

    found = run(xai_methods={"noise": noise, "changes": changes})
    assert {failure.explainer for failure in found.failures} == {"changes"}
    assert "must leave the model's weights as they are" in found.failures[0].error


def test_training_that_fails_fails_in_its_cell(capsys):
    def broken_tuning(model, masks):
        raise RuntimeError("no such data")

    chosen = {"MoRF": MoRF(4), "F-Fidelity": FFidelity(fine_tune=broken_tuning)}
    found = run(metrics=chosen)
    assert {failure.metric for failure in found.failures} == {"F-Fidelity"}
    assert "training failed: " in found.failures[0].error
    assert "no such data" in found.failures[0].error
    assert np.isfinite(found.scores[:, 0]).all()


def scaled_maps() -> np.ndarray:
    """Maps whose largest value differs from sample to sample; those of one shard are zeros."""
    x, y = data()
    maps = gradients(network(), x, y) * np.geomspace(1, 100, N)[:, None, None, None]
    maps[8:12] = 0
    return maps.astype(np.float32)


def test_other_packages_normalisation_goes_by_batches_and_never_by_shards():
    """The same number around Quantus's metric in QGE, beside it, and of Quantus for one batch."""
    own = quantus.Infidelity(
        perturb_patch_sizes=[2], perturb_baseline=0.2, normalise=True, disable_warnings=True
    )
    chosen = {"own": own, "QGE": QGE(own)}
    maps = scaled_maps()
    x, y = data()
    found = [
        run(metrics=chosen, xai_methods={"maps": maps}, shard_size=size) for size in (BATCH, 8, N)
    ]
    for other in found:
        # A shard of zeros fails no more than a larger one with zeros in it.
        assert not other.failures
        np.testing.assert_array_equal(other.scores, found[0].scores)
    whole = QGE(own)
    np.testing.assert_allclose(
        whole(network(), x, y, maps, batch_size=BATCH), found[0].scores_of("maps", "QGE"), rtol=1e-6
    )
    np.testing.assert_allclose(whole.details["score"], found[0].scores_of("maps", "own"), rtol=1e-6)
    for start in (0, 12, 20):
        part = slice(start, start + BATCH)
        np.testing.assert_allclose(
            own(network(), x[part], y[part], maps[part]),
            found[0].scores_of("maps", "own")[part],
            rtol=1e-5,
        )


def test_no_samples_are_refused():
    x, y = data()
    with pytest.raises(ValueError, match="x_batch must hold at least one sample"):
        run(x_batch=x[:0], y_batch=y[:0])


class Tokens(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(30, 6)
        self.layer = torch.nn.Linear(6, 3)

    def forward(self, ids):
        return self.layer(self.embedding(ids).mean(1))


def test_maps_over_the_embeddings_of_token_ids(tmp_path):
    generator = np.random.default_rng(0)
    ids, y = generator.integers(1, 30, (8, 7)), generator.integers(0, 3, 8)
    maps = generator.normal(size=(8, 7, 6)).astype(np.float32)
    tokens = Tokens().eval()
    model = TokenIds(tokens, mask_id=29, pad_id=0, embedding=tokens.embedding).eval()
    metric = Infidelity(n_perturb_samples=10)
    found = evaluate({"INFD": metric}, {"maps": maps}, model, ids, y, batch_size=4)
    assert not found.failures
    np.testing.assert_allclose(found.scores[0, 0], metric(model, ids, y, maps), rtol=1e-5)
    assert found.to_html(tmp_path / "page.html").exists()


@pytest.mark.filterwarnings("ignore:some scores are NaN")
@pytest.mark.parametrize("run", [{}, {"until": "ranked"}])
def test_samples_are_named_by_their_numbers_in_the_data_set(run):
    class Fails(torch.nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return super().forward(rows).masked_fill(rows[:, :1] == 9, torch.nan)

    model = Fails(4, 3).eval()
    x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
    x[7, 0], y = 9, np.zeros(12, dtype=int)
    other, high = np.ones(12, dtype=int), y.copy()
    other[10], high[11] = 0, 3
    maps = {"x": x, "-x": -x}
    run = {"batch_size": 2, "shard_size": 4, **run}

    with pytest.warns(RuntimeWarning, match=r"scores of samples \[7\] are not finite"):
        quantus_ext.evaluate([quantus_ext.MoRF(2)], maps, model, x, y, **run)
    x[7, 0] = 0
    call = {"own": {"output": "contrast", "other_class": other}}
    for labels, calls, message in (
        (high, None, "sample 11 has 3"),
        (y, call, "is 0 for sample 10, as in y_batch"),
    ):
        found = quantus_ext.evaluate(
            [quantus_ext.MoRF(2)], maps, model, x, labels, call_kwargs=calls, **run
        )
        assert found.failures
        assert all(message in failure.error for failure in found.failures)
    unknown = x.copy()
    unknown[9, 1] = np.nan
    found = quantus_ext.evaluate([quantus_ext.MoRF(2)], {"x": x, "?": unknown}, model, x, y, **run)
    assert [failure.explainer for failure in found.failures] == ["?"] * len(found.failures) != []
    assert all("first in sample 9" in failure.error for failure in found.failures)
