"""The spaces of outputs: what scores read, and which of them a map explains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn

from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    FFidelity,
    Fidelity,
    Infidelity,
    Insertion,
    MoRF,
    PScore,
    RFidelity,
    SynScore,
    answers_shared,
)
from quantus_ext.adapters import BlackBox, MultiOutput, Regression
from quantus_ext.engine.resolved import Answered
from quantus_ext.engine.spaces import SPACES, Spaces, in_spaces
from quantus_ext.spaces import EXACT, FITS, Fit
from tests.cases import untuned
from tests.harness import Inputs, make_inputs, rows_seen
from tests.reference import fidelity, infidelity, spaces

SIDE = 3


def logits_of(inputs: Inputs) -> Callable[[Any], np.ndarray]:
    return inputs.predict(softmax=False)


# What outputs are in each space.


@pytest.mark.parametrize("asked", ["logits", "probabilities", "probabilities alone"])
@pytest.mark.parametrize("several", [False, True])
def test_outputs_are_those_of_the_definition(asked, several):
    generator = np.random.default_rng(1)
    logits = torch.from_numpy(3 * generator.normal(size=(6, 5)))
    order = torch.from_numpy(np.stack([generator.permutation(5) for _ in range(6)]))
    labels, others = (order[:, :2], order[:, 2:4]) if several else (order[:, 0], order[:, 1])
    answered = Answered(logits)
    if asked != "logits":
        first = logits[:, :1] if asked == "probabilities" else None
        answered = Answered(logits.softmax(1), first)
    found = in_spaces(answered, labels, others, asked != "logits")
    expected = np.array(
        [
            [
                spaces.outputs(row, label, other)
                for label, other in zip(np.atleast_1d(own), np.atleast_1d(rest), strict=True)
            ]
            for row, own, rest in zip(logits.tolist(), labels.numpy(), others.numpy(), strict=True)
        ]
    )
    if asked == "probabilities alone":
        expected[..., 0] = np.nan
    np.testing.assert_allclose(found, expected if several else expected[:, 0], rtol=1e-12)


def test_what_is_not_finite_is_not_known():
    certain = Answered(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[200.0]]))
    found = in_spaces(certain, torch.tensor([0]), torch.tensor([1]), True)
    np.testing.assert_array_equal(found, [[200.0, 1.0, 0.0, np.nan]])


def test_outputs_that_are_probabilities_are_found_out():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0])
    for outputs, is_known in ((logits, True), (logits.softmax(1), False)):
        found = Spaces(Answered(outputs), labels).original
        assert bool(found[:, 0].isfinite().all()) == is_known
        expected = Spaces(Answered(logits), labels).original
        torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-6)


# What maps leave unexplained.


def changes_of_windows(inputs: Inputs, sample: int, phi: np.ndarray, factor: bool, n: int) -> Any:
    """Return what is predicted of Infidelity's first draws, and the logits of their samples."""
    x = inputs.x[sample]
    masks = infidelity.draws(x, sample, side=SIDE, n_draws=n, seed=0)
    rows = [np.where(mask, 0.25, x) for mask in masks]
    predicted = [
        float((phi * (mask if factor else x - row)).sum())
        for mask, row in zip(masks, rows, strict=True)
    ]
    return predicted, logits_of(inputs)(np.stack(rows)).tolist()


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_infidelity_compares_its_first_draws(modality, factor, softmax):
    inputs = make_inputs(modality)
    metric = Infidelity(
        perturb_patch_sizes=SIDE,
        n_perturb_samples=30,
        perturb_baseline=0.25,
        multiply_by_inputs=factor,
        inputs_baseline=0.25,
    )
    inputs.call(metric, softmax=softmax, batch_size=2)
    clean = logits_of(inputs)(inputs.x).tolist()
    expected = [
        spaces.unexplained(clean[n], changed, predicted, int(inputs.y[n]))
        for n in range(len(clean))
        for predicted, changed in [changes_of_windows(inputs, n, inputs.a[n], factor, 8)]
    ]
    np.testing.assert_allclose(metric.details["space"], expected, rtol=1e-7)


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("carries", [None, True, False])
@pytest.mark.parametrize(
    "make", [Deletion, Insertion, ABPC, MoRF, partial(Deletion, element="channel_value")]
)
def test_curves_compare_the_wholly_removed_sample(make, carries, modality):
    inputs = make_inputs(modality)
    found = make(4, perturb_baseline=0.25).score_maps(
        inputs.model, inputs.x, inputs.y, [inputs.a, 2 * inputs.a], carry_inputs=[carries] * 2
    )
    predict = logits_of(inputs)
    clean, gone = predict(inputs.x), predict(np.full_like(inputs.x, 0.25))
    for times, own in zip((1, 2), found.details["space"], strict=True):
        predicted = inputs.a if carries is not False else inputs.a * (inputs.x - 0.25)
        expected = [
            spaces.unexplained(clean[n], [gone[n]], [times * predicted[n].sum()], int(inputs.y[n]))
            for n in range(len(clean))
        ]
        np.testing.assert_allclose(own, expected, rtol=1e-7)


