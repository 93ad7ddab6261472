"""Removal curves: linear models in closed form, exact counts, what is shared, Quantus's own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import quantus
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from torch import Tensor, nn

from quantus_ext import ABPC, Deletion, Insertion, LeRF, MoRF
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.replacements import replace_by
from quantus_ext.functional import removal_curves
from quantus_ext.perturbation import (
    blur_replacement_by_indices,
    gaussian_blur_replacement_by_indices,
)
from tests.harness import make_inputs, rows_seen
from tests.reference import removal_curves as removal_reference

LABEL = torch.tensor([0])


def worth(rows: Tensor) -> Tensor:
    """A linear model of 20 features, the k-th worth k."""
    return (rows @ torch.arange(20.0, dtype=rows.dtype))[:, None]


def of_linear(scores: list[str], fractions: list[float], phi: Tensor, **keywords: object):
    x = torch.ones(1, 20, dtype=torch.float64)
    return removal_curves(worth, x, phi, LABEL, fractions=fractions, scores=scores, **keywords)


def test_a_linear_model_in_closed_form():
    steps = 20
    phi = torch.arange(20.0, dtype=torch.float64)[None]
    result = of_linear(
        ["morf", "lerf", "abpc", "deletion", "insertion"], [k / steps for k in range(21)], phi
    )
    # Without the k most, the least, relevant: Σ_{i<20-k} i and Σ_{i≥k} i.
    most = np.array([sum(range(20 - k)) for k in range(21)], dtype=float)
    least = np.array([sum(range(k, 20)) for k in range(21)], dtype=float)
    np.testing.assert_allclose(result["deletion"].details["curve"][0], most)
    np.testing.assert_allclose(result["lerf"].details["curve"][0], least)
    np.testing.assert_allclose(result["insertion"].details["curve"][0], 190 - most)
    expected = {
        "morf": np.mean(190 - most),
        "lerf": np.mean(190 - least),
        "abpc": np.mean(least - most),
        "deletion": trapezoid(most, dx=0.05),
        "insertion": 190 - trapezoid(most, dx=0.05),
    }
    for name, value in expected.items():
        assert float(result[name].score) == pytest.approx(value, rel=1e-12), name
        assert float(result[name].standard_error) == 0
    details = result["abpc"].details
    np.testing.assert_array_equal(details["curve_morf"][0], most)
    np.testing.assert_array_equal(details["curve_lerf"][0], least)
    assert float(details["morf"]) == pytest.approx(expected["morf"])
    assert float(details["lerf"]) == pytest.approx(expected["lerf"])
    assert float(details["original_score"]) == float(details["final_drop"]) == 190
    assert float(details["baseline_score"]) == 0
    assert float(result["deletion"].details["final_drop"]) == 190
    assert float(result["insertion"].details["final_rise"]) == 190


def test_an_area_of_uneven_fractions_is_the_trapezoids():
    fractions = [0.0, 0.05, 0.5, 0.6, 1.0]
    phi = torch.arange(20.0, dtype=torch.float64)[None]
    for name in ("deletion", "insertion"):
        result = of_linear([name], fractions, phi)[name]
        curve = result.details["curve"][0].numpy()
        assert float(result.score) == pytest.approx(trapezoid(curve, fractions), rel=1e-12)


@pytest.mark.parametrize("modality", ["image", "series", "table"])
def test_shares_of_the_original_output_are_those_of_another_library(modality):
    inputs, fractions = make_inputs(modality), [0.0, 0.25, 0.5, 0.75, 1.0]
    predict = inputs.predict(softmax=True)
    for metric, restore, relative in (
        (Deletion(4), False, "relative_drop"),
        (Insertion(4), True, "relative_rise"),
    ):
        inputs.call(metric)
        expected = [
            removal_reference.shares_of_the_original(
                predict, x, int(y), a, fractions, restore=restore
            )
            for x, y, a in zip(inputs.x, inputs.y, inputs.a, strict=True)
        ]
        found = np.stack([metric.details["normalised"], metric.details[relative]], 1)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_shares_of_an_output_that_is_not_positive_are_unknown():
    # Of x = 1, 0 and -1 the outputs are 1, 0 and -1, and 0 without it.
    x = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    found = removal_curves(
        lambda rows: rows,
        x,
        x,
        torch.zeros(3, dtype=torch.long),
        fractions=[0, 1],
        scores=["deletion", "insertion"],
    )
    deletion, insertion = found["deletion"].details, found["insertion"].details
    for values in (deletion["normalised"], insertion["normalised"]):
        np.testing.assert_array_equal(values, [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(deletion["relative_drop"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(insertion["relative_rise"], [1, 0, -1])


def straight(t: int) -> nn.Module:
    """A model whose output is the share of t features that are there."""
    model = nn.Linear(t, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.fill_(1 / t)
    return model


@pytest.mark.parametrize("t", [1, 2, 3, 4, 5, 7, 13, 19, 20, 21, 33, 100])
@pytest.mark.parametrize("steps", [1, 3, 4, 7, 20, 100, [0.25, 0.3], [0.01, 0.9]])
def test_a_straight_curve_has_the_same_scores_in_any_steps(t, steps):
    x = np.ones((2, t))
    a = np.random.default_rng(t).normal(size=(2, t))
    for metric in (Deletion, Insertion, MoRF, LeRF):
        scores = metric(steps)(straight(t), x, np.zeros(2, int), a, softmax=False)
        np.testing.assert_allclose(scores, 0.5, rtol=1e-12, err_msg=metric.name)
    abpc = ABPC(steps)(straight(t), x, np.zeros(2, int), a, softmax=False)
    np.testing.assert_allclose(abpc, 0, atol=1e-12)


def test_four_features_in_any_steps():
    # Each of four features is worth 1: the curve is 4, 3, 2, 1, 0, and its mean and area are 2.
    x, a, y = np.ones((1, 4)), np.array([[4.0, 3, 2, 1]]), np.array([0])
    model = nn.Linear(4, 2, bias=False).double().eval()
    with torch.no_grad():
        model.weight.fill_(1.0)
    for metric in (Deletion(), Deletion(4), Deletion(100), Insertion(), MoRF(), MoRF(100)):
        assert metric(model, x, y, a, softmax=False) == pytest.approx([2.0], rel=1e-12)
        assert metric.n_evaluations == 5


@pytest.mark.parametrize(("t", "steps"), [(4, 20), (7, 20), (13, 100)])
@pytest.mark.parametrize("metric", [MoRF, LeRF, ABPC, Deletion, Insertion])
def test_more_steps_than_elements_are_a_step_an_element(metric, t, steps):
    generator = np.random.default_rng(t)
    model = nn.Sequential(nn.Linear(t, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, a, y = generator.normal(size=(3, t)), generator.normal(size=(3, t)), np.array([0, 1, 2])
    many, few = metric(steps), metric(t)
    np.testing.assert_allclose(many(model, x, y, a), few(model, x, y, a), rtol=1e-12, atol=1e-15)
    assert (
        many.n_evaluations
        == few.n_evaluations
        == 3 * ((1 + (metric is ABPC)) * t + (metric is not ABPC))
    )
    removed = [math.floor(Fraction(k, steps) * t) / t for k in range(steps + 1)]
    np.testing.assert_array_equal(many.details["fractions"], [removed] * 3)
    if metric is MoRF:
        # Evenly spaced states count alike, as M4 has it.
        curve = few.details["curve"]
        np.testing.assert_allclose(few(model, x, y, a), (curve[:, :1] - curve).mean(1), rtol=1e-12)


def test_uneven_steps_stand_for_what_is_nearest():
    # 10 elements in 4 steps: 0, 2, 5, 7 and 10 are gone, so 2, 3, 2 and 3 of them at a time.
    model = nn.Sequential(nn.Linear(10, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, a = np.random.default_rng(0).normal(size=(2, 2, 10))
    metric = MoRF(4)
    scores = metric(model, x, np.array([0, 2]), a)
    np.testing.assert_array_equal(metric.details["fractions"], [[0, 0.2, 0.5, 0.7, 1]] * 2)
    drop = metric.details["curve"][:, :1] - metric.details["curve"]
    # From halfway to the neighbours, at the ends half a mean step of 2.5 beyond: over 12.5.
    weights = np.array([1.25 + 1, 2.5, 2.5, 2.5, 1.5 + 1.25]) / 12.5
    np.testing.assert_allclose(scores, drop @ weights, rtol=1e-12)


def test_samples_of_different_sizes_are_asked_for_what_they_are_alone():
    model = nn.Sequential(nn.Linear(40, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, a = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 40)))
    y, sizes = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1, 4, 4, 13, 33, 40])
    features = torch.arange(40).expand(6, -1)
    features = features.where(features < sizes[:, None], -1)

    def ask(rows: slice) -> tuple[dict, int]:
        forward = Forward(lambda batch: model(batch).softmax(1))
        elements = elements_of(x[rows], features=features[rows])
        fractions = [k / 20 for k in range(21)]
        return removal_curves(
            forward, x[rows], a[rows], y[rows], fractions=fractions, elements=elements
        ), forward.n_evaluations

    together, evaluations = ask(slice(None))
    alone = [ask(slice(n, n + 1)) for n in range(6)]
    # A state an element, or a step, of both orders, but for their ends, and the clean input. Of 33
    # elements what comes back is not always what LeRF leaves.
    assert [asked for _, asked in alone] == [2, 8, 8, 26, 53, 40]
    assert evaluations == sum(asked for _, asked in alone)
    for name in together:
        for key, values in together[name].details.items():
            one_by_one = torch.cat([result[name].details[key] for result, _ in alone])
            torch.testing.assert_close(values, one_by_one, rtol=1e-12, atol=1e-14)
        scores = torch.cat([result[name].score for result, _ in alone])
        torch.testing.assert_close(together[name].score, scores, rtol=1e-12, atol=1e-14)
    assert together["morf"].details["fractions"][1].unique().tolist() == [0, 0.25, 0.5, 0.75, 1]


@settings(deadline=None, max_examples=60)
@example(t=100, steps=[0.07, 0.29, 0.55, 0.57], zeros=True, metric=MoRF)
@given(
    t=st.integers(1, 40),
    steps=st.one_of(
        st.integers(1, 25),
        st.lists(st.sampled_from([0.07, 0.1, 0.29, 0.55, 0.57, 0.9]), unique=True).map(sorted),
    ),
    zeros=st.booleans(),
    metric=st.sampled_from([MoRF, LeRF, Insertion]),
)
def test_every_fraction_is_removed_exactly(t, steps, zeros, metric):
    # 80 % zeros, or a constant map: ties all over.
    a = np.random.default_rng(t).normal(size=(2, t)) * zeros
    a[:, : math.ceil(0.8 * t)] = 0
    model = nn.Linear(t, 2).double().eval()
    with rows_seen(model) as seen:
        scorer = metric(steps)
        scorer(model, np.ones((2, t)), np.array([0, 1]), a)
    grid = [Fraction(k, steps) for k in range(steps + 1)] if isinstance(steps, int) else None
    counts = {math.floor(f * t) for f in grid or [Fraction(str(s)) for s in (0, *steps, 1)]}
    gone = counts if metric is not Insertion else {t - count for count in counts}
    zeros_seen = {int((row == 0).sum()) for rows in seen for row in rows}
    assert zeros_seen == gone | {0}
    # Nothing is evaluated twice: a row for each count, the clean one among them.
    assert scorer.n_evaluations == 2 * len(gone | {0})


@pytest.mark.slow
def test_ties_go_by_seed_and_a_random_order_has_an_area_of_0():
    inputs = make_inputs("table", n=4)
    constant = np.ones_like(inputs.a)
    scores = np.array([inputs.call(ABPC(7, seed=seed), a_batch=constant) for seed in range(400)])
    error = scores.std(0, ddof=1) / np.sqrt(len(scores))
    # Five such bounds of 4 standard errors fail together once in 4,000 times; seeds are fixed.
    assert (error > 0).all()
    assert (np.abs(scores.mean(0)) < 4 * error).all()
    assert abs(scores.mean()) < 4 * scores.mean(1).std(ddof=1) / np.sqrt(len(scores))


def test_what_several_scores_need_is_evaluated_once():
    inputs = make_inputs("series", n=3)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))

    def evaluations(*scores: str) -> int:
        forward = Forward(inputs.model)
        removal_curves(forward, x, a, y, fractions=[0, 0.25, 0.5, 0.75, 1], scores=scores)
        return forward.n_evaluations

    # Five states of each curve: the clean one, the empty one, and three between.
    assert evaluations("morf") == evaluations("lerf") == evaluations("deletion") == 3 * 5
    assert evaluations("abpc") == evaluations("morf", "lerf", "abpc") == 3 * 8
    assert evaluations("deletion", "insertion") == 3 * 8
    # To restore the top quarter is to remove the bottom three quarters.
    assert evaluations("morf", "lerf", "abpc", "deletion", "insertion") == 3 * 8


def test_scores_alone_are_those_in_company():
    inputs = make_inputs("image")
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    together = removal_curves(inputs.model, x, a, y, fractions=[0, 0.3, 1])
    for name, scores in together.items():
        alone = removal_curves(inputs.model, x, a, y, fractions=[0, 0.3, 1], scores=[name])[name]
        torch.testing.assert_close(alone.score, scores.score, rtol=1e-12, atol=0)
        assert alone.details.keys() == scores.details.keys()
    torch.testing.assert_close(
        together["abpc"].score, together["morf"].score - together["lerf"].score
    )


def test_patches_and_segments_are_removed_whole():
    inputs = make_inputs("image")
    x = torch.from_numpy(inputs.x)
    groups = torch.arange(64).reshape(8, 8).expand(5, 8, 8) // 16
    for elements in (
        elements_of(x, "patch", patch_size=3),
        elements_of(x, "segment", segments=groups),
    ):
        rows: list[Tensor] = []

        def spy(batch: Tensor, rows: list[Tensor] = rows) -> Tensor:
            rows.append(batch.clone())
            return inputs.model(batch)

        removal_curves(
            spy,
            x,
            torch.from_numpy(inputs.a),
            torch.from_numpy(inputs.y),
            fractions=[0, 0.5, 1],
            scores=["morf"],
            elements=elements,
        )
        group = torch.zeros(64, dtype=torch.long) if elements.group is None else elements.group[0]
        for row in torch.cat(rows)[len(x) :]:
            gone = (row == 0).all(0).flatten()
            each = [gone[group == g] for g in group.unique()]
            assert all(bool(part.all() or not part.any()) for part in each)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["morf", "abpc", "deletion", "insertion"])
@pytest.mark.parametrize("fractions", [[0, 0.3, 0.6, 1], [0, 0.1, 0.3, 0.31, 0.32, 0.6, 1]])
def test_standard_errors_of_random_replacements_match_the_spread(name, fractions):
    # Of seven features .3, .31 and .32 are the same two, and drawn once.
    inputs = make_inputs("table", n=20)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    results = [
        removal_curves(
            inputs.model,
            x,
            a,
            y,
            fractions=fractions,
            scores=[name],
            perturbation=replace_by("uniform"),
            n_draws=30,
            seed=seed,
        )[name]
        for seed in range(200)
    ]
    scores = torch.stack([result.score for result in results])
    squared = torch.stack([result.standard_error**2 for result in results]).mean()
    # 200 seeds × 20 samples know the ratio to about 1.1 %.
    assert 0.93 < float((squared / scores.var(0).mean()).sqrt()) < 1.07


def test_one_draw_of_a_random_replacement_leaves_the_error_unknown():
    inputs = make_inputs("table")
    metric = MoRF(3, perturb_baseline="uniform")
    assert np.isfinite(inputs.call(metric)).all()
    assert np.isnan(metric.standard_errors).all()


@pytest.mark.parametrize("modality", ["image", "series"])
def test_deletion_is_the_area_of_quantus_pixel_flipping(modality):
    inputs = make_inputs(modality, dtype=torch.float32)
    steps, n = inputs.x[0].size // 4, len(inputs.x)
    theirs = quantus.PixelFlipping(
        features_in_step=4, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True
    )
    explained = (inputs.model, inputs.x, inputs.y, inputs.a)
    curves = np.array(theirs(*explained, softmax=True, device="cpu"))
    assert curves.shape == (n, steps), "a state a step, without the clean one"
    areas = trapezoid(curves, axis=1)  # Quantus calls numpy.trapz, which numpy 2.4 removed.
    ours = Deletion(features_in_step=4, element="channel_value")
    scores = inputs.call(ours)
    np.testing.assert_allclose(ours.details["curve"][:, 1:], curves, rtol=1e-4)
    # Theirs has steps of 1 and no trapezoid from the clean output to the first state.
    first = (ours.details["original_score"] + curves[:, 0]) / 2
    np.testing.assert_allclose(scores, (areas + first) / steps, rtol=1e-5)


def test_steps_of_so_many_elements():
    inputs = make_inputs("table")  # 7 features
    metric = Deletion(features_in_step=3)
    scores = inputs.call(metric)
    np.testing.assert_allclose(metric.details["fractions"], [[0, 3 / 7, 6 / 7, 1]] * 5)
    np.testing.assert_array_equal(scores, inputs.call(Deletion([3 / 7, 6 / 7])))
    for straight_curve in (Deletion(features_in_step=3), MoRF(features_in_step=3)):
        x = np.ones((1, 7))
        scores = straight_curve(straight(7), x, np.array([0]), x, softmax=False)
        assert scores == pytest.approx([0.5], rel=1e-12)
        assert straight_curve.n_evaluations == 4
    one_by_one = Deletion(features_in_step=1)
    np.testing.assert_array_equal(inputs.call(one_by_one), inputs.call(Deletion(7)))


def test_a_patch_size_asks_for_patches():
    inputs = make_inputs("image")
    scores = inputs.call(MoRF(4, patch_size=2))
    np.testing.assert_array_equal(scores, inputs.call(MoRF(4, element="patch", patch_size=2)))


def test_baselines_by_name():
    inputs = make_inputs("image")
    for name, value in (("black", 0.0), ("mean", "mean")):
        by_name = inputs.call(Deletion(4, baseline=name))
        np.testing.assert_array_equal(by_name, inputs.call(Deletion(4, perturb_baseline=value)))
    for name, function in (
        ("blur", blur_replacement_by_indices),
        ("gaussian_blur", gaussian_blur_replacement_by_indices),
    ):
        blurred, same = Insertion(4, baseline=name), Insertion(4, perturb_func=function)
        inputs.call(blurred)
        inputs.call(same)
        np.testing.assert_array_equal(blurred.details["curve"], same.details["curve"])


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, is 0"),
        ({"steps": 2.5}, TypeError, "steps must be an integer, is 2.5"),
        ({"steps": "many"}, TypeError, "steps must be an integer, is 'many'"),
        ({"steps": [0.5, 0.2]}, ValueError, r"steps must increase, is \[0.5, 0.2\]"),
        ({"steps": [-0.1, 0.2]}, ValueError, "steps must lie between 0 and 1"),
        ({"steps": [float("nan")]}, ValueError, "steps must be finite"),
        ({"baseline": "grey"}, ValueError, "baseline must be one of 'black', 'mean', 'blur'"),
        (
            {"baseline": "blur", "perturb_baseline": 1.0},
            ValueError,
            "baseline='blur' replaces perturb_baseline: pass one of them",
        ),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1, is 0"),
        ({"features_in_step": 0}, ValueError, "features_in_step must be at least 1, is 0"),
        ({"features_in_step": 2, "element": "segment"}, ValueError, "features_in_step needs"),
        ({"return_auc_per_sample": False}, ValueError, "return_auc_per_sample must be True"),
        ({"element": "position", "patch_size": 2}, ValueError, "patch_size needs element"),
        ({"element": "pixel"}, ValueError, "element must be one of"),
    ],
)
def test_bad_settings_are_named(keywords, error, message):
    with pytest.raises(error, match=message):
        Deletion(**keywords)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_fractions_in_single_precision_are_what_they_print(array):
    inputs = make_inputs("table")
    tenths = [k / 10 for k in range(11)]
    narrow = array(tenths, dtype={np.array: np.float32, torch.tensor: torch.float32}[array])
    assert MoRF(narrow).fractions == tenths
    np.testing.assert_array_equal(inputs.call(MoRF(narrow)), inputs.call(MoRF(tenths)))


def test_the_sample_index_decides_on_ties_and_draws():
    inputs = make_inputs("table")
    x, y = torch.from_numpy(inputs.x[:1]).expand(2, -1), torch.from_numpy(inputs.y[:1]).expand(2)
    grid = {"fractions": [0, 0.3, 0.6, 1], "scores": ["morf"]}
    for a, settings_ in (
        (torch.ones_like(x), {}),
        (x, {"perturbation": replace_by("uniform"), "n_draws": 3}),
    ):
        for index, equal in (([4, 4], True), ([4, 5], False)):
            result = removal_curves(
                inputs.model, x, a, y, index=torch.tensor(index), **grid, **settings_
            )["morf"]
            # Rows of one pass: the same draws, and outputs that are equal within rounding.
            assert (abs(result.score[0] - result.score[1]) < 1e-12) == equal


def test_equal_answers_have_no_error():
    # Seven times the same answer: the sums' rounding must not make a variance below 0.
    result = removal_curves(
        lambda rows: torch.full((len(rows), 1), 0.05, dtype=torch.float64),
        torch.ones(2, 5),
        torch.ones(2, 5),
        torch.zeros(2, dtype=torch.long),
        fractions=[0, 0.5, 1],
        scores=["deletion"],
        perturbation=replace_by("uniform"),
        n_draws=7,
    )["deletion"]
    assert (result.standard_error < 1e-8).all()


def test_segments_as_quantus_has_them():
    inputs = make_inputs("image")
    ids = np.arange(64).reshape(1, 8, 8).repeat(5, 0) // 8
    scores = inputs.call(MoRF(4, element="segment"), s_batch=ids)
    for same in (ids[:, None], ids[..., None]):
        np.testing.assert_array_equal(inputs.call(MoRF(4, element="segment"), s_batch=same), scores)


def test_what_moves_the_whole_input_is_refused():
    with pytest.raises(ValueError, match="perturb_func must change the chosen elements only, rot"):
        MoRF(
            perturb_func=quantus.functions.perturb_func.rotation,
            perturb_func_kwargs={"perturb_angle": 10},
        )


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"fractions": [0.2, 0.5]}, r"fractions must go from 0 to 1, are \[0.2, 0.5\]"),
        ({"fractions": [1.0]}, "fractions must go from 0 to 1"),
        ({"fractions": [0, 1], "scores": ["auc"]}, "scores must be one of .* is 'auc'"),
        ({"fractions": [0, 1], "scores": "morf"}, "scores must be one of .* is 'm'"),
    ],
)
def test_bad_arguments_of_the_function(keywords, message):
    x = torch.ones(1, 3)
    with pytest.raises(ValueError, match=message):
        removal_curves(lambda rows: rows, x, x, LABEL, **keywords)
