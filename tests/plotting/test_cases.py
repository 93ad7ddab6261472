"""One explanation: what is removed is the top of the map."""

from __future__ import annotations

import numpy as np
import pytest
import quantus
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.offsetbox import TextArea

from quantus_ext import Infidelity
from quantus_ext.plotting import (
    plot_case,
)
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
