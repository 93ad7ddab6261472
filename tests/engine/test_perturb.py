"""Perturbations on blocks of draws: what they get, what they leave alone, what they refuse."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from quantus_ext import perturbation
from quantus_ext.engine.bridges import Bridge
from quantus_ext.engine.padding import PaddingPreserving
from quantus_ext.engine.replacements import (
    blur,
    draw_from,
    gaussian_blur,
    gaussian_noise,
    replace_by,
    shift_by,
    uniform_noise,
)
from tests.engine.blocks import SHAPES, apply, masks, samples
from tests.reference import perturbation as reference

# Native paths

NATIVES = {
    "number": replace_by(0.25),
    "black": replace_by("black"),
    "uniform a sample": replace_by("uniform"),
    "uniform a channel": replace_by("uniform", scope="channel"),
    "uniform a value": replace_by("uniform", scope="value"),
    "shift": shift_by("mean"),
    "random shift": shift_by("uniform"),
    "blur": blur(3),
    "Quantus's blur": blur(3, zeros_beyond=True),
    "blur, Gaussian": gaussian_blur(5, 1.5),
    "gaussian": gaussian_noise(0.1, 0.5),
    "uniform noise": uniform_noise(-0.5, 0.5),
}


def draw_from_all_generators(arr: np.ndarray) -> np.ndarray:
    noise = random.random() + np.random.random() + torch.rand(1).item()  # noqa: NPY002
    return arr + noise


BRIDGES = {"bridge": Bridge(draw_from_all_generators, "whole")}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", [*NATIVES, *BRIDGES])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_draw_does_not_depend_on_its_block(name, shape, data):
    perturbation = {**NATIVES, **BRIDGES}[name]
    x, mask = samples(shape, n=4), masks(shape, n=4, draws=6)
    whole = apply(perturbation, x, mask)
    rows = data.draw(st.sampled_from([slice(0, 1), slice(1, 3), slice(3, 4)]))
    first, stop = data.draw(st.sampled_from([(0, 1), (2, 5), (5, 6)]))
    part = apply(perturbation, x, mask[rows, first:stop], rows=rows, first=first)
    assert torch.equal(part, whole[rows, first:stop])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NATIVES)
def test_native_paths_keep_the_type_and_the_inputs(name, dtype):
    x = samples((3, 5, 6), dtype=dtype)
    before, mask = x.clone(), masks((3, 5, 6))
    result = apply(NATIVES[name], x, mask)
    assert result.dtype == dtype
    assert result.isfinite().all()
    assert torch.equal(x, before)
    kept = ~mask.expand_as(result)
    assert torch.equal(result[kept], x[:, None].expand_as(result)[kept])


@pytest.mark.parametrize("name", NATIVES)
def test_the_layout_of_the_buffer_does_not_matter(name):
    # Chunks of convolution nets come in channels-last layout.
    x, mask = samples((3, 5, 6)), masks((3, 5, 6))
    keys = torch.arange(6).reshape(2, 3)
    plain, last = (
        NATIVES[name]
        .prepare(x)
        .apply(
            slice(None),
            mask,
            keys,
            torch.empty(6, 3, 5, 6, dtype=x.dtype).to(memory_format=layout).unflatten(0, (2, 3)),
        )
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert last.stride(2) == 1
    assert torch.equal(plain, last)


def test_random_and_replaces():
    randoms = {name for name, native in NATIVES.items() if native.random}
    assert randoms == {name for name in NATIVES if "uniform" in name or name[:2] in ("ga", "ra")}
    assert {name for name, native in NATIVES.items() if native.replaces} == {
        name for name in NATIVES if name in ("number", "black") or "uniform a" in name
    }


@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (lambda: replace_by("grey"), (7,), ValueError, "perturb_baseline must be .*'grey'"),
        (lambda: replace_by(None), (7,), TypeError, "must be a number, is None"),
        (lambda: shift_by("grey"), (7,), ValueError, "input_shift must be one of .*'grey'"),
        (
            lambda: replace_by(np.zeros(4)),
            (3, 5, 6),
            ValueError,
            r"one per channel \(3,\) or of a sample's shape \(3, 5, 6\), has shape \(4,\)",
        ),
        (lambda: blur(0), (3, 5, 6), ValueError, "blur_kernel_size must.*is 0"),
        (lambda: blur([3]), (3, 5, 6), ValueError, r"or 2 of them, is \[3\]"),
        (lambda: blur([3, 3]), (2, 9), ValueError, r"or 1 of them, is \[3, 3\]"),
        (lambda: gaussian_blur(4), (7,), ValueError, "blur_kernel_size must be odd.*is 4"),
        (lambda: gaussian_blur(3, 0), (7,), ValueError, "blur_sigma must be above 0, is 0"),
        (lambda: gaussian_noise(0, -1), (7,), ValueError, "at least 0, is -1"),
        (lambda: uniform_noise(1, 1), (7,), ValueError, "has 1 and 1"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(make, shape, error, message):
    with pytest.raises(error, match=message):
        make().prepare(samples(shape))


# Blurs


BLURS = {
    "mean": (blur(4), lambda side: np.ones(4)),
    "wider than the samples": (blur(40), lambda side: np.ones(40)),
    "Gaussian": (
        gaussian_blur(7, 1.5),
        lambda side: np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2),
    ),
}


def blurred(perturbation: Any, x: torch.Tensor) -> torch.Tensor:
    everything = torch.ones(len(x), 1, *(1,) * (x.ndim - 1), dtype=torch.bool)
    return apply(perturbation, x, everything)[:, 0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", BLURS)
def test_a_blur_is_the_mean_over_what_is_inside(name, shape):
    perturbation, weights = BLURS[name]
    x = samples(shape)
    axes = max(len(shape) - 1, 1)
    for row, found in zip(x.numpy(), blurred(perturbation, x).numpy(), strict=True):
        expected = reference.window_mean(row, [weights(side) for side in range(axes)])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 50, 30), (2, 700), (1, 300), (5,), (1,)])
def test_blurs_leave_a_constant_as_it_is(shape, dtype):
    ones = torch.ones(2, *shape, dtype=dtype)
    for blurring in (
        blur(),
        blur(2),
        blur(99),
        gaussian_blur(),
    ):
        assert torch.equal(blurred(blurring, ones), ones)


def test_the_gaussian_is_scipy_s():
    x = np.random.default_rng(0).normal(size=(2, 60, 600))

    def smoothed(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 20, mode="constant", radius=25, axes=(1, 2))

    expected = smoothed(x) / smoothed(np.ones_like(x))
    found = blurred(gaussian_blur(), torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    # Where the kernel is wholly inside, what is beyond the borders is nobody's matter.
    inner = (slice(None), slice(25, -25), slice(25, -25))
    reflected = ndimage.gaussian_filter(x, 20, mode="reflect", radius=25, axes=(1, 2))
    np.testing.assert_allclose(found[inner], reflected[inner], rtol=0, atol=1e-12)


def test_padding_is_beyond_the_border():
    x = samples((2, 9))
    padded = torch.cat([x, torch.full((2, 2, 5), -99.0, dtype=x.dtype)], 2)
    for blurring in (
        blur(4),
        blur(40),
        gaussian_blur(5, 1.0),
    ):
        sparing = PaddingPreserving(blurring, lambda rows: rows[:, 0] == -99)
        result = sparing.prepare(padded).fixed
        torch.testing.assert_close(result[..., :9], blurring.prepare(x).fixed)
        assert (result[..., 9:] == -99).all()


# The bridge


def recorded(shape: tuple[int, ...], mask: torch.Tensor, signature: str) -> dict[str, Any]:
    """What a user's function with this signature is called with, for one draw of one sample."""
    calls: list[dict[str, Any]] = []

    def note(**arguments: Any) -> np.ndarray:
        calls.append(arguments)
        return arguments["arr"]

    names = [name for name in signature.split(", ") if not name.startswith("*")]
    passed = ", ".join(f"{name}={name}" for name in names)
    extra = ", **kwargs" if "**kwargs" in signature else ""
    function = eval(f"lambda {signature}: note({passed}{extra})", {"note": note})
    resolved = perturbation.resolve(function, {"strength": 2} if extra else {})
    apply(resolved, samples(shape, n=1), mask[None, None])
    (call,) = calls
    if extra:
        assert call.pop("strength") == 2
    return call


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["element", "channel value", "one for all"])
@pytest.mark.parametrize(
    "signature", ["arr, mask", "arr, indices, indexed_axes", "arr, indices, **kwargs", "arr"]
)
def test_a_user_s_function_gets_what_its_signature_asks_for(signature, kind, shape):
    if kind == "one for all":
        mask = torch.ones((1,) * len(shape), dtype=torch.bool)
    else:
        mask = masks(shape, each_channel=kind == "channel value")[0, 0]
    expected = mask.expand(shape).numpy()
    call = recorded(shape, mask, signature)
    x = samples(shape, n=1)[0].numpy()
    chosen = np.zeros(shape, dtype=bool)
    if "mask" in call:
        chosen = call["mask"]
    elif "indexed_axes" in call:
        assert isinstance(call["indices"], list)
        axes = call["indexed_axes"]
        positions = np.unravel_index(call["indices"], [shape[axis] for axis in axes])
        chosen[(slice(None),) * axes[0] + positions] = True
    elif "indices" in call:
        assert call["indices"].shape == (1, expected.sum())
        assert call["arr"].shape == (1, x.size)
        chosen.reshape(-1)[call["indices"][0]] = True
    else:
        chosen = expected
    assert np.array_equal(call["arr"].reshape(shape), x)
    assert call["arr"].shape == (shape if signature != "arr, indices, **kwargs" else (1, x.size))
    assert np.array_equal(chosen, expected)


