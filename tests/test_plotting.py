"""Figures: what is drawn are the numbers, nothing is shown, and what doesn't fit is an error."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from quantus_ext import plotting
from quantus_ext.plotting import (
    COLOURS,
    plot_agreement,
    plot_curves,
    plot_deletion_insertion,
    plot_removal,
    save_figure,
)

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
        areas = [np.trapezoid(given[name].mean(0), FRACTIONS) for name in "AB"]
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


DRAWN = {
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
