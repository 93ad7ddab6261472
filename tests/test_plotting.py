"""Figures: what is drawn are the numbers, nothing is shown, and what doesn't fit is an error."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import quantus
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.integrate import trapezoid

from quantus_ext import QGE, Fidelity, Infidelity, MoRF, RFidelity, plotting
from quantus_ext.plotting import (
    COLOURS,
    on_pyplot,
    plot_agreement,
    plot_area,
    plot_case,
    plot_curves,
    plot_deletion_insertion,
    plot_fidelity,
    plot_qge,
    plot_removal,
    plot_scores,
    save_figure,
)
from tests.harness import make_inputs

FRACTIONS = np.linspace(0, 1, 5)


def curves(n: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 5))


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def band(collection) -> np.ndarray:
    """Return the lower and the upper edge of a filled band at each fraction."""
    vertices = collection.get_paths()[0].vertices
    at = [vertices[np.isclose(vertices[:, 0], place), 1] for place in FRACTIONS]
    return np.array([[values.min(), values.max()] for values in at]).T


def test_a_curve_is_the_mean_and_its_band_one_standard_error():
    values = curves()
    axes = plot_curves(FRACTIONS, {"A": values, "B": values + 1}, label="output f(x)")
    mean, error = values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(axes.lines[0].get_xdata(), FRACTIONS)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), mean + 1)
    np.testing.assert_allclose(band(axes.collections[0]), [mean - error, mean + error])
    assert legend(axes) == ["A", "B"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("fraction removed", "output f(x)")


def test_a_single_sample_has_no_band():
    assert not plot_curves(FRACTIONS, {"A": curves(1)}, label="f").collections


def test_samples_with_nan_are_left_out_and_counted():
    values = curves()
    values[[1, 4], [0, 3]] = np.nan
    axes = plot_curves(FRACTIONS, {"A": values}, label="f")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values[[0, 2, 3, 5]].mean(0))
    assert legend(axes) == ["A (2 with NaN left out)"]


def test_no_two_explainers_look_the_same():
    axes = plot_curves(FRACTIONS, {str(k): curves(1) for k in range(14)}, label="f")
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 14


def test_removal_shades_the_area_and_says_how_large():
    morf, lerf = np.array([[1, 0.4, 0.2, 0.1, 0]] * 2), np.array([[1, 0.9, 0.8, 0.6, 0]] * 2)
    axes = plot_removal(FRACTIONS, morf, lerf)
    assert legend(axes) == ["LeRF", "MoRF", f"ABPC = {(0.5 + 0.6 + 0.5) / 5:.3f}"]
    np.testing.assert_allclose(band(axes.collections[0]), [morf[0], lerf[0]])


def test_removal_marks_where_the_area_is_negative():
    morf, lerf = [[1, 0.8, 0.5, 0.1, 0]], [[1, 0.2, 0.5, 0.3, 0]]
    axes = plot_removal(FRACTIONS, morf, lerf)
    assert legend(axes)[2:] == [f"ABPC = {(-0.6 + 0.2) / 5:.3f}", "counts as negative"]
    colours = [to_hex(c.get_facecolor()[0]).upper() for c in axes.collections]
    assert colours == [COLOURS[2], COLOURS[3]]
    # The curves cross at 1/2, where one area ends and the other begins.
    right, left = (c.get_paths()[-1].vertices[:, 0] for c in axes.collections)
    assert (left.min(), left.max()) == pytest.approx((0, 0.5))
    assert (right.min(), right.max()) == pytest.approx((0.5, 1))


def test_removal_leaves_the_same_samples_out_of_both():
    morf, lerf = curves(), curves(seed=1)
    expected = (lerf[1:] - morf[1:]).mean()
    morf[0, 2] = np.nan
    assert legend(plot_removal(FRACTIONS, morf, lerf))[2] == f"ABPC = {expected:.3f}"


def test_deletion_and_insertion_side_by_side():
    deletion, insertion = {"A": curves(), "B": curves(seed=1)}, {"B": curves(), "A": curves(seed=2)}
    left, right = plot_deletion_insertion(FRACTIONS, deletion, insertion)
    for axes, given in ((left, deletion), (right, insertion)):
        # The same order and colours on both sides, whatever the order in the mapping.
        areas = [trapezoid(given[name].mean(0), FRACTIONS) for name in "AB"]
        assert legend(axes) == [f"A: {areas[0]:.3f}", f"B: {areas[1]:.3f}"]
        for line, name in zip(axes.lines, "AB", strict=True):
            np.testing.assert_allclose(line.get_ydata(), given[name].mean(0))
    assert [a.get_xlabel() for a in (left, right)] == ["fraction removed", "fraction restored"]
    assert "lower" in left.get_title()
    assert "higher" in right.get_title()
    assert left.get_ylim() == right.get_ylim()


def test_agreement_shows_numbers_that_can_be_read():
    axes = plot_agreement(["A", "B"], [[1, -0.2], [-0.2, np.nan]])
    assert [text.get_text() for text in axes.texts] == ["1.00", "−0.20", "−0.20", "–"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "black"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["A", "B"]
    assert axes.images[0].get_clim() == (-1, 1)
    assert axes.figure.axes[1].get_ylabel() == "Spearman's rank correlation"


def fidelity_details(n: int = 6) -> dict[str, np.ndarray]:
    sizes = np.tile(FRACTIONS[1:], (n, 1))
    plus = curves(n)[:, 1:] * 0.4 + np.sqrt(sizes) * 0.6
    minus = curves(n, seed=1)[:, 1:] * 0.3
    return {
        "sparsity": sizes,
        "curve_plus": plus,
        "curve_minus": minus,
        "error_plus": np.full_like(plus, 0.05),
        "error_minus": np.full_like(plus, 0.02),
    }


def test_fidelity_shows_both_signs_with_the_error_of_the_mean():
    details = fidelity_details()
    axes = plot_fidelity(details)
    for line, filled, sign in zip(axes.lines, axes.collections, ("plus", "minus"), strict=True):
        values = details[f"curve_{sign}"]
        error = values.std(0, ddof=1) / np.sqrt(6)
        np.testing.assert_allclose(line.get_xdata(), FRACTIONS[1:])
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
        vertices = filled.get_paths()[0].vertices
        assert vertices[:, 1].max() == pytest.approx((values.mean(0) + error).max())
        assert vertices[:, 1].min() == pytest.approx((values.mean(0) - error).min())
    assert ["higher" in legend(axes)[0], "lower" in legend(axes)[1]] == [True, True]
    assert axes.get_legend().get_title().get_text() == "mean ± standard error"


def test_fidelity_of_one_sample_has_the_error_of_its_draws():
    details = fidelity_details(1)
    axes = plot_fidelity(details)
    top = axes.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx((details["curve_plus"] + 0.05).max())
    assert "of the draws" in axes.get_legend().get_title().get_text()


def test_fidelity_leaves_the_same_samples_out_of_both_signs():
    details = fidelity_details()
    details["curve_plus"][2, 0] = np.nan
    details["error_plus"][1] = np.nan
    axes = plot_fidelity(details)
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), details["curve_minus"][kept].mean(0))
    assert "1 with NaN left out" in axes.get_legend().get_title().get_text()


@pytest.mark.parametrize("output", ["label", "probability"])
def test_fidelity_of_a_metric_in_any_order_of_sizes(output):
    inputs = make_inputs("table")
    metric = Fidelity([0.9, 0.3, 0.6], output=output)
    inputs.call(metric)
    axes = plot_fidelity(metric)
    assert axes.lines[0].get_xdata().tolist() == [0.3, 0.6, 0.9]
    expected = metric.details["curve_plus"].mean(0)[[1, 2, 0]]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
    assert ("probability" in axes.get_ylabel()) == (output == "probability")


def test_fidelity_of_one_size_has_error_bars():
    metric = Fidelity(0.5)
    make_inputs("table").call(metric)
    axes = plot_fidelity(metric)
    assert len(axes.containers) == 2
    assert axes.lines[0].get_xdata().tolist() == [0.5]


def compared(k: int = 4) -> QGE:
    """Return a metric as a call leaves it: lower is better, k random references."""
    metric = QGE(Infidelity(), reference="random", n_references=k)
    metric.details = {"score": np.array([1.0, 2.0, 3.0]), "reference": np.array([2.0, 2.0, 1.0])}
    metric.standard_errors = np.array([0.1, 0.2, np.nan])
    return metric


def test_qge_shows_score_reference_and_gap():
    above, below = plot_qge(compared())
    points = {line.get_label(): line.get_ydata() for line in above.lines if len(line.get_ydata())}
    np.testing.assert_allclose(points["explanation"], [1, 2, 3])
    (name,) = (label for label in points if label.startswith("mean of 4 random orders"))
    np.testing.assert_allclose(points[name], [2, 2, 1])
    # Lower is better, so the gap is turned.
    assert [bar.get_height() for bar in below.patches] == [1, 0, -2]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in below.patches]
    assert colours == [COLOURS[2], COLOURS[3], COLOURS[3]]
    assert "1 of 3" in below.get_title(loc="left")
    assert above.get_ylabel() == "Infidelity (lower is better)"
    assert below.get_ylabel() == "gap (higher is better)"


def bars(axes: Any) -> list[float]:
    """Return half the lengths of the error bars."""
    (lines,) = (c for c in axes.collections if len(c.get_paths()) and c.get_zorder() > 0)
    return [np.ptp(path.vertices[:, 1]) / 2 for path in lines.get_paths()]


def test_qge_shows_the_distribution_of_random_references():
    above, below = plot_qge(compared())
    np.testing.assert_allclose(bars(above), [0.2, 0.4, np.nan])
    np.testing.assert_allclose(bars(below), [0.1, 0.2, np.nan])


def test_qge_as_written_is_not_turned():
    metric = compared()
    metric.signed, metric.score_direction = False, metric.direction
    _, below = plot_qge(metric)
    assert [bar.get_height() for bar in below.patches] == [-1, 0, 2]
    assert "1 of 3" in below.get_title(loc="left")
    assert "lower" in below.get_ylabel()


def test_qge_of_an_inverse_has_no_bars():
    inputs = make_inputs("table")
    metric = QGE(MoRF(4))
    scores = inputs.call(metric)
    above, below = plot_qge(metric)
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], scores)
    assert legend(above) == ["inverse explanation", "explanation"]


def consistencies(seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    names = ("IAC_{NR}", "IAC_{AR}", "IEC_{NR}", "IEC_{AR}")
    return {
        kind: {"consistency_scores": {name: generator.random(3) for name in names}}
        for kind in ("Input", "Model")
    }


def test_area_is_that_of_metaquantus():
    given = {"A": consistencies(), "B": {"results_meta_consistency_scores": consistencies(1)}}
    axes = plot_area(given)
    assert len(axes) == 2
    for axis, kinds in zip(axes, (consistencies(), consistencies(1)), strict=True):
        for polygon, kind in zip(axis.patches, ("Input", "Model"), strict=True):
            mean = {k: v.mean() for k, v in kinds[kind]["consistency_scores"].items()}
            corners = [
                [-mean["IAC_{AR}"], 0],
                [0, mean["IAC_{NR}"]],
                [mean["IEC_{AR}"], 0],
                [0, -mean["IEC_{NR}"]],
            ]
            np.testing.assert_allclose(polygon.get_xy()[:4], corners)
        values = [v for k in kinds.values() for v in k["consistency_scores"].values()]
        assert axis.get_title().endswith(f"MC = {np.mean(values):.3f}")
    (shown,) = axes[0].figure.legends
    assert [text.get_text() for text in shown.get_texts()][1:] == [
        "input perturbed",
        "model perturbed",
    ]


def test_area_leaves_no_empty_panels():
    axes = plot_area({str(k): consistencies(k) for k in range(5)})
    assert len(axes) == len(axes[0].figure.axes) == 5


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


DRAWN = {
    "fidelity": lambda axes: plot_fidelity(fidelity_details(), axes=axes),
    "curves": lambda axes: plot_curves(FRACTIONS, {"A": curves()}, label="f", axes=axes),
    "removal": lambda axes: plot_removal(FRACTIONS, curves(), curves(), axes=axes),
    "agreement": lambda axes: plot_agreement(["A"], [[1]], axes=axes),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_where_it_is_told(name):
    axes = Figure().subplots()
    assert DRAWN[name](axes) is axes


def test_nothing_is_shown_and_files_are_not_blank(tmp_path):
    before = mpl.get_backend(auto_select=False)
    figure = Figure(layout="constrained")
    axes = plot_deletion_insertion(FRACTIONS, {"A": curves()}, {"A": curves()}, figure=figure)
    assert axes[0].figure is figure
    save_figure(figure, tmp_path / "figure.png", dpi=40)
    image = mpl.image.imread(tmp_path / "figure.png")
    assert np.ptp(image) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert mpl.get_backend(auto_select=False) == before
    assert not hasattr(plotting, "plt")


ON_FIGURES = {
    "qge": lambda figure: plot_qge(compared(), figure=figure),
    "area": lambda figure: plot_area({"A": consistencies()}, figure=figure),
    "image": lambda figure: plot_case(np.ones((1, 1, 4, 4)), np.ones((1, 4, 4)), figure=figure),
    "series": lambda figure: plot_case(np.ones((1, 1, 4)), np.ones((1, 1, 4)), figure=figure),
    "table": lambda figure: plot_case(np.ones((1, 4)), np.ones((1, 4)), figure=figure),
}


@pytest.mark.parametrize("name", ON_FIGURES)
def test_draws_on_the_figure_that_it_is_told(name):
    figure = Figure()
    assert all(axis.figure is figure for axis in ON_FIGURES[name](figure))


PLOTS = {
    "fidelity": (plot_fidelity, lambda: {"metric": fidelity_details()}),
    "qge": (plot_qge, lambda: {"metric": compared()}),
    "area": (plot_area, lambda: {"results": {"A": consistencies()}}),
    "case": (
        plot_case,
        lambda: {"x_batch": np.ones((1, 4)), "a_batch": np.array([[3, 1, 2, 0.0]])},
    ),
    "scores": (
        plot_scores,
        lambda: {"names": ["A"], "scores": [1], "errors": [0.1], "label": "s"},
    ),
}


@pytest.mark.parametrize("name", PLOTS)
def test_quantus_plot_saves_what_is_drawn(name, tmp_path):
    from matplotlib import pyplot as plt

    mpl.use("agg")
    plt.close("all")
    plot, keywords = PLOTS[name]
    metric = RFidelity(default_plot_func=on_pyplot(plot))
    copied = copy.deepcopy(pickle.loads(pickle.dumps(metric)))
    path = tmp_path / "figure.png"
    copied.plot(show=False, path_to_save=str(path), **keywords())
    assert np.ptp(mpl.image.imread(path)) > 0
    assert plt.gcf().axes
    plt.close("all")
    # Without it pyplot knows of no figure, also after one that failed.
    with pytest.raises((TypeError, ValueError)):
        on_pyplot(plot)(None)
    plot(**keywords())
    plt.close("all")
    plot(**keywords())
    assert plt.get_fignums() == []


IMAGES = Path(__file__).parent / "images"
PICTURES = {
    "fidelity": lambda: [plot_fidelity(fidelity_details())],
    "qge": lambda: plot_qge(compared()),
    "area": lambda: plot_area({"A": consistencies(), "B": consistencies(1)}),
}
_TOLERANCE = 0.03


def pixels(axes: Any) -> np.ndarray:
    """Return what is drawn without anything that depends on fonts, shape (rows, columns, 3)."""
    figure = axes[0].figure
    figure.set_layout_engine("none")
    figure.set_size_inches(4, 2)
    figure.set_dpi(60)
    for text in figure.findobj(Text):
        text.set_visible(False)
    for shown in [*figure.legends, *(axis.get_legend() for axis in axes)]:
        if shown is not None:
            shown.remove()
    for place, axis in enumerate(axes):
        axis.set_position([(place + 0.05) / len(axes), 0.05, 0.9 / len(axes), 0.9])
        axis.tick_params(length=0)
        axis.grid(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(((first - second) ** 2).mean()))


@pytest.mark.parametrize("name", PICTURES)
def test_looks_as_it_did(name):
    expected = mpl.image.imread(IMAGES / f"{name}.png")[..., :3]
    assert distance(pixels(PICTURES[name]()), expected) < _TOLERANCE


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (
            "fidelity",
            lambda: [plot_fidelity({**fidelity_details(), "curve_minus": np.ones((6, 4))})],
        ),
        ("qge", lambda: plot_qge(compared(16))),
        ("area", lambda: plot_area({"A": consistencies(), "B": consistencies(2)})),
    ],
)
def test_another_figure_does_not_look_the_same(name, changed):
    expected = mpl.image.imread(IMAGES / f"{name}.png")[..., :3]
    assert distance(pixels(changed()), expected) > _TOLERANCE


def bad_area(**parts: Any) -> dict[str, Any]:
    given = consistencies()
    given["Model"]["consistency_scores"].update(parts)
    return {"A": given}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_fidelity(RFidelity()), "metric must have been called.*sparsity"),
        (lambda: plot_fidelity({"sparsity": [[1]]}), "curve_plus"),
        (
            lambda: plot_fidelity({**fidelity_details(), "curve_plus": np.full((6, 4), np.nan)}),
            "sample without NaN",
        ),
        (lambda: plot_qge(QGE(Infidelity())), "metric must have been called.*reference"),
        (lambda: plot_area({}), "results must have a metric"),
        (lambda: plot_area({"A": {}}), r"results\['A'\] must have the results of Input or Model"),
        (lambda: plot_area({"A": {"Weights": {}}}), "Weights"),
        (lambda: plot_area(bad_area(**{"IEC_{AR}": np.nan})), "IEC_{AR} between 0 and 1, has nan"),
        (lambda: plot_area(bad_area(**{"IAC_{NR}": 1.2})), "has 1.2"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 4))), "a_batch"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), sample=1), "sample must be.*is 1"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), share=0), "share"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), names=["a"]), "names must have"),
        (
            lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), [RFidelity()]),
            r"metrics\[0\] must have a score a sample",
        ),
        (lambda: plot_curves([0, 0], {}, label="f"), "fractions must be two or more increasing"),
        (lambda: plot_curves([0, np.nan], {}, label="f"), "fractions"),
        (
            lambda: plot_curves([0, 1], {"A": [[1]]}, label="f"),
            r"curves\['A'\].*\(n, 2\).*\(1, 1\)",
        ),
        (lambda: plot_curves([0, 1], {"A": [[1, np.nan]]}, label="f"), "sample without NaN"),
        (lambda: plot_removal([0, 0.2, 1], [[1, 0, 0]], [[1, 0, 0]]), "equal steps"),
        (lambda: plot_removal([0, 1], [[1, 0]], [[1, 0]] * 2), "same samples"),
        (lambda: plot_removal([0, 1], [[1, np.nan]], [[1, 0]]), "morf and lerf must have"),
        (
            lambda: plot_deletion_insertion([0, 1], {"A": [[1, 0]]}, {"B": [[1, 0]]}),
            "same explainers",
        ),
        (lambda: plot_deletion_insertion([0, 1], {}, {}), "at least one"),
        (
            lambda: plot_deletion_insertion([0, 1], {"A": [[1, 0]]}, {"A": [[1]]}),
            r"insertion\['A'\]",
        ),
        (
            lambda: plot_agreement(["A"], [[1, 0], [0, 1]]),
            r"correlation.*1; got the shape \(2, 2\)",
        ),
        (lambda: plot_agreement([], np.zeros((0, 0))), "correlation"),
        (lambda: plot_agreement(["A"], [[1.2]]), "between -1 and 1; got 1.2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


if __name__ == "__main__":  # python -m tests.test_plotting: after a change that is meant
    IMAGES.mkdir(exist_ok=True)
    for picture, draw in PICTURES.items():
        mpl.image.imsave(IMAGES / f"{picture}.png", pixels(draw()))