@pytest.mark.parametrize(("sparsity", "gone"), [(0.3, slice(2, None)), (0.9, slice(6))])
def test_fidelity_compares_where_most_is_removed(sparsity, gone):
    inputs = make_inputs("table")
    metric = Fidelity([sparsity, 0.5])
    inputs.call(metric)
    predict = logits_of(inputs)
    for n, (x, a) in enumerate(zip(inputs.x, inputs.a, strict=True)):
        # Of 7 features the last five of the ranking, or the first six.
        removed = np.argsort(-a)[gone]
        row = x.copy()
        row[removed] = 0
        expected = spaces.unexplained(
            predict(x[None])[0], predict(row[None]), [a[removed].sum()], int(inputs.y[n])
        )
        np.testing.assert_allclose(metric.details["space"][n], expected, rtol=1e-7)


def test_random_parts_compare_the_first_draw_of_each():
    inputs = make_inputs("table")
    sparsity = (0.3, 0.6)
    metric = RFidelity(sparsity, n_samples=5)
    inputs.call(metric)
    predict = logits_of(inputs)
    for n, (x, a) in enumerate(zip(inputs.x, inputs.a, strict=True)):
        order = np.argsort(-a)
        key = fidelity.splitmix.nth(fidelity.splitmix.nth(0, 0), n)
        rows, predicted = [], []
        for level, share in enumerate(sparsity):
            s = fidelity.floor(share, 7)
            parts = (order[:s], fidelity.floor(0.5, s)), (order[s:], fidelity.ceil(0.5, 7 - s))
            for sign, (members, k) in enumerate(parts):
                if not k:
                    continue
                cell = fidelity.splitmix.nth(key, 2 * level + sign)
                (gone, *_) = fidelity.removals(cell, sorted(members), k, 7, 5)
                row = x.copy()
                row[gone] = 0
                rows.append(row)
                predicted.append(a[gone].sum())
        expected = spaces.unexplained(
            predict(x[None])[0], predict(np.stack(rows)), predicted, int(inputs.y[n])
        )
        np.testing.assert_allclose(metric.details["space"][n], expected, rtol=1e-7)


METRICS: dict[str, Callable[[], Any]] = {
    "Infidelity": partial(Infidelity, n_perturb_samples=9),
    "tolerance": partial(Infidelity, n_perturb_samples=64, tolerance=0.05),
    "noise": partial(Infidelity, scheme="all", perturb_func=quantus.gaussian_noise),
    "RFidelity": partial(RFidelity, [0.3, 0.6], n_samples=3, output="probability"),
    "random removal": partial(Deletion, 4, perturb_baseline="uniform", n_samples=2),
    "Deletion": partial(Deletion, 4),
    "Fidelity": partial(Fidelity, [0.3, 0.6]),
    "QGE": lambda: QGE(Infidelity(n_perturb_samples=9)),
    "QGE of Deletion": lambda: QGE(Deletion(4), reference="random", n_references=3),
    "FFidelity": partial(FFidelity, [0.3, 0.6], n_samples=3, fine_tune=untuned),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METRICS)
def test_a_map_is_compared_alike_alone_and_among_others(name):
    inputs = make_inputs("image")
    call = {"model": inputs.model, "x_batch": inputs.x, "y_batch": inputs.y}
    others = [inputs.a, inputs.x, inputs.x * inputs.a, -inputs.a]
    together = METRICS[name]().score_maps(**call, maps=others, batch_size=2)
    with answers_shared():
        shared = [METRICS[name]().score_maps(**call, maps=[each]) for each in others]
    for place, each in enumerate(others):
        with rows_seen(inputs.model) as seen:
            alone = METRICS[name]().score_maps(**call, maps=[each])
        # A tuned copy is not what a map explains.
        assert np.isfinite(alone.details["space"]).all() == (name != "FFidelity")
        for found in (together.details["space"][place], shared[place].details["space"][0]):
            np.testing.assert_allclose(found, alone.details["space"][0], rtol=1e-9)
        if name != "FFidelity":
            assert sum(map(len, seen)) == alone.n_rows


