"""Every perturbation function of Quantus against Quantus itself."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantus.functions import perturb_func as quantus_functions
from scipy import stats

from quantus_ext import perturbation
from quantus_ext.engine.bridges import Bridge
from quantus_ext.engine.padding import PaddingPreserving
from quantus_ext.engine.sampling import Purpose
from tests.engine.blocks import SHAPES, apply, masks, samples
from tests.reference import perturbation as reference
from tests.reference import splitmix

ERROR_RATE = 1e-6
BY_NAME = {entry.name: entry for entry in perturbation.TABLE}
NATIVE = [entry.name for entry in perturbation.TABLE if entry.native is not None]


def resolve(name: str, **keywords: Any) -> Any:
    return perturbation.resolve(getattr(quantus_functions, name), keywords)


def test_every_function_of_quantus_has_one_row():
    functions = {
        name
        for name, function in inspect.getmembers(quantus_functions, inspect.isfunction)
        if function.__module__ == quantus_functions.__name__
    }
    assert [entry.name for entry in perturbation.TABLE] == list(BY_NAME)
    assert set(BY_NAME) == functions
    # perturb_batch only calls another one.
    assert set(reference.CALLS) == functions - {"perturb_batch"}


def test_table_for_the_docs_has_every_row():
    lines = perturbation.markdown_table().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == list(BY_NAME)
    for line in lines:
        entry = BY_NAME[line.split("`")[1]]
        assert ("native" in line) == (entry.native is not None)


# Deterministic functions with a native path: the same values

NAMES = [{"perturb_baseline": name} for name in ("black", "white", "mean", "Black")]
NUMBERS = [{"perturb_baseline": number} for number in (0.25, 0, np.float64(0.5), np.array(1.5))]
SHIFTS = [{"input_shift": next(iter(case.values()))} for case in [*NUMBERS, *NAMES]]
KERNELS = [{}, *({"blur_kernel_size": size} for size in (1, 2, 3, 4, 15))]
DETERMINISTIC = [
    (name, keywords)
    for name, cases in {
        "baseline_replacement_by_indices": [*NUMBERS, *NAMES],
        "batch_baseline_replacement_by_indices": [*NUMBERS, *NAMES],
        "baseline_replacement_by_mask": [*NUMBERS, *NAMES],
        "baseline_replacement_by_shift": SHIFTS,
        "baseline_replacement_by_blur": KERNELS,
    }.items()
    for keywords in cases
]


def assert_as_quantus(
    name: str, x: torch.Tensor, mask: torch.Tensor, keywords: dict[str, Any]
) -> None:
    ours = apply(resolve(name, **keywords), x, mask).numpy()
    for row, draw in np.ndindex(*mask.shape[:2]):
        arr, chosen = x[row].numpy(), mask[row, draw].numpy()
        theirs = reference.perturbed(name, arr, chosen, **keywords)
        # Only the order of sums, in means and blurs, may differ.
        np.testing.assert_allclose(ours[row, draw], theirs, rtol=1e-13, atol=1e-13)
        kept = ~np.broadcast_to(chosen, arr.shape)
        assert np.array_equal(ours[row, draw][kept], arr[kept])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("name", "keywords"), DETERMINISTIC)
def test_deterministic_natives_equal_quantus(name, keywords, shape):
    assert_as_quantus(name, samples(shape), masks(shape), keywords)


@pytest.mark.parametrize(
    ("name", "keywords"), [case for case in DETERMINISTIC if "blur" not in case[0]]
)
def test_deterministic_natives_equal_quantus_on_single_channel_values(name, keywords):
    shape = SHAPES["image-3"]
    assert_as_quantus(name, samples(shape), masks(shape, each_channel=True), keywords)


@pytest.mark.parametrize(
    ("name", "keyword", "shape", "of_a_sample"),
    [
        ("baseline_replacement_by_indices", "perturb_baseline", "image-3", False),
        ("baseline_replacement_by_indices", "perturb_baseline", "series", False),
        ("baseline_replacement_by_shift", "input_shift", "image-3", False),
        ("baseline_replacement_by_shift", "input_shift", "series", False),
        ("baseline_replacement_by_mask", "perturb_baseline", "image-3", True),
        ("baseline_replacement_by_mask", "perturb_baseline", "series", True),
        ("baseline_replacement_by_mask", "perturb_baseline", "table", True),
    ],
)
def test_arrays_as_baselines(name, keyword, shape, of_a_sample):
    shape = SHAPES[shape]
    size = shape if of_a_sample else shape[:1]
    baseline = np.random.default_rng(1).normal(size=size)
    assert_as_quantus(name, samples(shape), masks(shape), {keyword: baseline})


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [("image-1", (3, 2)), ("image-3", [1, 4]), ("series", (4,)), ("table", [3])],
)
def test_blur_with_a_side_for_each_axis(shape, kernel):
    shape = SHAPES[shape]
    keywords = {"blur_kernel_size": kernel}
    assert_as_quantus("baseline_replacement_by_blur", samples(shape), masks(shape), keywords)


@pytest.mark.parametrize("name", sorted({name for name, _ in DETERMINISTIC}))
def test_one_mask_for_all_elements(name):
    # What `scheme="all"` hands over: one value that stands for every element.
    keyword = {"baseline_replacement_by_shift": "input_shift"}.get(name, "perturb_baseline")
    mask = torch.ones(2, 3, 1, 1, 1, dtype=torch.bool)
    assert_as_quantus(name, samples((3, 5, 6)), mask, {keyword: 0.5})


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("function", "keywords"),
    [
        (perturbation.blur_replacement_by_indices, {}),
        (perturbation.blur_replacement_by_indices, {"blur_kernel_size": 2}),
        (perturbation.gaussian_blur_replacement_by_indices, {}),
        (
            perturbation.gaussian_blur_replacement_by_indices,
            {"blur_kernel_size": 3, "blur_sigma": 0.7},
        ),
    ],
)
def test_our_blurs_are_the_same_in_quantus_s_metrics_and_here(function, keywords, shape):
    x, mask = samples(shape), masks(shape)
    resolved = perturbation.resolve(function, keywords)
    assert not isinstance(resolved, Bridge)
    ours = apply(resolved, x, mask).numpy()
    for row, draw in np.ndindex(*mask.shape[:2]):
        arr = x[row].numpy()
        arguments = reference.sample(arr, mask[row, draw].numpy())
        # As Quantus calls its own, keywords it does not know included.
        theirs = function(**arguments, **keywords, perturb_baseline="black")
        np.testing.assert_array_equal(ours[row, draw], theirs)
        assert np.array_equal(arr, x[row].numpy())


# Random functions with a native path: the same distribution

RANDOM = [
    ("gaussian_noise", {}),
    ("gaussian_noise", {"perturb_mean": 0.3, "perturb_std": 0.5}),
    ("batch_gaussian_noise", {"perturb_mean": -0.1, "perturb_std": 2.0}),
    ("uniform_noise", {}),
    ("uniform_noise", {"lower_bound": -0.1, "upper_bound": 0.4}),
    ("batch_uniform_noise", {"lower_bound": 0.2}),
    ("batch_uniform_noise", {"lower_bound": 0.2, "upper_bound": 0.3}),
    *(
        (name, {"perturb_baseline": "uniform", **bounds})
        for name in (
            "baseline_replacement_by_indices",
            "batch_baseline_replacement_by_indices",
            "baseline_replacement_by_mask",
        )
        for bounds in ({}, {"uniform_low": -1.0, "uniform_high": 2.0})
    ),
    ("baseline_replacement_by_shift", {"input_shift": "uniform"}),
]


def changes(name: str, keywords: dict[str, Any], shape: tuple[int, ...], draws: int) -> np.ndarray:
    """What the draws make of a sample of zeros where chosen: ours and Quantus's, (2, draws, …)."""
    x = torch.zeros(1, *shape, dtype=torch.float64)
    mask = masks(shape, n=1, draws=1)
    chosen = np.broadcast_to(mask[0, 0].numpy(), shape)
    ours = apply(resolve(name, **keywords), x, mask.expand(1, draws, *mask.shape[2:]))[0].numpy()
    np.random.seed(0)  # noqa: NPY002 - it is what Quantus draws from
    theirs = [
        reference.perturbed(name, x[0].numpy(), mask[0, 0].numpy(), **keywords)
        for _ in range(draws)
    ]
    both = np.stack([ours, theirs])
    assert (both[:, :, ~chosen] == 0).all()
    return both[:, :, chosen]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 2, 3), (2, 5), (4,)])