def test_a_user_s_function_may_write_in_place_and_return_another_type():
    def zero(arr, mask):
        arr[mask] = 0
        return arr.astype(np.float32)

    x, mask = samples((2, 9)), masks((2, 9))
    before = x.clone()
    result = apply(perturbation.resolve(zero, {}), x, mask)
    assert torch.equal(x, before)
    assert result.dtype == x.dtype
    assert torch.equal(result == 0, mask.expand_as(result))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_reversed_views_are_taken(shape):
    x, mask = samples(shape), masks(shape)
    flipped = apply(perturbation.resolve(lambda arr: arr[..., ::-1], {}), x, mask)
    assert torch.equal(flipped, x.flip(-1).unsqueeze(1).expand_as(flipped))
    reverse = x[0].numpy()[..., ::-1]
    for made in (replace_by(reverse), draw_from(reverse[None])):
        result = apply(made, x, mask)
        expected = x[0].flip(-1).expand_as(result)
        assert torch.equal(result.where(mask, expected), expected)


def test_keywords_are_passed_and_left_alone():
    keywords = {"strength": 2.0, "table": {}}

    def add(arr, strength, table):
        return arr + strength

    x = samples((7,))
    result = apply(perturbation.resolve(add, keywords), x, masks((7,)))
    assert torch.equal(result[:, 0], x + 2)
    assert keywords == {"strength": 2.0, "table": {}}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(6), r"keep the shape \(2, 3\), returned \(6,\)"),
        (np.zeros((3, 2)), r"keep the shape \(2, 3\), returned \(3, 2\)"),
        (np.zeros((2, 4)), r"keep the shape \(2, 3\), returned \(2, 4\)"),
        (None, r"keep the shape \(2, 3\), returned \(\)"),
    ],
)
def test_another_shape_is_an_error(returned, message):
    def user_function(arr):
        return returned

    with pytest.raises(ValueError, match=f"perturb_func user_function must {message}"):
        apply(perturbation.resolve(user_function, {}), samples((2, 3)), masks((2, 3)))


