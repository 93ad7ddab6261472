"""Infidelity against closed forms, captum and the limits of its definition."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import (
    blur,
    gaussian_noise,
    replace_by,
    shift_by,
    uniform_noise,
)
from quantus_ext.functional import infidelity
from quantus_ext.functional.scores import Scores
from tests.harness import make_inputs, rows_seen
from tests.reference import infidelity as reference

SHAPES = {"image": (3, 6, 6), "series": (2, 9), "table": (8,)}


class Linear:
    """f(x) = w·x + 1 for class 0, and minus that for class 1."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.w = torch.from_numpy(np.random.default_rng(0).normal(size=shape))

    def __call__(self, rows: Tensor) -> Tensor:
        output = (rows * self.w).flatten(1).sum(1, keepdim=True) + 1
        return torch.cat([output, -output], 1)

    def explain(self, n: int) -> Tensor:
        return self.w.expand(n, *self.w.shape).clone()


def samples(shape: tuple[int, ...], n: int = 4, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, *shape)))


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.long)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scheme", ["patch", "subset", "all"])
@pytest.mark.parametrize(
    "perturbation",
    [replace_by("black"), replace_by(0.0), gaussian_noise(0.5, 2.0), blur(3)],
    ids=["black", "zero", "noise", "blur"],
)
@pytest.mark.parametrize("multiply_by_inputs", [False, True])
def test_a_linear_model_is_explained_by_its_weights(
    shape, scheme, perturbation, multiply_by_inputs
):
    model, x = Linear(shape), samples(shape)
    a = model.explain(4) * (x if multiply_by_inputs else 1)
    result = infidelity(
        model,
        x,
        a,
        zeros(4),
        scheme=scheme,
        perturbation=replace_by(0.0)
        if multiply_by_inputs and perturbation.replaces
        else perturbation,
        multiply_by_inputs=multiply_by_inputs,
        n_draws=64,
    )
    assert result.score.max() <= 1e-12
    assert (result.details["faithfulness"] > 1 - 1e-9).all()
    assert (result.details["scale"] - 1).abs().max() < 1e-9


def test_gaussian_noise_gives_the_closed_form_and_an_honest_standard_error():
    sigma, n, shape = 0.7, 20, (10,)
    model, x = Linear(shape), samples(shape, n)
    error = samples(shape, n, seed=2)
    expected = sigma**2 * (error**2).sum(1)

    def score(seed: int, n_draws: int) -> tuple[Tensor, Tensor]:
        result = infidelity(
            model,
            x,
            model.explain(n) + error,
            zeros(n),
            scheme="all",
            perturbation=gaussian_noise(0.0, sigma),
            n_draws=n_draws,
            seed=seed,
        )
        return result.score, result.standard_error

    value, standard_error = score(0, 4000)
    assert ((value - expected).abs() < 4 * standard_error).all()

    scores, errors = zip(*(score(seed, 500) for seed in range(200)), strict=True)
    ratio = (torch.stack(errors) ** 2).mean() / torch.stack(scores).var(0).mean()
    # 4,000 squared deviations know the ratio's root to 1.1 %; 7 % is the claim.
    assert 0.93 < ratio.sqrt() < 1.07


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("rescale", [False, True])
def test_equals_captum_on_the_same_draws(modality: str, rescale: bool):
    inputs = make_inputs(modality)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    with rows_seen(inputs.model) as seen:
        forward = Forward(inputs.model, chunk_size=1000)
        ours = infidelity(forward, x, a, y, patch_sizes=[2, 3], n_draws=50, rescale=rescale)
    perturbed = torch.cat(seen[1:])
    assert len(perturbed) == 5 * 50

    def draws(repeated: Tensor) -> tuple[Tensor, Tensor]:
        return repeated - perturbed, perturbed

    captums = captum_infidelity(
        inputs.model, draws, x, a, target=y, n_perturb_samples=50, normalize=rescale
    )
    torch.testing.assert_close(ours.score, captums, rtol=1e-5, atol=0)
    assert (ours.score > 1e-4).all()


@pytest.mark.parametrize("multiply_by_inputs", [False, True])
@pytest.mark.parametrize("modality", ["image", "series", "table"])
def test_details_equal_the_slow_reference(modality: str, multiply_by_inputs: bool):
    inputs = make_inputs(modality)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    ours = infidelity(
        inputs.model,
        x,
        a,
        y,
        perturbation=replace_by(0.25),
        patch_sizes=[3],
        n_draws=30,
        multiply_by_inputs=multiply_by_inputs,
    )
    for name in ("infidelity", "rescaled_infidelity", "scale", "faithfulness", "correlation"):
        expected = reference.infidelity(
            inputs.predict(softmax=False),
            inputs.x,
            inputs.y,
            inputs.a,
            np.arange(5),
            name=name,
            multiply_by_inputs=multiply_by_inputs,
        )
        np.testing.assert_allclose(ours.details[name], expected, rtol=1e-8, err_msg=name)