@pytest.mark.parametrize(("name", "keywords"), RANDOM)
def test_random_natives_are_distributed_as_quantus(name, keywords, shape):
    ours, theirs = changes(name, keywords, shape, draws=600)
    for value in range(ours.shape[1]):
        p_value = stats.ks_2samp(ours[:, value], theirs[:, value]).pvalue
        assert p_value > ERROR_RATE
    # The same values are equal within a draw: all, those of a channel, or none.
    assert np.array_equal(equal_pairs(ours), equal_pairs(theirs))
    # Draws are independent of each other, and so are values that are not equal.
    assert stats.pearsonr(ours[1:, 0], ours[:-1, 0]).pvalue > ERROR_RATE
    for first, second in np.argwhere(~equal_pairs(ours)):
        assert stats.pearsonr(ours[:, first], ours[:, second]).pvalue > ERROR_RATE


def equal_pairs(draws: np.ndarray) -> np.ndarray:
    return (draws[:, :, None] == draws[:, None]).all(0)


@pytest.mark.parametrize(
    ("name", "different"),
    [
        ("batch_baseline_replacement_by_indices", 1),
        ("baseline_replacement_by_indices", 3),
        ("baseline_replacement_by_mask", 3 * 30),
    ],
)
def test_scope_of_a_uniform_baseline(name, different):
    everything = torch.ones(1, 1, 1, 5, 6, dtype=torch.bool)
    result = apply(resolve(name, perturb_baseline="uniform"), samples((3, 5, 6), n=1), everything)
    assert len(result.unique()) == different


