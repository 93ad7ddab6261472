"""Volumes and videos: the same formulas over three axes, derived again; what else they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.ndimage import uniform_filter
from torch import nn

import quantus_ext
from quantus_ext import Deletion, FFidelity, FineTuner, Infidelity, RFidelity
from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import MaskSampler
from quantus_ext.perturbation import blur_replacement_by_indices
from quantus_ext.plotting import plot_case
from quantus_ext.protocols import plant_shortcut
from tests.cases import CASES
from tests.harness import make_inputs
from tests.reference import fidelity
from tests.reference.fidelity import positions

COVERED = [name for name, case in CASES.items() if "image" in case.modalities]


@pytest.mark.parametrize("name", COVERED)
def test_scores_are_those_of_the_slow_derivation(name: str):
    case, inputs = CASES[name], make_inputs("volume", n=2)
    predict = inputs.predict(softmax=case.metric().default_softmax)
    expected = case.reference(predict, inputs.x, inputs.y, inputs.a, np.arange(2))
    np.testing.assert_allclose(inputs.call(case.metric()), expected, rtol=1e-7, atol=1e-12)


def _segments(x: np.ndarray) -> np.ndarray:
    """Return blobs of unlike size, other ones in each sample."""
    return np.digitize(x.sum(1), [-2.0, -0.5, 0.3, 1.0, 2.5])


@pytest.mark.parametrize("element", ["position", "channel_value", "patch", "segment"])
def test_elements_are_cubes_segments_and_values(element: str):
    inputs = make_inputs("volume", n=2)
    size = 3 if element == "patch" else None
    segments = _segments(inputs.x)
    metric = RFidelity([0.5], n_samples=4, element=element, patch_size=size, output="probability")
    found = inputs.call(metric, s_batch=segments)
    expected = fidelity.fidelity(
        inputs.predict(softmax=True),
        inputs.x,
        inputs.y,
        inputs.a,
        np.arange(2),
        sparsity=(0.5,),
        alpha=0.5,
        n_samples=4,
        output="probability",
        element=element,
        patch_size=size,
        segments=segments,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if element == "patch":
        # 2 x 2 x 2 cubes of side 3 in 4 x 4 x 6, cut off at the far borders.
        assert len(positions(inputs.x.shape[1:], element, size, None)) == 8
        assert metric.details["size"].tolist() == [[4], [4]]


@pytest.mark.parametrize("becomes", ["mean", "blur"])
def test_blur_and_mean_are_over_all_three_axes(becomes: str):
    inputs = make_inputs("volume", n=2)
    sides = (1, 3, 5)
    blurred = {
        "perturb_func": blur_replacement_by_indices,
        "perturb_func_kwargs": {"blur_kernel_size": sides},
    }
    metric = Deletion([0.5], **(blurred if becomes == "blur" else {"baseline": "mean"}))
    inside = uniform_filter(np.ones((4, 4, 6)), sides, mode="constant")
    expected = []
    for x, y, a in zip(inputs.x, inputs.y, inputs.a, strict=True):
        other = np.full_like(x, x.mean())
        if becomes == "blur":
            other = np.stack([uniform_filter(each, sides, mode="constant") for each in x]) / inside
        order = np.argsort(-a.sum(0).ravel())
        outputs = []
        for count in (0, 48, 96):
            row = x.copy().reshape(2, -1)
            row[:, order[:count]] = other.reshape(2, -1)[:, order[:count]]
            outputs.append(inputs.predict(softmax=True)(row.reshape(1, *x.shape))[0, y])
        expected.append(trapezoid(outputs, [0, 0.5, 1]))
    np.testing.assert_allclose(inputs.call(metric), expected, rtol=1e-7)


def test_a_copy_is_tuned_under_random_cubes():
    inputs = make_inputs("volume", n=6, dtype=torch.float32)
    masks = MaskSampler(perturbation=replace_by(0.0), beta=0.5, element="patch", patch_size=2)
    x = torch.ones(200, 2, 4, 4, 6)
    gone = (masks(x) == 0).all(1)
    cubes = gone.unflatten(3, (3, 2)).unflatten(2, (2, 2)).unflatten(1, (2, 2))
    whole = cubes.all(2).all(3).all(4).sum((1, 2, 3))
    assert sorted(set(whole.tolist())) == list(range(7))  # of twelve
    assert (whole * 8 == gone.sum((1, 2, 3))).all()
    tuner = FineTuner(inputs.x, inputs.y, epochs=2, display_progressbar=False)
    metric = FFidelity([0.5], patch_size=2, n_samples=3, fine_tune=tuner, beta=0.3)
    assert np.isfinite(inputs.call(metric)).all()
    assert metric.health.report.epochs >= 1


def test_channels_may_come_last():
    inputs = make_inputs("volume", n=2)
    x, a = (np.moveaxis(each, 1, -1) for each in (inputs.x, inputs.a))
    found = Deletion(4)(inputs.model, x, inputs.y, a, channel_first=False)
    assert found == Deletion(4)(inputs.model, inputs.x, inputs.y, inputs.a)
    no_channel = inputs.a.sum(1)
    assert Deletion(4)(inputs.model, inputs.x, inputs.y, no_channel) == found
    assert Deletion(4)(inputs.model, inputs.x, inputs.y, no_channel[:, None]) == found


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 8, 9, 10, 3), r"volumes \(n, C, D, H, W\), or \(n, D, H, W, C\): pass channel_first="),
        ((2, 16, 3, 32, 24), r"videos \(n, T, C, H, W\).* np.moveaxis\(x_batch, 2, 1\)"),
        ((2, 8, 9, 10), r"volumes need an axis of one channel, x_batch\[:, None\]"),
        ((2, 1, 1, 8, 9, 10), "x_batch must have shape"),
    ],
)
def test_shapes_that_may_be_something_else_are_errors(shape, message):
    model = nn.Sequential(nn.Conv3d(1, 1, 1), nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.zeros(1, 1, 4, 4, 4))
    x = np.ones(shape, dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        Deletion(2)(model, x, np.zeros(2, int), x)


def test_evaluate_explains_scores_and_draws_volumes(tmp_path):
    inputs = make_inputs("volume", n=4, dtype=torch.float32)
    evaluation = quantus_ext.evaluate(
        [Deletion(4), Infidelity(n_perturb_samples=5)],
        {"Saliency": {}, "maps": inputs.a},
        inputs.model,
        inputs.x,
        inputs.y,
    )
    assert not evaluation.failures
    evaluation.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count('class="pixels"') == 27


def test_slices_with_the_largest_attributions_are_drawn():
    x = np.random.default_rng(0).normal(size=(1, 1, 6, 4, 5))
    a = np.zeros((1, 6, 4, 5))
    a[0, 1], a[0, 2], a[0, 5] = 1.0, -3.0, 2.0
    a[0, 3] = 0.5
    axes = plot_case(x, a, share=0.1)
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == [
        f"slice {i}" for i in (1, 2, 5)
    ]
    shown = axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, x[0, 0, [1, 2, 5]].reshape(12, 5))
    np.testing.assert_array_equal(axes[1].images[0].get_array(), a[0, [1, 2, 5]].reshape(12, 5))
    tint = axes[2].images[1].get_array()[..., 3]
    assert (tint > 0).sum() == 12  # of 120 positions, all on slice 5
    assert (tint[8:] > 0).sum() == 12
    assert axes[2].get_title() == "without the top 12 of 120"
    assert plot_case(x[:, :, :2], a[:, :2]).shape == (4,)


def test_a_shortcut_is_planted_in_a_cube():
    x = np.random.default_rng(0).normal(size=(40, 1, 5, 5, 5)).astype(np.float32)
    y = np.arange(40) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(125, 2)).eval()
    with pytest.warns(UserWarning, match="does not use what was planted"):
        planted = plant_shortcut(model, x, y, kind="patch", size=2, epochs=1)
    changed = (planted.x != x[planted.index]).any(1)
    assert not changed[~planted.masks].any()
    for mask in planted.masks:
        first, last = np.argwhere(mask).min(0), np.argwhere(mask).max(0)
        assert (last - first == 1).all()
        assert mask.sum() == 8


def test_functions_of_ones_own_get_positions_in_three_axes():
    inputs, seen = make_inputs("volume", n=1), []

    def own(arr: np.ndarray, indices: list[int], indexed_axes: Any) -> np.ndarray:
        seen.append((arr.shape, tuple(indexed_axes)))
        mask = np.zeros((4, 4, 6), dtype=bool)
        mask.reshape(-1)[indices] = True
        return np.where(mask, 0.0, arr)

    found = inputs.call(Deletion(4, perturb_func=own))
    np.testing.assert_allclose(found, inputs.call(Deletion(4)))
    assert set(seen) == {((2, 4, 4, 6), (1, 2, 3))}
