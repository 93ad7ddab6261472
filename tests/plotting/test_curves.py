"""Removal curves: what is drawn are the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy.integrate import trapezoid

from quantus_ext.plotting import (
    COLOURS,
    plot_curves,
    plot_deletion_insertion,
    plot_removal,
)
from tests.plotting.drawn import (
    FRACTIONS,
    band,
    curves,
    legend,
)


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


def test_states_that_come_twice_count_once():
    # A sample of four elements in eight steps.
    places = [*np.repeat([0, 0.25, 0.5, 0.75], 2), 1]
    morf, lerf = np.array([1, 1, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0]), np.repeat(0.5, 9)
    axes = plot_removal(places, morf[None], lerf[None])
    assert legend(axes)[2] == f"ABPC = {0.5 - (1 + 0.4 + 0.2 + 0.1 + 0) / 5:.3f}"
    axes = plot_removal([0, 0.2, 1], [[1, 0.8, 0]], [[0.5, 0.5, 0.5]])
    assert legend(axes)[2] == "ABPC = 0.000"


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