def test_every_native_function_is_compared():
    assert {name for name, _ in [*DETERMINISTIC, *RANDOM]} == set(NATIVE)
    assert all(not resolve(name, **keywords).random for name, keywords in DETERMINISTIC)
    assert all(resolve(name, **keywords).random for name, keywords in RANDOM)


# Functions through the bridge: what Quantus makes with the same state of numpy's generator

SQUARE = (3, 6, 6)
BRIDGED = [
    ("noisy_linear_imputation", {}),
    ("noisy_linear_imputation", {"noise": 0.3}),
    ("rotation", {"perturb_angle": 30}),
    ("translation_x_direction", {"perturb_baseline": 0.5, "perturb_dx": 2}),
    ("translation_x_direction", {"perturb_baseline": "black", "perturb_dx": -1}),
    ("translation_y_direction", {"perturb_baseline": 0.5, "perturb_dy": 2}),
    ("translation_y_direction", {"perturb_baseline": "mean", "perturb_dy": 1}),
    ("batched_translation", {"perturb_baseline": "white", "perturb_dx": 2, "direction": "y"}),
    ("no_perturbation", {}),
]


@pytest.mark.parametrize(("name", "keywords"), BRIDGED)
def test_bridged_functions_equal_quantus(name, keywords):
    x, mask = samples(SQUARE), masks(SQUARE)
    ours = apply(resolve(name, **keywords), x, mask, seed=4).numpy()
    for row, draw in np.ndindex(*mask.shape[:2]):
        key = splitmix.draw_key(4, row, draw)
        np.random.seed(splitmix.bits(key, 1, Purpose.BRIDGE)[0] % 2**32)  # noqa: NPY002
        theirs = reference.perturbed(name, x[row].numpy(), mask[row, draw].numpy(), **keywords)
        assert np.array_equal(ours[row, draw], theirs)