def test_a_map_of_the_wrong_sign_is_not_faithful():
    model, x = Linear((6,)), samples((6,))
    result = infidelity(model, x, -model.explain(4), zeros(4), patch_sizes=[2])
    assert (result.details["faithfulness"] == 0).all()
    assert (result.details["scale"] < 0).all()
    assert (result.details["correlation"] < -0.999).all()


@pytest.mark.parametrize("multiply_by_inputs", [True, False])
def test_a_map_summed_over_channels_scores_as_its_spread_out_form(multiply_by_inputs: bool):
    inputs = make_inputs("image")
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))

    def score(attributions: Tensor) -> Tensor:
        return infidelity(
            inputs.model,
            x,
            attributions,
            y,
            multiply_by_inputs=multiply_by_inputs,
            perturbation=replace_by(0.0),
        ).score

    summed = a.sum(1, keepdim=True)
    torch.testing.assert_close(score(summed), score((summed / 3).expand_as(x)))
    if multiply_by_inputs:
        # A mask treats channels alike, so any way of spreading scores the same.
        torch.testing.assert_close(score(summed), score(a))
    else:
        assert not torch.allclose(score(summed), score(a))


def test_a_constant_model_has_infidelity_but_no_faithfulness():
    x = samples((6,))
    result = infidelity(lambda rows: torch.ones(len(rows), 2), x, x, zeros(4), patch_sizes=[2])
    assert result.score.isfinite().all()
    assert (result.score > 0).all()
    assert result.details["faithfulness"].isnan().all()
    assert result.details["correlation"].isnan().all()


def test_a_map_of_zeros_predicts_nothing():
    model, x = Linear((6,)), samples((6,))
    result = infidelity(model, x, torch.zeros_like(x), zeros(4), patch_sizes=[2])
    assert (result.details["scale"] == 0).all()
    assert (result.details["faithfulness"] == 0).all()
    torch.testing.assert_close(result.details["rescaled_infidelity"], result.score)


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_values_at_the_inputs_baseline_count_as_unperturbed(baseline: float):
    x = torch.tensor([[2.0, baseline]], dtype=torch.float64)
    result = infidelity(
        lambda rows: rows,
        x,
        torch.tensor([[2.0 - baseline, 5.0]], dtype=torch.float64),
        zeros(1),
        scheme="all",
        perturbation=gaussian_noise(1.0, 0.0),
        multiply_by_inputs=True,
        inputs_baseline=baseline,
    )
    # I = ((2 − 3) / (2 − baseline), 0), so I·Φ = −1 = f(x) − f(x̃).
    assert result.score.item() == 0


def test_deterministic_work_is_done_once():
    model, x = Linear((6,)), samples((6,))
    forward = Forward(model)
    result = infidelity(forward, x, x, zeros(4), scheme="all", n_draws=100)
    assert forward.n_evaluations == 8
    assert (result.standard_error == 0).all()
    assert (result.details["n_draws"] == 1).all()


@pytest.mark.parametrize("chunk_size", [7, 50, 1000])
@pytest.mark.parametrize(("rescale", "tolerance"), [(False, 0.4), (True, 0.02)])
def test_tolerance_stops_each_sample_when_its_score_is_known(chunk_size, rescale, tolerance):
    inputs = make_inputs("table", n=12)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))

    def score(**keywords: object) -> object:
        forward = Forward(inputs.model, chunk_size=chunk_size)
        # Two sizes, so that draws are independent however few the subsets are.
        keywords = {"patch_sizes": [2, 3], "rescale": rescale, "n_draws": 512, **keywords}
        return infidelity(forward, x, a, y, **keywords)

    result = score(tolerance=tolerance)
    counts = result.details["n_draws"]
    assert set(counts.tolist()) <= {2.0**k for k in range(3, 10)}
    assert len(set(counts.tolist())) > 1
    assert ((result.standard_error <= tolerance) | (counts == 512)).all()
    # Stopping changes which draws are made for nobody else: each count alone gives its scores.
    for count in counts.unique():
        chosen = counts == count
        fixed = score(n_draws=int(count))
        torch.testing.assert_close(result.score[chosen], fixed.score[chosen])