def global_states() -> list[Any]:
    name, state, *rest = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), name, state.tolist(), rest, torch.get_rng_state().tolist()]


@pytest.mark.parametrize("fails", [False, True])
def test_global_generators_are_seeded_for_the_function_and_put_back(fails):
    def user_function(arr):
        result = draw_from_all_generators(arr)
        return None if fails else result

    x, mask = samples((7,)), masks((7,))
    before = global_states()
    if fails:
        with pytest.raises(ValueError, match="must keep"):
            apply(perturbation.resolve(user_function, {}), x, mask)
    else:
        draws = apply(perturbation.resolve(user_function, {}), x, mask)
        # Every draw of every sample has its own numbers.
        assert len((draws - x[:, None])[..., 0].unique()) == 6
    assert global_states() == before


@pytest.mark.parametrize("generator", ["random", "numpy", "torch"])
def test_each_generator_is_seeded(generator):
    source = {
        "random": random.random,
        "numpy": np.random.random,
        "torch": lambda: torch.rand(1).item(),
    }[generator]
    resolved = perturbation.resolve(lambda arr: arr + source(), {})
    x, mask = samples((7,)), masks((7,))
    assert torch.equal(apply(resolved, x, mask), apply(resolved, x, mask))
    assert not torch.equal(apply(resolved, x, mask), apply(resolved, x, mask, seed=1))