def test_every_bridged_function_is_compared():
    assert {name for name, _ in BRIDGED} == set(BY_NAME) - set(NATIVE) - {"perturb_batch"}
    # A function that draws is said to: two calls with different states differ.
    for name, keywords in BRIDGED:
        assert resolve(name, **keywords).random == (name == "noisy_linear_imputation")


@pytest.mark.parametrize(
    ("name", "shape", "keywords"),
    [
        ("rotation", (1, 6, 6), {}),
        ("rotation", (2, 9), {}),
        ("rotation", (7,), {}),
        ("translation_x_direction", (1, 6, 6), {"perturb_baseline": 0.0}),
        ("translation_y_direction", (1, 6, 6), {"perturb_baseline": 0.0}),
        ("translation_x_direction", (2, 9), {"perturb_baseline": 0.0}),
        ("batched_translation", (2, 9), {"perturb_baseline": 0.0}),
        ("noisy_linear_imputation", (2, 9), {}),
        ("noisy_linear_imputation", (7,), {}),
    ],
)
def test_what_quantus_cannot_perturb_is_an_error_that_names_the_function(name, shape, keywords):
    # OpenCV drops the axis of a single channel. Where Quantus does not fail on what is left, it
    # returns the image transposed and without that axis.
    with pytest.raises(ValueError, match=rf"perturb_func {name} (failed on a sample of|must keep)"):
        apply(resolve(name, **keywords), samples(shape), masks(shape))


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("rotation", {"perturb_angle": 0}),
        ("translation_x_direction", {"perturb_baseline": 0.0, "perturb_dx": 0}),
        ("translation_y_direction", {"perturb_baseline": 0.0, "perturb_dy": 0}),
    ],
)
def test_a_turned_shape_is_an_error(name, keywords):
    # Quantus hands OpenCV height and width the wrong way round: (C, H, W) comes back (C, W, H).
    with pytest.raises(ValueError, match=rf"perturb_func {name} must keep the shape \(3, 5, 6\)"):
        apply(resolve(name, **keywords), samples((3, 5, 6)), masks((3, 5, 6)))


# What resolve makes of its arguments


def test_perturb_batch_is_its_inner_function():
    x, mask = samples((2, 9)), masks((2, 9))
    inner = quantus_functions.baseline_replacement_by_indices
    outer = resolve("perturb_batch", perturb_func=inner, perturb_baseline=0.5)
    assert torch.equal(
        apply(outer, x, mask), apply(resolve(inner.__name__, perturb_baseline=0.5), x, mask)
    )


def test_partial_functions_take_their_native_path_and_their_call_s_keywords():
    x, mask = samples((7,)), masks((7,))
    function = quantus_functions.batch_baseline_replacement_by_indices
    partial = functools.partial(function, perturb_baseline=0.5)
    for keywords, value in (({}, 0.5), ({"perturb_baseline": 0.25}, 0.25)):
        resolved = perturbation.resolve(partial, keywords)
        assert not isinstance(resolved, Bridge)
        assert (apply(resolved, x, mask)[mask] == value).all()


def test_positional_arguments_of_partial_functions_are_kept():
    def fill(value, arr):
        return np.full_like(arr, value)

    resolved = perturbation.resolve(functools.partial(fill, 2.0), {})
    assert (apply(resolved, samples((7,)), masks((7,))) == 2).all()


# Functions of the user's own, and what a metric binds to them


def _bound(function: Any, baseline: Any = None, **keywords: Any) -> dict[str, Any]:
    """What a metric whose default baseline is "black" passes besides what is perturbed."""
    return perturbation.bind(function, baseline, keywords, default_baseline="black").keywords


class Method:
    def fill(self, arr, mask, strength=1.0):
        return arr * ~mask * strength

    def __call__(self, arr, indices):
        return arr


def _wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


