"""Fidelity: what is drawn are the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from quantus_ext import Fidelity
from quantus_ext.plotting import (
    plot_fidelity,
)
from tests.harness import make_inputs
from tests.plotting.drawn import (
    FRACTIONS,
    fidelity_details,
    legend,
)


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