@pytest.mark.parametrize("offset", [0.0, -10.0])
def test_a_few_equal_answers_are_not_certainty(offset: float):
    # One feature of 1,100 matters: the first 8 windows of most samples miss it, and all agree.
    def only_one_feature(rows: Tensor) -> Tensor:
        return rows[:, :1] * 33 + offset

    x = torch.ones(20, 1100, dtype=torch.float64)
    result = infidelity(
        only_one_feature,
        x,
        torch.zeros_like(x),
        zeros(20),
        perturbation=replace_by(0.0),
        patch_sizes=[1],
        tolerance=0.5,
        n_draws=4096,
    )
    assert (result.details["n_draws"] > 1000).all()
    # The truth is 33² / 1,100, about 1.
    assert ((result.score - 1).abs() < 4 * 0.5).all()


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    shape=st.sampled_from([(1,), (5,), (1, 4), (3, 7), (1, 4, 4), (2, 5, 3)]),
    n=st.integers(1, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
    scheme=st.sampled_from(["patch", "subset", "all"]),
    multiply_by_inputs=st.booleans(),
)
def test_scores_are_finite_and_ordered_for_any_input(
    data, shape, n, dtype, scheme, multiply_by_inputs
):
    # A few values only, so that ties, constant maps and constant inputs are common.
    values = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
    x, a = (
        torch.from_numpy(data.draw(arrays.arrays(dtype, (n, *shape), elements=values)))
        for _ in range(2)
    )
    weights = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype)
    result = infidelity(
        lambda rows: torch.tanh(rows.flatten(1) * weights).sum(1, keepdim=True),
        x,
        a,
        zeros(n),
        scheme=scheme,
        patch_sizes=[1, 2] if min(shape[-2:] if len(shape) == 3 else shape[-1:]) > 1 else [1],
        multiply_by_inputs=multiply_by_inputs,
        n_draws=16,
    )
    assert result.score.isfinite().all()
    assert result.standard_error.isfinite().all()
    assert (result.details["rescaled_infidelity"] <= result.score * (1 + 1e-6) + 1e-12).all()
    faithfulness = result.details["faithfulness"]
    assert (faithfulness.isnan() | ((faithfulness >= 0) & (faithfulness <= 1))).all()


# Few masks


def every_window(x: Tensor, side: int) -> list[Tensor]:
    """Return all masks over a sample's positions, of one channel."""
    if x.ndim == 1:
        chosen = itertools.combinations(range(len(x)), side)
        return [torch.isin(torch.arange(len(x)), torch.tensor(each)) for each in chosen]
    shape, masks = x.shape[1:], []
    for first in np.ndindex(*(length - side + 1 for length in shape)):
        masks.append(torch.zeros(shape, dtype=torch.bool))
        masks[-1][tuple(slice(place, place + side) for place in first)] = True
    return masks


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("tolerance", [None, 1e-9])
def test_few_windows_are_enumerated(modality, rescale, tolerance):
    inputs = make_inputs(modality)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    forward = Forward(inputs.model)
    settings = {"perturbation": replace_by(0.0), "patch_sizes": [3], "rescale": rescale}
    ours = infidelity(forward, x, a, y, **settings, n_draws=5000, tolerance=tolerance)
    total = len(every_window(x[0], 3))
    assert (ours.standard_error == 0).all()
    assert (ours.details["n_draws"] == total).all()
    # With a tolerance everything is perturbed once, for how far apart losses can be.
    extra = 1 if tolerance is None else 2
    assert forward.n_evaluations == 5 * (total + extra)
    for n, label in enumerate(y):
        masks = torch.stack(every_window(x[n], 3))
        masks = masks if x.ndim == 2 else masks.unsqueeze(1)
        change = x[n] * masks
        with torch.no_grad():
            b = inputs.model(x[n : n + 1])[:, label] - inputs.model(x[n] - change)[:, label]
        predicted = (change * a[n]).flatten(1).sum(1)
        beta = (predicted * b).mean() / (predicted**2).mean() if rescale else 1.0
        expected = ((beta * predicted - b) ** 2).mean()
        torch.testing.assert_close(ours.score[n], expected, rtol=1e-9, atol=1e-12)


def rows_asked(x: Tensor, **keywords: object) -> Tensor:
    """Return the perturbed rows of each sample, (n, d, \\*sample)."""
    rows: list[Tensor] = []

    def spy(batch: Tensor) -> Tensor:
        rows.append(batch.clone())
        return torch.ones(len(batch), 2)

    forward = Forward(spy, chunk_size=100_000)
    infidelity(forward, x, x, zeros(len(x)), perturbation=replace_by(0.0), **keywords)
    return rows[1].unflatten(0, (len(x), -1))