OWN = {
    "arr": (lambda arr: arr, {}),
    "arr, mask": (lambda arr, mask: arr, {}),
    "arr, indices": (lambda arr, indices: arr, {}),
    "arr, indices, indexed_axes": (lambda arr, indices, indexed_axes: arr, {}),
    "keyword only": (lambda *, arr, mask: arr, {}),
    "defaults": (lambda arr, strength=2.0: arr * strength, {}),
    "a required baseline": (lambda arr, perturb_baseline: arr, {"perturb_baseline": "black"}),
    # Its own default, which the caller did not ask to change.
    "a baseline of its own": (lambda arr, perturb_baseline=0.5: arr * perturb_baseline, {}),
    "any keyword": (lambda arr, **kwargs: arr, {"perturb_baseline": "black"}),
    "any keyword alone": (lambda **kwargs: kwargs["arr"], {"perturb_baseline": "black"}),
    "a method": (Method().fill, {}),
    "an object": (Method(), {}),
    "a wrapper": (_wrapped(lambda arr, mask: arr), {}),
    "a partial": (functools.partial(lambda strength, arr: arr, 2.0), {}),
    "a partial's keyword": (
        functools.partial(lambda arr, strength: arr, strength=2.0),
        {"strength": 2.0},
    ),
    "inside Quantus's perturb_batch": (quantus_functions.perturb_batch, {}),
}


@pytest.mark.parametrize("name", OWN)
def test_functions_get_the_keywords_that_they_take(name):
    function, expected = OWN[name]
    inner = {"perturb_func": lambda arr: arr} if "perturb_batch" in name else {}
    assert _bound(function, **inner) == {**expected, **inner}
    resolved = perturbation.resolve(function, {**expected, **inner})
    assert apply(resolved, samples((2, 9)), masks((2, 9))).isfinite().all()


def test_what_is_given_is_passed():
    def function(arr, perturb_baseline=0.5, strength=1.0):
        return arr

    assert _bound(function, 0.25, strength=2.0) == {"perturb_baseline": 0.25, "strength": 2.0}
    # As in Quantus the function's keywords win.
    assert _bound(function, 0.25, perturb_baseline=1.0) == {"perturb_baseline": 1.0}
    assert _bound(quantus_functions.gaussian_noise, None)["perturb_baseline"] == "black"


@pytest.mark.parametrize(
    ("function", "keywords", "error", "message"),
    [
        (lambda x: x, {}, TypeError, r"must have a parameter 'arr'.*has \['x'\].*from_captum"),
        (lambda arr, /: arr, {}, TypeError, "must have a parameter 'arr'.*passed by name"),
        (lambda *arr: arr, {}, TypeError, "must have a parameter 'arr'"),
        (np.roll, {}, TypeError, "perturb_func roll must have a parameter 'arr'"),
        (
            np.negative,
            {},
            TypeError,
            "must say what it takes, <ufunc 'negative'> does not|must have a parameter 'arr'",
        ),
        (max, {}, TypeError, "must say what it takes, <built-in function max> does not"),
        (torch.relu, {}, TypeError, "must say what it takes, .*relu.* does not"),
        (lambda arr: arr, {"strength": 1}, ValueError, r"takes no strength, only \['arr'\]"),
        (lambda arr: arr, {"perturb_baseline": 1}, ValueError, "takes no perturb_baseline"),
        (lambda arr, strength: arr, {}, ValueError, "needs strength besides arr: give it in pert"),
        (lambda arr, mask, indices: arr, {}, ValueError, "needs indices besides arr, mask"),
    ],
)
def test_functions_that_cannot_be_called_are_named(function, keywords, error, message):
    with pytest.raises(error, match=message):
        perturbation.bind(function, None, keywords, default_baseline="black")


# Functions as captum's


