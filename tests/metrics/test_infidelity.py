"""The metric class: Quantus's own number, its arguments, and errors in them."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import quantus
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import infidelity_perturb_func_decorator
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# Maps that carry the input


def _linear(shape: tuple[int, ...]) -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """Make a linear model, inputs between −2 and 3, labels, and its weights for these."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2)).eval()
    generator = np.random.default_rng(0)
    x = generator.uniform(-2, 3, (4, *shape)).astype(np.float32)
    y = np.array([0, 1, 1, 0])
    return model, x, y, model[1].weight.detach().numpy()[y].reshape(x.shape)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12), (9,)])
@pytest.mark.parametrize(
    "removal",
    [
        {},
        {"perturb_baseline": "mean"},
        {"perturb_baseline": "white"},
        {"perturb_baseline": "uniform"},
        {"perturb_baseline": 0.7},
        {"perturb_baseline": "an array"},
        {"perturb_func": perturb_func.gaussian_noise},
        {"perturb_func": perturb_func.baseline_replacement_by_blur},
        {"perturb_func": perturbation.background_replacement_by_indices},
        {"perturb_func": lambda arr, mask: np.where(mask, -arr, arr)},
    ],
)
@pytest.mark.parametrize("own", [0.0, "mean", "an array"])
def test_exact_maps_that_carry_the_input_are_faithful(own, removal, shape):
    model, x, y, weights = _linear(shape)
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    removal = {
        k: array if isinstance(v, str) and v == "an array" else v for k, v in removal.items()
    }
    if removal.get("perturb_func") is perturbation.background_replacement_by_indices:
        removal["perturb_func_kwargs"] = {"background": x[::-1]}
    own = array if own == "an array" else own
    axes = tuple(range(1, x.ndim))
    base = x.mean(axes, keepdims=True) if isinstance(own, str) else own
    metric = Infidelity(
        multiply_by_inputs=True,
        inputs_baseline=own,
        perturb_patch_sizes=[2, 3],
        n_perturb_samples=20,
        **removal,
    )
    scores = metric(model, x, y, weights * (x - base))
    # What single precision leaves, of changes whose squares are about 1, and of noise 1e-4.
    assert max(scores) < 1e-9
    assert min(metric.details["faithfulness"]) > 1 - 1e-6


def test_a_map_summed_over_channels_needs_its_own_baseline():
    model, x, y, weights = _linear((3, 8, 8))
    summed = (weights * (x - 0.5)).sum(1, keepdims=True)
    half = np.full(3, 0.5)
    for own in (half, "black", np.linspace(0, 1, 3)):
        metric = Infidelity(multiply_by_inputs=True, inputs_baseline=own, perturb_baseline=own)
        metric(model, x, y, summed)
        # Exact where it is that of the maps.
        assert (max(metric.details["infidelity"]) < 1e-9) == (own is half)
    with pytest.raises(ValueError, match="a_batch must have a value for each channel with multi"):
        Infidelity(multiply_by_inputs=True)(model, x, y, summed)


@pytest.mark.parametrize("shape", [(3, 8, 8), (9,)])
def test_maps_may_have_what_elements_become_as_their_baseline(shape):
    model, x, y, weights = _linear(shape)
    row = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    drawn = {
        "perturb_func": perturbation.background_replacement_by_indices,
        "perturb_func_kwargs": {"background": row[None]},
    }
    every, axes = range(np.prod(shape[-2:])), [1, 2] if len(shape) > 1 else [0]
    blurred = np.stack(
        [perturbation.blur_replacement_by_indices(each, every, axes, 3) for each in x]
    )
    blur = {
        "perturb_func": perturbation.blur_replacement_by_indices,
        "perturb_func_kwargs": {"blur_kernel_size": 3},
    }
    own = {"perturb_func": lambda arr, mask: np.where(mask, arr * 0 + row, arr)}
    for removal, base in ((drawn, row), (blur, blurred), (own, row)):
        a = weights * (x - base)
        for map_ in (a, a.sum(1, keepdims=True)) if x.ndim > 2 else (a,):
            metric = Infidelity(
                multiply_by_inputs=True,
                inputs_baseline="same",
                perturb_patch_sizes=[2, 3],
                n_perturb_samples=20,
                **removal,
            )
            assert max(metric(model, x, y, map_)) < 1e-9
            assert min(metric.details["faithfulness"]) > 1 - 1e-6


def test_one_possible_mask_is_said():
    model, x, y, weights = _linear((3, 8, 8))
    metric = Infidelity(perturb_patch_sizes=8, rescale=True)
    with pytest.warns(
        RuntimeWarning, match=r"samples \[0, 1, 2, 3\] .*one perturbation .* is poss"
    ):
        scores = metric(model, x, y, weights)
    assert np.isnan(scores).all()
    assert np.isnan(metric.standard_errors).all()
    plain = Infidelity(perturb_patch_sizes=8)
    assert max(plain(model, x, y, weights)) < 1e-9
    assert np.isnan(plain.details["faithfulness"]).all()