@pytest.mark.parametrize("metric", [Infidelity(), Deletion(4)], ids=str)
def test_classes_are_compared_each_with_its_own(metric):
    inputs = make_inputs("table")
    y = np.stack([inputs.y, (inputs.y + 1) % 4], 1)
    maps = np.stack([inputs.a, inputs.x], 1)
    metric(inputs.model, inputs.x, y, maps)
    found = metric.details["space"]
    for place in range(2):
        metric(inputs.model, inputs.x, y[:, place], maps[:, place])
        np.testing.assert_allclose(found[:, place], metric.details["space"], rtol=1e-9)


def test_nothing_is_known_of_maps_in_other_units_or_outputs_without_classes():
    inputs = make_inputs("table")
    rows = inputs.x.astype(np.float32)
    one = Regression(nn.Linear(7, 1).eval())
    heads = MultiOutput(nn.Sequential(nn.Linear(7, 4), nn.Unflatten(1, (2, 2))).eval(), (2, 2))
    calls = [
        (Deletion(4, normalise=True), inputs.model, {}),
        (Infidelity(abs=True), inputs.model, {}),
        (SynScore(), inputs.model, {"s_batch": inputs.x > 0}),
        (QGE(quantus.Sparseness(disable_warnings=True)), inputs.model, {}),
        (Deletion(4), one, {"softmax": False, "y_batch": np.zeros(5, dtype=int)}),
        (Deletion(4), heads, {}),
    ]
    for metric, model, given in calls:
        x = inputs.x if model is inputs.model else rows
        metric(**{"model": model, "x_batch": x, "y_batch": inputs.y, "a_batch": x, **given})
        assert metric.details["space"].shape == (5, 4)
        assert np.isnan(metric.details["space"]).all()


def test_of_probabilities_of_a_black_box_no_logit_is_known():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4))
    forest = RandomForestClassifier(9, random_state=0).fit(x, (x[:, 0] > 0).astype(int))
    deletion = Deletion(4)
    deletion(BlackBox(forest), x[:8], np.ones(8, dtype=int), x[:8])
    shares = deletion.details["space"]
    assert np.isnan(shares[:, 0]).all()
    assert np.isfinite(shares[:, 1]).any()
    assert "logit" not in Fit.of(shares).unexplained
    with pytest.raises(ValueError, match="output must not be 'logit' for a BlackBox"):
        deletion(BlackBox(forest), x[:8], np.ones(8, dtype=int), x[:8], output="logit")


# Scores in each space.