def _noisy(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn_like(inputs)
    return noise, inputs - noise


def test_captum_s_functions_are_called_row_by_row_with_their_own_numbers():
    x, mask = samples((3, 5, 6)), masks((3, 5, 6))
    resolved = perturbation.resolve(perturbation.from_captum(_noisy))
    whole = apply(resolved, x, mask)
    part = apply(resolved, x, mask[1:, 1:], rows=slice(1, 2), first=1)
    assert torch.equal(part, whole[1:, 1:])
    assert len((whole - x[:, None])[:, :, 0, 0, 0].unique()) == 6
    apply_, _, interpretation = resolved.prepare(x)
    keys = torch.arange(6).reshape(2, 3)
    perturbed = apply_(slice(None), mask, keys, torch.empty(2, 3, 3, 5, 6, dtype=x.dtype))
    torch.testing.assert_close(perturbed + interpretation(), x[:, None].expand(-1, 3, -1, -1, -1))
    state = torch.get_rng_state()
    assert torch.equal(apply(resolved, x, mask), whole)
    assert torch.equal(torch.get_rng_state(), state)
    in_place = perturbation.from_captum(lambda inputs: (torch.ones_like(inputs), inputs.sub_(1)))
    before = x.clone()
    assert torch.equal(apply(in_place, x, mask), (x - 1).unsqueeze(1).expand_as(whole))
    assert torch.equal(x, before)
    # captum itself takes it too.
    assert perturbation.from_captum(_noisy)(x)[1].shape == x.shape


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: x, r"must return \(I, x - I\), returned Tensor"),
        (lambda x: (x, x, x), r"must return \(I, x - I\), returned tuple"),
        (
            lambda x: (x, x[:, :1]),
            r"must return two tensors of shape \(1, 2, 9\), one is \(1, 1, 9\)",
        ),
        (lambda x: (x, x.numpy()), "must return two tensors of shape .* one is ndarray"),
        (lambda x: (x, x / 0), "must return finite values"),
        (lambda x: x.no_such_thing, r"failed on inputs of shape \(1, 2, 9\): 'Tensor' object has"),
    ],
)
def test_what_captum_s_functions_must_return(returned, message):
    def user_function(inputs):
        return returned(inputs)

    with pytest.raises(ValueError, match=f"perturb_func user_function {message}"):
        apply(
            perturbation.resolve(perturbation.from_captum(user_function)),
            samples((2, 9)),
            masks((2, 9)),
        )


def test_captum_s_functions_take_no_keywords():
    with pytest.raises(ValueError, match="perturb_baseline must be left out with from_captum"):
        perturbation.bind(perturbation.from_captum(_noisy), 0.5, None, default_baseline="black")
    with pytest.raises(TypeError, match="perturb_func must be callable, is 'noise'"):
        perturbation.from_captum("noise")
    sparing = PaddingPreserving(perturbation.from_captum(_noisy), lambda rows: rows[:, 0] == 0)
    with pytest.raises(ValueError, match="must be a function of arr where samples have padding"):
        sparing.prepare(samples((2, 9)))


class Unhashable:
    __hash__ = None

    def __call__(self, arr):
        return arr + 1


def test_an_unhashable_callable_is_a_function_too():
    x = samples((7,))
    assert torch.equal(apply(perturbation.resolve(Unhashable(), {}), x, masks((7,)))[:, 0], x + 1)


@pytest.mark.parametrize(
    ("function", "keywords", "error", "message"),
    [
        ("black", {}, TypeError, "perturb_func must be callable, is 'black'"),
        (
            quantus_functions.batch_baseline_replacement_by_indices,
            {},
            ValueError,
            "must hold 'perturb_baseline', holds",
        ),
        (
            quantus_functions.baseline_replacement_by_shift,
            {"perturb_baseline": 1},
            ValueError,
            "must hold 'input_shift', holds",
        ),
        (quantus_functions.perturb_batch, {}, ValueError, "must hold 'perturb_func'"),
        (
            quantus_functions.gaussian_noise,
            {"perturb_std": -1.0},
            ValueError,
            "perturb_std must be at least 0, is -1.0",
        ),
        (
            quantus_functions.uniform_noise,
            {"lower_bound": 0.3, "upper_bound": 0.2},
            ValueError,
            "lower_bound below upper_bound, has 0.3 and 0.2",
        ),
    ],
)
def test_keywords_that_do_not_fit(function, keywords, error, message):
    with pytest.raises(error, match=message):
        perturbation.resolve(function, keywords)


def test_the_table_in_the_docs_is_the_table_in_the_code():
    page = Path(__file__).parents[1] / "docs" / "perturbations.md"
    assert perturbation.markdown_table() in page.read_text(encoding="utf-8")
