"""Several classes of each sample in one evaluation: each scores as it does alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import quantus_ext
from quantus_ext import Evaluation, FFidelity, Infidelity, MoRF, RFidelity
from quantus_ext.evaluation.rows import Rows
from quantus_ext.evaluation.targets import classes_of, maps_of_classes
from quantus_ext.flags import Flag
from tests.cases import untuned
from tests.evaluation.problem import METHODS, N, broken, data, metrics, network, rows_counted, run
from tests.harness import gradients

run = partial(run, y_batch=None)
_generator = np.random.default_rng(2)
OWN = np.stack([_generator.permutation(3)[:2] for _ in range(N)])


def same_by_class(first: Evaluation, second: Evaluation) -> None:
    for name in ("classes", "class_scores", "class_errors", "scores", "standard_errors"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def top(k: int) -> np.ndarray:
    with torch.no_grad():
        outputs = network()(torch.from_numpy(data()[0])).numpy()
    return np.argsort(-outputs, axis=1)[:, :k]


@pytest.mark.parametrize(
    ("targets", "classes"),
    [
        ("all", np.tile([0, 1, 2], (N, 1))),
        ("top2", top(2)),
        ("top1", top(1)),
        ([2, 0], np.tile([2, 0], (N, 1))),
        (torch.from_numpy(OWN), OWN),
    ],
    ids=["all", "top2", "top1", "list", "array"],
)
def test_each_class_scores_as_it_does_alone(targets, classes):
    several = run(targets=targets)
    np.testing.assert_array_equal(several.classes, classes)
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    close(several.scores, several.class_scores.mean(3))
    close(several.standard_errors, several.class_errors.mean(3))
    for place in range(classes.shape[1]):
        alone = run(y_batch=classes[:, place])
        close(several.class_scores[..., place], alone.scores)
        close(several.class_errors[..., place], alone.standard_errors)


def test_maps_that_are_there_are_read_class_by_class():
    maps = np.stack([gradients(network(), data()[0], OWN[:, place]) for place in range(2)], axis=1)
    several = run(targets=OWN, xai_methods={"gradients": gradients, "given": maps})
    np.testing.assert_array_equal(several.class_scores[0], several.class_scores[1])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"n_jobs": 2}, id="workers", marks=pytest.mark.slow),
        pytest.param({"shard_size": 24}, id="shards"),
    ],
)
def test_the_result_does_not_depend_on_how_it_is_run(settings):
    same_by_class(run(targets="top2", **settings), run(targets="top2"))


def test_a_store_gives_back_what_it_has(tmp_path):
    counter = tmp_path / "rows"
    kept = partial(run, targets="top2", store=tmp_path / "store")
    first = kept()
    for file in sorted((tmp_path / "store" / "shards").iterdir())[::2]:
        file.unlink()
    resumed = kept(model=network(counter))
    same_by_class(resumed, first)
    some = rows_counted(counter)
    same_by_class(kept(model=network(counter)), first)
    # A store asks a model a few rows, to know it; targets ask each sample once.
    assert rows_counted(counter) - some < some / 4
    with pytest.raises(ValueError, match="y_batch"):
        kept(targets="all")


def test_a_run_that_stops_keeps_classes_with_their_samples():
    maps = np.random.default_rng(0).normal(size=(N, 2, 1, 4, 4))
    methods = {"gradients": gradients, "given": maps}
    settings = {"metrics": {"MoRF": MoRF(4)}, "xai_methods": methods, "targets": "top2"}
    early = run(until="ranked", shard_size=4, **settings)
    whole = run(**settings)
    np.testing.assert_array_equal(early.classes, whole.classes)
    asked = np.isfinite(early.scores)
    assert asked.any()
    np.testing.assert_allclose(early.class_scores[asked], whole.class_scores[asked], rtol=1e-9)
    np.testing.assert_allclose(early.scores[asked], whole.scores[asked], rtol=1e-9)


def test_infidelity_asks_as_many_rows_as_for_one_class():
    settings = {"metrics": {"INFD": metrics()["INFD"]}, "xai_methods": {"gradients": gradients}}
    one, all_classes = run(y_batch=OWN[:, 0], **settings), run(targets="all", **settings)
    assert all_classes.n_rows == one.n_rows
    np.testing.assert_array_equal(all_classes.n_evaluations, one.n_evaluations)


@pytest.mark.slow
def test_draws_are_those_of_the_class_that_needs_the_most():
    settings = {
        "metrics": {
            "R": RFidelity([0.5], n_samples="auto"),
            "I": Infidelity(n_perturb_samples="auto"),
        },
        "xai_methods": {"gradients": gradients},
    }
    several = run(targets="all", **settings).settings["draws"]
    alone = [run(y_batch=np.full(N, c), **settings).settings["draws"]["R"]["n"] for c in range(3)]
    assert several["R"]["n"] == max(alone)
    assert several["I"]["n"] >= 2


def test_classes_whose_scores_cancel_out_leave_no_rounding():
    """Of one map for all classes, shares of the draws in which each is predicted add up to 1."""
    same = np.repeat(np.random.default_rng(0).normal(size=(N, 1, 1, 4, 4)), 3, axis=1)
    found = run(
        metrics={"R": RFidelity([0.3, 0.6], n_samples=7)},
        xai_methods={"same": same, "gradients": gradients},
        targets="all",
    )
    assert np.any(found.class_scores[0])
    assert not np.any(found.scores[0])


def test_an_explainer_that_fails_has_no_score_of_any_class():
    with pytest.warns(RuntimeWarning, match="no such layer"):
        found = run(targets="top2", xai_methods={**METHODS, "broken": broken})
    assert np.isnan(found.class_scores[2]).all()
    assert np.isnan(found.scores[2]).all()
    assert np.isfinite(found.class_scores[:2]).all()


def test_a_flag_of_one_class_is_one_of_the_sample():
    maps = np.random.default_rng(0).normal(size=(N, 2, 1, 4, 4))
    maps[3, 1] = 0
    with pytest.warns(UserWarning, match="same value everywhere for 1 of 24"):
        found = run(metrics={"MoRF": MoRF(4)}, xai_methods={"given": maps}, targets=OWN)
    flagged = (found.flags[0, 0] & int(Flag.ZERO_MAP)) > 0
    assert np.flatnonzero(flagged).tolist() == [3]


def test_tables_and_json():
    several = run(targets=OWN)
    frame = several.to_frame()
    assert len(frame) == several.class_scores.size
    row = frame[
        (frame["sample"] == 5) & (frame["explainer"] == "noise") & (frame["metric"] == "QGE")
    ]
    assert dict(zip(row["class"], row["score"], strict=True)) == dict(
        zip(OWN[5].tolist(), several.class_scores[1, 2, 5].tolist(), strict=True)
    )
    found = several.by_class().set_index(["class", "metric", "explainer"])
    for label in range(3):
        samples, places = np.nonzero(label == OWN)
        own = found.loc[(label, "INFD", "gradients")]
        scores = several.class_scores[0, 0, samples, places]
        assert own["n"] == len(samples)
        assert own["mean"] == pytest.approx(scores.mean())
        assert own["low"] < own["mean"] < own["high"]
    again = Evaluation.from_json(several.to_json())
    same_by_class(again, several)
    pd.testing.assert_frame_equal(again.by_class(), several.by_class())


def test_pages_say_what_a_score_is(tmp_path):
    several = run(targets="all")
    said = "A sample's score is the mean over its 3 explained classes."
    assert said in several.to_markdown()
    page = several.to_html(tmp_path / "page.html").read_text()
    assert said.replace("'", "&#39;") in page
    assert "Class by class" in page
    assert "Class by class" not in run(y_batch=OWN[:, 0]).to_html(tmp_path / "one.html").read_text()


def test_shap_values_of_tables_are_for_each_class():
    values, x = np.arange(24.0).reshape(2, 4, 3), np.zeros((2, 4))
    for own in maps_of_classes("shap", values, x, 2):
        np.testing.assert_array_equal(own, values)
    by_class = maps_of_classes("own", values.transpose(0, 2, 1), x, 3)
    np.testing.assert_array_equal(by_class[1], values[:, :, 1])
    with pytest.raises(
        ValueError, match=r"\['both'\] have the shape \(2, 3, 3\), in which features"
    ):
        maps_of_classes("both", np.zeros((2, 3, 3)), np.zeros((2, 3)), 3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"targets": "top"}, ValueError, 'targets must be "all", "top3" or alike.*is \'top\''),
        ({"targets": "top4"}, ValueError, "at most the 3 classes of the model, is 'top4'"),
        ({"targets": []}, ValueError, "targets"),
        ({"targets": "top0"}, ValueError, "targets must be"),
        ({"targets": [1, 1]}, ValueError, "targets must hold different classes"),
        ({"targets": [0.5, 1]}, (TypeError, ValueError), "targets"),
        ({"targets": OWN[:-1]}, ValueError, r"targets must have shape \(24, 2\)"),
        ({"targets": np.eye(3, dtype=int)[OWN[:, 0]]}, ValueError, "one-hot"),
        ({"targets": OWN, "y_batch": OWN[:, 0]}, ValueError, "y_batch must be None where targets"),
        ({}, TypeError, "for several of each sample pass targets"),
        (
            {"targets": OWN, "metrics": {"F": FFidelity()}},
            ValueError,
            "explained classes as labels",
        ),
        (
            {"targets": "all", "call_kwargs": {"": {"model_predict_kwargs": {"a": 1}}}},
            ValueError,
            "pass the classes as a list",
        ),
    ],
)
def test_what_cannot_be_asked(settings, error, message):
    with pytest.raises(error, match=message):
        run(**settings)


def test_a_class_that_the_model_lacks_has_no_score():
    with pytest.warns(RuntimeWarning, match="below 3"):
        found = run(targets=[0, 3], metrics={"MoRF": MoRF(4)})
    assert np.isnan(found.scores).all()


def test_maps_without_classes_are_refused():
    maps = np.zeros((N, 2, 4, 4))
    with pytest.warns(
        RuntimeWarning, match=r"must have an axis of 2 classes after that of samples"
    ):
        run(targets=OWN, xai_methods={"given": maps})


def test_of_equal_outputs_the_first_class_comes_first():
    model = torch.nn.Linear(2, 4, bias=False).eval()
    torch.nn.init.ones_(model.weight)
    x = Rows.of("x", np.ones((70, 2), dtype="float32"))
    found = classes_of("top3", model, x, [], batch_size=64, device=None)
    assert found.tolist() == [[0, 1, 2]] * 70


def test_a_copy_is_not_trained_with_explained_classes():
    x, _ = data()
    maps = np.zeros((N, 2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"y_batch must have one class.*FineTuner"):
        FFidelity()(network(), x, OWN, maps)
    with pytest.raises(ValueError, match=r"y_batch must have one class"):
        quantus_ext.QGE(FFidelity())(network(), x, OWN, maps)
    FFidelity([0.5], n_samples=2, fine_tune=untuned)(network(), x, OWN, maps)
