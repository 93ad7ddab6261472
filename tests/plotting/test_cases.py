"""One explanation: what is removed is the top of the map."""

from __future__ import annotations

import numpy as np
import pytest
import quantus
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.offsetbox import TextArea

from quantus_ext import QGE, Deletion, Fidelity, Infidelity
from quantus_ext.adapters import Columns, Series, TokenIds
from quantus_ext.plotting import plot_case, plot_maps
from quantus_ext.plotting.tokens import wrapped
from tests.harness import make_inputs


@pytest.mark.parametrize("modality", ["image", "series", "table"])
def test_case_removes_the_top_of_the_map(modality):
    inputs = make_inputs(modality)
    infidelity = Infidelity(n_perturb_samples=8)
    inputs.call(infidelity)
    foreign = quantus.Sparseness(disable_warnings=True)
    foreign.evaluation_scores = [0.25] * 5
    axes = plot_case(inputs.x, inputs.a, [infidelity, foreign], sample=2, share=0.25, baseline=-0.5)
    x, a = inputs.x[2], inputs.a[2]
    t = a[0].size if a.ndim > 1 else a.size
    scores = (a.sum(0) if a.ndim > 1 else a).ravel()
    top = np.argsort(-scores)[: t // 4]
    masked = x.reshape(-1, t).copy()
    masked[:, top] = -0.5
    if modality == "image":
        shown = axes[2].images[0].get_array().reshape(t, 3).T
        limits = x.min(), x.max()
        np.testing.assert_allclose(
            shown, ((masked - limits[0]) / (limits[1] - limits[0])).clip(0, 1)
        )
        np.testing.assert_allclose(axes[1].images[0].get_array().ravel(), scores)
        tint = axes[2].images[1].get_array()[..., 3].ravel()
        assert set(np.flatnonzero(tint)) == set(top)
    elif modality == "series":
        np.testing.assert_allclose([line.get_ydata() for line in axes[2].lines], masked)
        np.testing.assert_allclose([bar.get_height() for bar in axes[1].patches], scores)
        assert len(axes[2].patches) == len(top)
    else:
        for axis, expected in zip(axes, (x, scores, masked[0]), strict=False):
            widths = [bar.get_width() for bar in axis.containers[0]]
            np.testing.assert_allclose(widths, expected)
    first, second = (text.get_text() for text in axes[3].texts)
    assert first.startswith("Infidelity\n")
    assert f"± {infidelity.standard_errors[2]:.2g} (lower is better)" in first
    assert second == "Sparseness\n  0.25 (higher is better)"
    assert [axis.get_title() for axis in axes[:3]][:2] == ["input", "map"]


def test_case_takes_tensors_and_maps_of_one_channel():
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    axes = plot_case(x, torch.ones(2, 4, 4), sample=1)
    assert axes[2].get_title() == "without the top 1 of 16"


TOKENS = ["[CLS]", "a", "truly", "$great$", "film"]


def written(axes) -> list[tuple[str, str, str]]:
    """Return text, background and colour of each token."""
    areas = axes.findobj(TextArea)
    texts = [area.get_children()[0] for area in areas]
    boxes = [text.get_bbox_patch() for text in texts]
    return [
        (text.get_text(), to_hex(box.get_facecolor(), keep_alpha=True), text.get_color())
        for text, box in zip(texts, boxes, strict=True)
    ]


def test_case_of_a_text_colours_its_tokens():
    attributions = [[9.0, 0.0, -1.0, 2.0, 0.5]]
    ids = torch.tensor([[101, 4, 5, 6, 7]])
    metric = Infidelity()
    metric.evaluation_scores, metric.standard_errors = [0.5], np.array([0.1])
    axes = plot_case(ids, attributions, [metric], tokens=TOKENS, special=["[CLS]"], share=0.5)
    plain, shown, masked = (written(axis) for axis in axes[:3])
    assert [text for text, *_ in plain] == [text for text, *_ in shown] == TOKENS
    # What is special has no colour, and does not make the others' pale.
    clear = "#00000000"
    assert [background == clear for _, background, _ in plain] == [True] * 5
    assert [background == clear for _, background, _ in shown] == [True, *[False] * 4]
    hues = [to_rgb(background[:7]) for _, background, _ in shown[1:]]
    assert [np.sign(round(red - blue, 1)) for red, _, blue in hues] == [0, -1, 1, 1]
    assert [letters for *_, letters in shown] == ["black", "black", "black", "white", "black"]
    assert [letters == "black" for *_, letters in masked] == [True, True, True, False, False]
    assert axes[2].get_title(loc="left") == "without the top 2 of 4"
    assert axes[3].texts[0].get_text().startswith("Infidelity\n  0.5 ± 0.1")


def test_case_wraps_a_long_text():
    tokens = ["word"] * 60 + ["w" * 200, "end"]
    lines = wrapped(tokens, 300)
    assert [place for line in lines for place in line] == list(range(62))
    assert len(lines[0]) == int(300 // (4 * 0.602 * 9 + 5))
    assert lines[-2:] == [[60], [61]]
    short, long = (
        plot_case([[1.0] * n], [[1.0] * n], tokens=tokens[:n])[0].figure.get_size_inches()
        for n in (5, 60)
    )
    assert short[0] == long[0]
    assert short[1] < long[1]


def test_patches_are_drawn_as_the_metric_removed_them():
    inputs = make_inputs("image")
    metric = Deletion(2, element="patch", patch_size=4, perturb_baseline=0.5)
    inputs.call(metric)
    for given in (metric, QGE(metric)):
        given.evaluation_scores = metric.evaluation_scores
        axes = plot_case(inputs.x, inputs.a, given, sample=1, share=0.5)
        assert axes[2].get_title() == "without the top 2 of 4\npatches"
        means = inputs.a[1].sum(0).reshape(2, 4, 2, 4).mean((1, 3))
        drawn = axes[1].images[0].get_array()
        np.testing.assert_allclose(drawn, means.repeat(4, 0).repeat(4, 1))
        tint = axes[2].images[1].get_array()[..., 3] > 0
        top = means >= np.sort(means.ravel())[2]
        np.testing.assert_array_equal(tint, top.repeat(4, 0).repeat(4, 1))
        # The metric's own replacement.
        low, high = inputs.x[1].min(), inputs.x[1].max()
        shown = axes[2].images[0].get_array()
        np.testing.assert_allclose(shown[tint], (0.5 - low) / (high - low))


def test_maps_with_a_value_for_each_patch():
    metric = Deletion(2, patch_size=4)
    x, a = np.ones((1, 1, 8, 8)), np.array([[[0.0, 1.0], [2.0, 3.0]]])
    axes = plot_case(x, a, share=0.25, metrics=metric_with_score(metric))
    np.testing.assert_array_equal(axes[1].images[0].get_array(), a[0].repeat(4, 0).repeat(4, 1))


def metric_with_score(metric):
    metric.evaluation_scores = [0.5]
    return metric


@pytest.mark.parametrize("modality", ["image", "series", "table"])
def test_segments_are_drawn_as_the_metric_removed_them(modality):
    inputs = make_inputs(modality)
    x, a = inputs.x, inputs.a
    spatial = x.shape[2:] or x.shape[1:]
    ids = np.arange(np.prod(spatial)).reshape(spatial) // 3
    segments = np.broadcast_to(ids, (len(x), *spatial))
    metric = Fidelity([0.5], element="segment")
    inputs.call(metric, s_batch=segments)
    axes = plot_case(x, a, metric, s_batch=segments, sample=1, share=0.34)
    count = len(np.unique(segments[1]))
    top = max(1, int(0.34 * count))
    assert axes[2].get_title() == f"without the top {top} of {count}\nsegments"
    flat = (a[1].sum(0) if x.ndim > 2 else a[1]).ravel()
    ids = segments[1].ravel()
    means = np.array([flat[ids == i].mean() for i in range(count)])[ids]
    if modality == "image":
        drawn = axes[1].images[0].get_array().ravel()
    elif modality == "series":
        drawn = [bar.get_height() for bar in axes[1].patches]
        assert len(axes[2].patches) == 3 * top
    else:
        drawn = [bar.get_width() for bar in axes[1].containers[0]]
    np.testing.assert_allclose(drawn, means)


def test_padding_of_a_series_is_left_out():
    inputs = make_inputs("series")
    x, a = inputs.x.copy(), inputs.a.copy()
    x[1, :, 8:], a[1, :, 8:] = -999, np.nan
    axes = plot_case(x, a, model=Series(inputs.model, padding=-999.0), sample=1, share=0.5)
    assert axes[2].get_title() == "without the top 4 of 8"
    for axis in axes[[0, 2]]:
        assert [len(line.get_xdata()) for line in axis.lines] == [8, 8]
        assert min(line.get_ydata().min() for line in axis.lines) > -10
    assert len(axes[1].patches) == 8


def test_columns_of_one_feature_are_one_element():
    model = Columns(torch.nn.Linear(4, 2).eval(), [[0, 1], [2], [3]], n_columns=4)
    axes = plot_case([[1.0, 2, 3, 4]], [[1.0, 1, 1.5, 0]], model=model, share=0.34)
    assert [bar.get_width() for bar in axes[2].containers[0]] == [0, 0, 3, 4]
    assert axes[2].get_title() == "without the top 1 of 3"


class Embedded(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 2)

    def forward(self, ids):
        return self.embedding(ids).mean(1)


def test_padding_and_special_tokens_of_a_model_are_not_removed():
    model = TokenIds(Embedded().eval(), mask_id=2, pad_id=0, special_ids=[1])
    ids, a = [[1, 5, 6, 0, 0]], [[9.0, 1.0, 2.0, 9.0, 9.0]]
    tokens = ["[CLS]", "good", "film", "[PAD]", "[PAD]"]
    axes = plot_case(ids, a, model=model, tokens=tokens, share=0.5)
    assert axes[2].get_title(loc="left") == "without the top 1 of 2"
    grey = [letters != "black" for *_, letters in written(axes[2])]
    assert grey == [False, False, True, False, False]
    clear = [background == "#00000000" for _, background, _ in written(axes[1])]
    assert clear == [True, False, False, True, True]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_maps_beside_images_of_any_channels(channels):
    generator = np.random.default_rng(0)
    x, a = generator.normal(size=(2, 2, channels, 4, 5))
    axes = plot_maps(x, {"all": a, "one": a[:, :1], "none": a[:, 0]})
    for row in range(2):
        shown = axes[row, 0].images[0].get_array()
        expected = x[row].mean(0)
        if channels == 3:
            expected = (x[row] - x[row].min()) / np.ptp(x[row])
            expected = expected.transpose(1, 2, 0)
        np.testing.assert_allclose(shown, expected)
        for column, values in enumerate((a[row].sum(0), a[row, 0], a[row, 0]), start=1):
            drawn = axes[row, column].images[0].get_array()
            np.testing.assert_allclose(drawn, values / np.abs(values).max())


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"maps\['A'\] must have one of the shapes"):
        plot_maps(np.ones((1, 3, 4, 4)), {"A": np.ones((1, 2, 4, 4))})
    with pytest.raises(ValueError, match="labels must have one entry per image, 1; got 2"):
        plot_maps(np.ones((1, 3, 4, 4)), {}, labels=["a", "b"])
