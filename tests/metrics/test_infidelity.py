"""The metric class: Quantus's own number, its arguments, and errors in them."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import quantus
import torch
from quantus.functions import perturb_func
from quantus.helpers.model.models import LeNet
from torch import nn

from quantus_ext import Infidelity, perturbation
from tests.harness import Inputs, make_inputs, rows_seen


def _lenet() -> nn.Module:
    return LeNet()


def _colour_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    )


@pytest.fixture(scope="module", params=[(_lenet, 1), (_colour_net, 3)], ids=["lenet", "colour"])
def images(request: pytest.FixtureRequest) -> Inputs:
    build, channels = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    generator = np.random.default_rng(0)
    x = generator.random((4, channels, 28, 28), dtype=np.float32)
    a = generator.normal(size=(4, 1, 28, 28)).astype(np.float32)
    return Inputs(model, x, np.arange(4), a)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("sizes", [[2], [4], [7]])
def test_quantus_scheme_gives_the_number_of_quantus(images: Inputs, sizes, softmax):
    with rows_seen(images.model) as seen:
        theirs = images.call(
            quantus.Infidelity(perturb_patch_sizes=sizes, n_perturb_samples=10), softmax=softmax
        )
        evaluations_theirs = sum(map(len, seen))
    ours = Infidelity(scheme="quantus", perturb_patch_sizes=sizes, n_perturb_samples=10)
    np.testing.assert_allclose(images.call(ours, softmax=softmax), theirs, rtol=1e-4)
    assert ours.n_evaluations <= 0.11 * evaluations_theirs
    assert (ours.standard_errors == 0).all()


@pytest.mark.parametrize("baseline", ["mean", "white", 0.3])
def test_quantus_scheme_follows_the_baseline(images: Inputs, baseline):
    settings = {"perturb_baseline": baseline, "perturb_patch_sizes": [4, 7]}
    theirs = quantus.Infidelity(**settings, n_perturb_samples=1)
    ours = Infidelity(**settings, scheme="quantus")
    np.testing.assert_allclose(images.call(ours), images.call(theirs), rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_quantus_scheme_does_not_ask_for_what_a_patch_leaves(images: Inputs, batch_size):
    x = images.x.copy()
    # The dark frame of a digit, a dark stripe, and a wholly dark image.
    x[:, :, :4], x[:2, ..., 20:] = 0, 0
    x[3] = 0
    dark = Inputs(images.model, x, images.y, images.a)
    theirs = dark.call(quantus.Infidelity(perturb_baseline="black", n_perturb_samples=1))
    ours = Infidelity(perturb_baseline="black", scheme="quantus")
    np.testing.assert_allclose(dark.call(ours, batch_size=batch_size), theirs, rtol=1e-4)
    patches = x.reshape(4, -1, 7, 4, 7, 4).max((1, 3, 5)) > 0
    # Once all is dark nothing is left to be asked for.
    assert ours.n_evaluations == 4 + patches.sum()
    assert patches.sum(axis=(1, 2)).tolist() == [30, 30, 42, 0]


def test_quantus_scheme_takes_any_loss(images: Inputs):
    def lopsided(a: np.ndarray, b: np.ndarray, batched: bool) -> np.ndarray:
        assert batched
        return (a**2 - b).mean(-1)

    theirs = quantus.Infidelity(loss_func=lopsided, n_perturb_samples=1)
    ours = Infidelity(loss_func=lopsided, scheme="quantus")
    np.testing.assert_allclose(images.call(ours), images.call(theirs), rtol=1e-4)


def test_quantus_scheme_with_random_perturbation_repeats_and_knows_its_error(images: Inputs):
    def metric(seed: int, n_perturb_samples: int = 12) -> Infidelity:
        return Infidelity(
            scheme="quantus",
            perturb_patch_sizes=[14],
            perturb_baseline="uniform",
            n_perturb_samples=n_perturb_samples,
            seed=seed,
        )

    whole, part = metric(0), metric(0)
    scores = images.call(whole)
    assert whole.n_evaluations == 4 + 12 * 4 * 4
    later = images.rows(slice(2, 4)).call(part, index_batch=np.array([2, 3]), batch_size=1)
    np.testing.assert_allclose(later, scores[2:], rtol=1e-5)
    many = [metric(seed) for seed in range(40)]
    spread = np.stack([images.call(m) for m in many]).var(0, ddof=1).mean()
    claimed = np.mean([m.standard_errors**2 for m in many])
    # 160 squared deviations know the ratio's root to about 6 %.
    assert 0.8 < np.sqrt(claimed / spread) < 1.25


@pytest.mark.parametrize("name", [entry.name for entry in perturbation.TABLE])
def test_every_perturbation_function_of_quantus_is_taken(name: str):
    inputs = make_inputs("image")
    inputs.model.float()
    keywords = {
        "baseline_replacement_by_shift": {"input_shift": 0.5},
        "batched_translation": {"perturb_dx": 2},
        "perturb_batch": {"perturb_func": perturb_func.gaussian_noise, "perturb_std": 0.5},
    }.get(name, {})
    metric = Infidelity(
        perturb_func=getattr(perturb_func, name),
        perturb_func_kwargs=keywords,
        perturb_baseline=0.0,
        n_perturb_samples=4,
    )
    scores = inputs.call(metric)
    assert np.isfinite(scores).all()
    moved = metric.details["infidelity"] > 0
    assert moved.all() == (name != "no_perturbation")


def test_takes_every_argument_of_its_sibling():
    sibling = inspect.signature(quantus.Infidelity.__init__).parameters
    wanted = [
        name
        for name, parameter in sibling.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    defaults = {name: sibling[name].default for name in wanted}
    metric = Infidelity(**defaults)
    assert metric.n_perturb_samples == 10
    assert list(inspect.signature(Infidelity.__init__).parameters)[1:4] == wanted[:3]
    call = set(inspect.signature(quantus.Infidelity.__call__).parameters) - {"kwargs"}
    assert call <= set(inspect.signature(Infidelity.__call__).parameters)


def test_sizes_of_the_patch_are_mixed_evenly():
    inputs = make_inputs("table", n=1)
    with rows_seen(inputs.model) as seen:
        inputs.call(Infidelity(perturb_patch_sizes=[1, 5], perturb_baseline=9.0))
    sizes = (torch.cat(seen)[1:] == 9.0).sum(1)
    assert set(sizes.tolist()) == {1, 5}
    # 200 fair choices: 100 ± 7; five standard deviations.
    assert 65 < (sizes == 1).sum() < 135


@pytest.mark.parametrize(("fraction", "size"), [(0.29, 2), (0.5, 3), (0.01, 1), (1.0, 7)])
def test_subsets_have_the_asked_size(fraction: float, size: int):
    inputs = make_inputs("table", n=1)
    metric = Infidelity(scheme="subset", subset_fraction=fraction, perturb_baseline=9.0)
    with rows_seen(inputs.model) as seen:
        inputs.call(metric)
    assert ((torch.cat(seen)[1:] == 9.0).sum(1) == size).all()


def test_the_same_perturbation_of_the_whole_input_is_made_once():
    inputs = make_inputs("image")
    inputs.model.float()
    metric = Infidelity(perturb_func=perturb_func.rotation, n_perturb_samples=50)
    inputs.call(metric)
    assert metric.n_evaluations == 2 * 5
    assert (metric.standard_errors == 0).all()


BAD = {
    "scheme": ({"scheme": "grid"}, ValueError, "scheme must be one of 'patch', .* is 'grid'"),
    "loss": ({"loss_func": "mae"}, ValueError, "loss_func must be one of 'mse', is 'mae'"),
    "loss without scheme": ({"loss_func": np.mean}, ValueError, 'needs scheme="quantus"'),
    "draws": ({"n_perturb_samples": 0}, ValueError, "n_perturb_samples must be at least 1, is 0"),
    "draws float": ({"n_perturb_samples": 1.5}, TypeError, "n_perturb_samples must be an integer"),
    "patch": ({"perturb_patch_sizes": [4, -1]}, ValueError, "perturb_patch_sizes .* is -1"),
    "no patch": ({"perturb_patch_sizes": []}, ValueError, "perturb_patch_sizes .* is empty"),
    "fraction": ({"subset_fraction": 1.5}, ValueError, "subset_fraction .* at most 1, is 1.5"),
    "baseline nan": ({"perturb_baseline": np.nan}, ValueError, "perturb_baseline must be finite"),
    "tolerance": ({"tolerance": 0}, ValueError, "tolerance must be above 0, is 0"),
    "tolerance nan": ({"tolerance": np.nan}, ValueError, "tolerance must be finite"),
    "baseline name": ({"perturb_baseline": "grey"}, ValueError, "one of .*, is 'grey'"),
    "perturb_func": ({"perturb_func": "noise"}, TypeError, "perturb_func must be callable"),
    "std": (
        {"perturb_func": perturb_func.gaussian_noise, "perturb_func_kwargs": {"perturb_std": -1}},
        ValueError,
        "perturb_std must be at least 0, is -1",
    ),
    "rescaled quantus": (
        {"scheme": "quantus", "rescale": True},
        ValueError,
        'rescale is not defined for scheme="quantus"',
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_settings_are_named(bad: str):
    keywords, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        Infidelity(**keywords)


@pytest.mark.parametrize(
    ("modality", "keywords", "message"),
    [
        ("image", {"perturb_patch_sizes": [9]}, r"the shortest axis of \(8, 8\), has \[9\]"),
        ("table", {"perturb_patch_sizes": [8]}, r"the shortest axis of \(7,\), has \[8\]"),
        ("image", {"scheme": "quantus", "perturb_patch_sizes": [3]}, "divide height and width"),
        ("series", {"scheme": "quantus"}, "needs images"),
        ("image", {"perturb_baseline": np.zeros(5)}, r"shape \(3, 8, 8\), has shape \(5,\)"),
    ],
)
def test_settings_that_do_not_fit_the_inputs_are_named(modality, keywords, message):
    with pytest.raises(ValueError, match=message):
        make_inputs(modality).call(Infidelity(**keywords))
