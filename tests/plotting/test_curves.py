"""Removal curves: what is drawn are the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy.integrate import trapezoid

from quantus_ext import ABPC, Deletion, Insertion, LeRF, MoRF
from quantus_ext.adapters import Series
from quantus_ext.plotting import (
    COLOURS,
    plot_curves,
    plot_deletion_insertion,
    plot_removal,
)
from tests.harness import make_inputs
from tests.plotting.drawn import (
    FRACTIONS,
    band,
    both,
    curves,
    details,
    legend,
)


def test_a_curve_is_the_mean_and_its_band_one_standard_error():
    values = curves()
    axes = plot_curves({"A": details(values), "B": details(values + 1)})
    mean, error = values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(axes.lines[0].get_xdata(), FRACTIONS)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), mean + 1)
    np.testing.assert_allclose(band(axes.collections[0]), [mean - error, mean + error])
    assert legend(axes) == ["A", "B"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("fraction removed", "output f(x)")


def test_a_single_sample_has_no_band():
    assert not plot_curves(details(curves(1))).collections


def test_samples_with_nan_are_left_out_and_counted():
    values = curves()
    values[[1, 4], [0, 3]] = np.nan
    axes = plot_curves({"A": details(values)})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values[[0, 2, 3, 5]].mean(0))
    assert legend(axes) == ["A (2 with NaN left out)"]


def test_no_two_explainers_look_the_same():
    axes = plot_curves({str(k): details(curves(1)) for k in range(14)})
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 14


def test_removal_shades_the_area_and_says_how_large():
    morf, lerf = np.array([[1, 0.4, 0.2, 0.1, 0]] * 2), np.array([[1, 0.9, 0.8, 0.6, 0]] * 2)
    axes = plot_removal(both(morf, lerf))
    assert legend(axes) == ["LeRF", "MoRF", f"ABPC = {(0.5 + 0.6 + 0.5) / 5:.3f}"]
    np.testing.assert_allclose(band(axes.collections[0]), [morf[0], lerf[0]])


def test_states_that_come_twice_count_once():
    # A sample of four elements in eight steps.
    places = [*np.repeat([0, 0.25, 0.5, 0.75], 2), 1]
    morf, lerf = np.array([1, 1, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0]), np.repeat(0.5, 9)
    axes = plot_removal(both(morf[None], lerf[None], places))
    assert legend(axes)[2] == f"ABPC = {0.5 - (1 + 0.4 + 0.2 + 0.1 + 0) / 5:.3f}"
    axes = plot_removal(both([[1, 0.8, 0]], [[0.5, 0.5, 0.5]], [0, 0.2, 1]))
    assert legend(axes)[2] == "ABPC = 0.000"


def test_removal_marks_where_the_area_is_negative():
    morf, lerf = [[1, 0.8, 0.5, 0.1, 0]], [[1, 0.2, 0.5, 0.3, 0]]
    axes = plot_removal(both(morf, lerf))
    assert legend(axes)[2:] == [f"ABPC = −{(0.6 - 0.2) / 5:.3f}", "counts as negative"]
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
    assert legend(plot_removal(both(morf, lerf)))[2] == f"ABPC = {expected:.3f}".replace("-", "−")


def test_deletion_and_insertion_side_by_side():
    deletion, insertion = {"A": curves(), "B": curves(seed=1)}, {"B": curves(), "A": curves(seed=2)}
    called = [{name: details(v) for name, v in given.items()} for given in (deletion, insertion)]
    left, right = plot_deletion_insertion(*called)
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


@pytest.mark.parametrize("kind", [MoRF, LeRF, Deletion, Insertion])
def test_a_metric_is_drawn_as_its_call_left_it(kind):
    metric = kind(4)
    make_inputs("table").call(metric)
    axes = plot_curves(metric)
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xdata(), metric.details["fractions"][0])
    np.testing.assert_allclose(line.get_ydata(), metric.details["curve"].mean(0))
    assert axes.get_xlabel() == f"fraction {'restored' if kind is Insertion else 'removed'}"
    assert legend(axes) == [metric.name]


def test_the_area_is_the_mean_of_the_scores():
    metric = ABPC(4)
    scores = make_inputs("series").call(metric)
    assert legend(plot_removal(metric))[2] == f"ABPC = {scores.mean():.3f}".replace("-", "−")


def test_curves_of_samples_of_different_lengths_are_averaged_between_their_fractions():
    inputs = make_inputs("series", n=2)
    x = inputs.x.copy()
    x[0, :, 5:] = -9
    metric = ABPC(12)
    scores = inputs.call(metric, model=Series(inputs.model, padding=-9.0), x_batch=x)
    places = metric.details["fractions"]
    assert not np.array_equal(*places)
    axes = plot_removal(metric)
    grid = np.union1d(*places)
    np.testing.assert_allclose(axes.lines[0].get_xdata(), grid)
    expected = [
        np.interp(grid, place, curve)
        for place, curve in zip(places, metric.details["curve_lerf"], strict=True)
    ]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.mean(expected, 0))
    assert legend(axes)[2] == f"ABPC = {scores.mean():.3f}".replace("-", "−")


def test_deletion_beside_insertion_of_metrics():
    inputs, metrics = make_inputs("table"), (Deletion(3), Insertion(3))
    for metric in metrics:
        inputs.call(metric)
    for axes, metric in zip(plot_deletion_insertion(*metrics), metrics, strict=True):
        area = metric.details["curve"].mean(0)
        (line,) = axes.lines
        np.testing.assert_allclose(line.get_ydata(), area)