@pytest.mark.parametrize(
    ("shape", "keywords", "different"),
    [
        ((1, 35, 35), {"patch_sizes": [4]}, 1000),  # 1,024 windows
        ((1, 35, 36), {"patch_sizes": [4]}, None),  # 1,056
        ((1, 35, 35), {"patch_sizes": [4, 4]}, 1000),
        ((1, 30, 30), {"patch_sizes": [3, 4]}, None),  # 784 and 729, not equally likely
        ((2, 1024), {"patch_sizes": [1]}, 1000),
        ((2, 1025), {"patch_sizes": [1]}, None),
        ((45,), {"patch_sizes": [43]}, 990),
        ((46,), {"patch_sizes": [2]}, None),
        ((1024,), {"scheme": "subset", "subset_fraction": 0.001}, 1000),
        ((1025,), {"scheme": "subset", "subset_fraction": 0.001}, None),
        ((6,), {"scheme": "all"}, 1),
    ],
)
def test_no_mask_of_few_occurs_twice(shape, keywords, different):
    for rows in rows_asked(torch.ones(2, *shape), **keywords, n_draws=1000):
        unique = len(rows.flatten(1).unique(dim=0))
        if different is None:
            assert len(rows) == 1000
            assert unique < 950
        else:
            assert len(rows) == unique == different


def test_samples_draw_as_many_windows_as_they_have():
    # As texts of different lengths: 10 elements have 8 windows of 3, 4 have 2, 2 have one.
    inputs = make_inputs("series", n=3)
    x, a, y = map(torch.from_numpy, (inputs.x, inputs.a, inputs.y))
    features = torch.arange(12).expand(3, -1)
    features = features.where(features < torch.tensor([[10], [4], [2]]), -1)

    def ask(rows: slice) -> Scores:
        return infidelity(
            inputs.model,
            x[rows],
            a[rows],
            y[rows],
            patch_sizes=[3],
            elements=elements_of(x[rows], features=features[rows]),
            index=torch.arange(3)[rows],
        )

    whole = ask(slice(None))
    assert whole.details["n_draws"].tolist() == [8, 2, 1]
    assert (whole.standard_error == 0).all()
    for n in range(3):
        torch.testing.assert_close(ask(slice(n, n + 1)).score[0], whole.score[n])


def linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda rows: rows.flatten(1) @ torch.stack([weight, -weight], 1)


@pytest.mark.parametrize("multiply_by_inputs", [False, True])
def test_single_channel_values_of_a_linear_model(multiply_by_inputs):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(32, generator=generator, dtype=torch.float64)
    a = weight.reshape(1, 2, 4, 4).expand_as(x) * (x if multiply_by_inputs else 1)
    result = infidelity(
        linear(weight),
        x,
        a,
        torch.zeros(3, dtype=torch.long),
        perturbation=replace_by(0.0),
        scheme="subset",
        elements=elements_of(x, "channel_value"),
        multiply_by_inputs=multiply_by_inputs,
    )
    assert (result.score < 1e-24).all()


def test_elements_that_cannot_be_divided_by_cost_no_other_draw():
    x = torch.tensor([[1e-40, 1.0, 2.0]])
    settings = {"perturbation": shift_by(1.0), "multiply_by_inputs": True, "scheme": "subset"}
    result = infidelity(linear(torch.ones(3)), x, x, torch.tensor([0]), **settings)
    assert result.score.isfinite().all()


def test_draws_of_a_rescaled_map_do_not_depend_on_its_scale():
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64)
    counts = []
    for factor in (0.01, 1.0, 100.0):
        result = infidelity(
            lambda rows: torch.tanh(linear(weight)(rows)),
            x,
            x.flip(1) * factor,
            torch.zeros(4, dtype=torch.long),
            perturbation=uniform_noise(-1.0, 1.0),
            rescale=True,
            n_draws=4000,
            tolerance=0.02,
        )
        counts.append(result.details["n_draws"].tolist())
    assert counts[0] == counts[1] == counts[2]
    assert max(counts[0]) < 4000


def test_clean_outputs_may_be_known_and_graphs_are_not_kept():
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model, y = linear(torch.ones(6)), torch.zeros(3, dtype=torch.long)
    known = infidelity(model, x, x, y, clean=model(x.detach()))
    assert not known.score.requires_grad
    torch.testing.assert_close(known.score, infidelity(model, x, x, y).score)