class Transformed(nn.Module):
    """A network whose outputs are what another space makes of them."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda z: z,
    "probability": lambda z: z.softmax(1),
    "log_probability": lambda z: z.log_softmax(1),
    "contrast": lambda z: z - z[:, 3:],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in METRICS if "Fid" not in name])
@pytest.mark.parametrize("output", SPACES)
def test_scores_are_those_of_a_model_with_such_outputs(name, output):
    inputs = make_inputs("image")
    call = {"x_batch": inputs.x, "y_batch": inputs.y % 3, "a_batch": inputs.a}
    other = {"other_class": 3} if output == "contrast" else {}
    metric = METRICS[name]()
    scores = metric(inputs.model, **call, output=output, **other)
    expected = METRICS[name]()(
        Transformed(inputs.model, CHANGES[output]).eval(), **call, softmax=False
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", ["logit", "probability"])
@pytest.mark.parametrize("output", ["log_probability", "contrast"])
def test_fidelity_of_values_takes_them_from_any_space(given, output):
    inputs = make_inputs("table")
    y, predict = inputs.y % 3, logits_of(inputs)
    removed = inputs.x.copy()
    np.put_along_axis(removed, np.argsort(-inputs.a)[:, :3], 0, 1)  # of 7 features
    clean, gone = (
        CHANGES[output](torch.from_numpy(predict(x)))[np.arange(len(y)), y]
        for x in (inputs.x, removed)
    )
    other = {"other_class": 3} if output == "contrast" else {}
    model = Transformed(inputs.model, CHANGES[given]).eval()
    metric = Fidelity([0.5], output="probability")
    scores = metric(model, inputs.x, y, inputs.a, output=output, **other)
    np.testing.assert_allclose(scores, clean - gone, rtol=1e-7)
    with pytest.raises(ValueError, match="output='logit' are not: leave these out"):
        metric(inputs.model, inputs.x, y, inputs.a, output="logit")


@pytest.mark.parametrize(
    "name", [name for name in METRICS if name not in ("Fidelity", "FFidelity")]
)
def test_a_model_of_probabilities_has_no_logits_to_score(name):
    inputs = make_inputs("image")
    model = Transformed(inputs.model, CHANGES["probability"]).eval()
    call = {"x_batch": inputs.x, "y_batch": inputs.y, "a_batch": inputs.a}
    with pytest.warns(UserWarning, match="output='logit' scores the probabilities") as caught:
        METRICS[name]()(model, **call, output="logit")
    assert caught[0].filename == __file__
    # Those of a layer of the model are known, and `softmax` asks for outputs as they are.
    layered = nn.Sequential(inputs.model, nn.Softmax(1)).eval()
    for other, asked in ((layered, {"output": "logit"}), (model, {"softmax": False})):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if "RFid" not in name or "softmax" in asked:
                METRICS[name]()(other, **call, **asked)
        assert not [each for each in caught if "output='logit'" in str(each.message)]


def test_the_contrast_is_with_the_largest_other_class_or_the_given_ones():
    inputs = make_inputs("table")
    call = {"model": inputs.model, "x_batch": inputs.x, "y_batch": inputs.y, "a_batch": inputs.a}
    logits = logits_of(inputs)(inputs.x)
    largest = np.array([spaces.runner_up(z, y) for z, y in zip(logits, inputs.y, strict=True)])
    metric = Infidelity()
    contrast = partial(metric, **call, output="contrast")
    assert contrast() == contrast(other_class=largest)
    assert contrast() != contrast(other_class=(inputs.y + 1) % 4)
    metric = Deletion(4)
    metric(**call, output="contrast", other_class=torch.from_numpy(largest))
    own = logits[np.arange(5), inputs.y] - logits[np.arange(5), largest]
    np.testing.assert_allclose(metric.details["original_score"], own)


def test_classes_are_contrasted_each_with_its_own():
    inputs = make_inputs("table")
    y = np.stack([np.zeros(5, dtype=int), np.ones(5, dtype=int)], 1)
    maps = np.stack([inputs.a, inputs.x], 1)
    for metric in (Infidelity(), Deletion(4)):
        for other in ({}, {"other_class": 3}):
            scores = np.array(metric(inputs.model, inputs.x, y, maps, output="contrast", **other))
            for place in range(2):
                own = y[:, place], maps[:, place]
                alone = metric(inputs.model, inputs.x, *own, output="contrast", **other)
                np.testing.assert_allclose(scores[:, place], alone, rtol=1e-9)


def test_softmax_and_output_say_the_same():
    inputs = make_inputs("table")
    for metric in (Infidelity(), Deletion(4)):
        for softmax, output in ((False, "logit"), (True, "probability")):
            assert metric(inputs.model, inputs.x, inputs.y, inputs.a, softmax=softmax) == metric(
                inputs.model, inputs.x, inputs.y, inputs.a, output=output
            )


@pytest.mark.parametrize(
    ("metric", "given", "message"),
    [
        (Deletion(4), {"output": "odds"}, "output must be one of"),
        (Deletion(4), {"output": "logit", "softmax": True}, "softmax=True contradicts"),
        (Deletion(4), {"output": "contrast", "softmax": True}, "softmax=True contradicts"),
        (Deletion(4), {"other_class": 1}, 'other_class needs output="contrast"'),
        (Deletion(4), {"output": "contrast", "other_class": 4}, "other_class must be below 4"),
        (Deletion(4), {"output": "contrast", "other_class": -1}, "other_class must be at least 0"),
        (Deletion(4), {"output": "contrast", "other_class": [0, 1]}, r"must have shape \(5,\)"),
        (Deletion(4), {"output": "contrast", "other_class": 0}, "another than the explained"),
        (
            QGE(quantus.Sparseness(disable_warnings=True)),
            {"output": "contrast"},
            "output must be 'logit' or 'probability'",
        ),
        (
            Infidelity(scheme="quantus", perturb_patch_sizes=4),
            {"output": "log_probability"},
            "output must be 'logit' or 'probability'",
        ),
    ],
)
def test_wrong_outputs_are_errors(metric, given, message):
    inputs = make_inputs("image")
    y = np.array([0, 1, 2, 3, 0])
    with pytest.raises(ValueError, match=message):
        metric(inputs.model, inputs.x, y, inputs.a, **given)


def test_a_model_of_one_output_has_no_contrast():
    model = Regression(nn.Linear(4, 1).eval())
    x = np.ones((3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="must give an output for each of two classes"):
        Deletion(4)(model, x, np.zeros(3, dtype=int), x, output="contrast")


# The space that is named, and the warning.


def test_a_fit_is_that_of_the_samples_known_in_every_space():
    shares = np.array(
        [
            [0.1, 5.0, 2.0, np.nan],
            [0.3, 7.0, np.nan, np.nan],
            [0.2, 6.0, 1.0, np.nan],
            [np.nan] * 4,
            [0.2, 6.5, 1.5, 0.1],
        ]
    )
    fit = Fit.of(shares)
    assert fit.n == 3
    assert fit.unexplained == {"logit": 0.2, "probability": 6.0, "log_probability": 1.5}
    assert Fit.of(np.full((3, 4), np.nan)) == Fit({}, 0)
    assert Fit({}, 0).space is None


@pytest.mark.parametrize(
    ("own", "other", "n", "warns"),
    [
        (4.1 * FITS, FITS, 4, True),
        (3.9 * FITS, FITS, 4, False),
        (4.1 * FITS, FITS, 3, False),
        (9 * FITS, 1.1 * FITS, 9, False),
        (0.01, 0.0, 9, True),
    ],
)
def test_a_space_is_clearly_better_with_a_good_fit_of_enough_samples(own, other, n, warns):
    fit = Fit({"logit": other, "probability": own}, n)
    assert fit.better_than("probability") == warns
    assert not fit.better_than("logit")
    assert not fit.better_than("contrast")


@pytest.mark.parametrize(("best", "warns"), [(0.9 * EXACT, True), (1.1 * EXACT, False)])
def test_where_log_probabilities_are_scored_only_an_exact_fit_is_better(best, warns):
    fit = Fit({"logit": best, "log_probability": 1.0, "probability": 1.0}, 9)
    assert fit.better_than("log_probability") == warns
    assert fit.better_than("probability")


def linear() -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    model = nn.Linear(6, 3, bias=False, dtype=torch.float64).eval()
    model.weight.data = torch.from_numpy(2 * generator.normal(size=(3, 6)))
    x = generator.normal(size=(12, 6))
    y = (x @ model.weight.data.numpy().T).argmax(1)
    return model, x, y, model.weight.data.numpy()[y] * x


def warned(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [each for each in caught if "is scored" in str(each.message)]


def test_a_map_of_logits_scored_by_probabilities_warns_once_and_changes_nothing():
    model, x, y, a = linear()
    metric = Deletion(6)
    (warning,) = warned(lambda: metric(model, x, y, a, batch_size=5))
    said = str(warning.message)
    fit = Fit.of(metric.details["space"])
    assert "a_batch fits the logit better than the probability, which is scored" in said
    assert f"{fit.unexplained['logit']:.2g} of" in said
    assert f"{fit.unexplained['probability']:.2g} of" in said
    assert 'output="logit"' in said
    assert warning.filename == __file__
    assert not warned(lambda: metric(model, x, y, a, output="logit"))
    assert not warned(lambda: Deletion(6, disable_warnings=True)(model, x, y, a))
    # Labels are in no space, and three samples tell nothing.
    assert not warned(lambda: Fidelity([0.5])(model, x, y, a))
    assert not warned(lambda: metric(model, x[:3], y[:3], a[:3]))


def test_of_several_classes_the_map_is_named():
    model, x, y, a = linear()
    labels = np.stack([y, (y + 1) % 3], 1)
    maps = np.stack([0 * a, model.weight.data.numpy()[labels[:, 1]] * x], 1)
    (warning,) = warned(lambda: Deletion(6)(model, x, labels, maps))
    assert str(warning.message).startswith("a_batch[:, 1] fits the logit")
    assert warning.filename == __file__


@pytest.mark.parametrize("space", SPACES)
def test_maps_that_predict_a_space_exactly_are_named_by_it(space):
    model, x, y, _ = linear()
    column = SPACES.index(space)
    with torch.no_grad():
        clean, none = (model(torch.from_numpy(each)).tolist() for each in (x, 0 * x))
    total = [
        spaces.outputs(z, label, other)[column] - spaces.outputs(zero, label, other)[column]
        for z, zero, label in zip(clean, none, y, strict=True)
        for other in [spaces.runner_up(z, label)]
    ]
    a = np.zeros_like(x)
    a[:, 0] = total
    metric = Deletion(6)
    metric(model, x, y, a)
    fit = Fit.of(metric.details["space"])
    assert fit.space == space
    assert fit.unexplained[space] == pytest.approx(0, abs=1e-9)


def test_other_metrics_do_not_say_more_than_they_know():
    model, x, y, a = linear()
    metric = PScore([nn.Linear(6, 3, dtype=torch.float64).eval()])
    metric(model, x, y, explain_func=lambda **_: a)
    assert np.isnan(metric.details["space"]).all()