def test_captum_s_function_scores_as_captum():
    model, x, y, weights = _linear((3, 8, 8))
    a = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)

    @infidelity_perturb_func_decorator(True)
    def halved(inputs: torch.Tensor) -> torch.Tensor:
        return torch.where(inputs > 1, inputs / 2, inputs + 0.1)

    metric = Infidelity(perturb_func=perturbation.from_captum(halved), n_perturb_samples=3)
    scores = metric(model, x, y, a)
    theirs = captum_infidelity(
        model, halved, torch.from_numpy(x), torch.from_numpy(a), target=torch.from_numpy(y)
    )
    np.testing.assert_allclose(scores, theirs.numpy(), rtol=1e-4)
    # It is one perturbation, drawn three times.
    assert np.isnan(metric.details["faithfulness"]).all()

    def noisy(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.3 * torch.randn_like(inputs)
        return noise, inputs - noise

    random = Infidelity(perturb_func=perturbation.from_captum(noisy), n_perturb_samples=8)
    assert max(random(model, x, y, weights)) < 1e-9
    whole = random(model, x, y, a)
    part = random(model, x[2:], y[2:], a[2:], index_batch=np.array([2, 3]), batch_size=1)
    np.testing.assert_allclose(part, whole[2:], rtol=1e-5)
    with pytest.raises(ValueError, match="multiply_by_inputs must be False where perturb_func ret"):
        Infidelity(perturb_func=perturbation.from_captum(noisy), multiply_by_inputs=True)(
            model, x, y, a
        )


@pytest.mark.parametrize("scheme", ["patch", "quantus"])
def test_own_functions_are_called_as_the_docs_say(scheme):
    model, x, y, weights = _linear((3, 8, 8))

    def flat(arr, indices):
        result = arr.copy()
        np.put_along_axis(result, indices, 0.0, 1)
        return result

    functions = {
        "arr": lambda arr: arr / 2,
        "mask": lambda arr, mask: np.where(mask, 0, arr),
        "indices": flat,
    }
    for name, function in functions.items():
        keywords = {"perturb_func": function, "scheme": scheme, "n_perturb_samples": 5}
        if scheme == "quantus" and name != "indices":
            with pytest.raises(
                ValueError, match="perturb_func must be a function of arr and indic"
            ):
                Infidelity(**keywords)
            continue
        scores = Infidelity(**keywords)(model, x, y, weights)
        assert scheme == "quantus" or max(scores) < 1e-9
        assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        (
            "uniform",
            ValueError,
            "inputs_baseline must be one of .*'white', 'same', is 'uniform'",
        ),
        ("grey", ValueError, "inputs_baseline must be one of .*, is 'grey'"),
        (np.nan, ValueError, "inputs_baseline must be finite"),
        (np.array([0, np.inf]), ValueError, "inputs_baseline must be finite"),
        (None, TypeError, "inputs_baseline must be a number, is None"),
        (
            np.zeros(5),
            ValueError,
            r"inputs_baseline must be one number.*\(3, 8, 8\), has shape \(5,",
        ),
    ],
)
def test_baselines_that_maps_cannot_have_are_named(own, error, message):
    model, x, y, weights = _linear((3, 8, 8))
    with pytest.raises(error, match=message):
        Infidelity(multiply_by_inputs=True, inputs_baseline=own)(model, x, y, weights)


@pytest.mark.parametrize("shape", [(2,), (3,), (4,), (5,), (1, 4), (1, 4, 12), (1, 3, 8, 8)])
@pytest.mark.parametrize("carries", [False, True])
def test_a_default_window_tells_an_order_from_another(shape, carries):
    # Columns of a table, steps of a series, rows of an image, slices of a volume: few of them.
    generator = np.random.default_rng(0)
    x = generator.uniform(1, 2, (3, *shape)).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2)).eval()
    right = np.broadcast_to(model[1].weight.detach().numpy()[0].reshape(shape), x.shape)
    right = right * x if carries else right
    metric = Infidelity(multiply_by_inputs=carries, perturb_baseline=0.0)
    y = np.zeros(3, dtype=int)
    wrong = np.flip(right, -1).copy()
    assert np.allclose(metric(model, x, y, right.copy()), 0, atol=1e-9)
    assert (np.array(metric(model, x, y, wrong)) > 1e-4).all()


@pytest.mark.parametrize(
    "settings", [{"perturb_patch_sizes": 4}, {"scheme": "subset", "subset_fraction": 1.0}]
)
def test_a_single_mask_is_said(settings):
    model = nn.Linear(4, 2).eval()
    x, a = np.ones((3, 4), dtype=np.float32), np.arange(12.0).reshape(3, 4)
    with pytest.warns(UserWarning, match="only one mask is possible for 3 of 3 samples"):
        scores = Infidelity(**settings, multiply_by_inputs=True, perturb_baseline=0.0)(
            model, x, np.zeros(3, dtype=int), a
        )
    reverse = Infidelity(**settings, multiply_by_inputs=True, perturb_baseline=0.0)
    with pytest.warns(UserWarning, match="only one mask"):
        assert reverse(model, x, np.zeros(3, dtype=int), a[:, ::-1].copy()) == pytest.approx(scores)
