"""Scores, means and agreement: what is drawn are the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import quantus

from quantus_ext import Evaluation, Infidelity
from quantus_ext.plotting import plot_agreement, plot_means, plot_ranking, plot_scores
from tests.harness import make_inputs
from tests.plotting.drawn import legend


def frame(values: list[list[float]]) -> pd.DataFrame:
    names = ["A", "B"][: len(values)]
    return pd.DataFrame(values, names, names)


def test_agreement_shows_numbers_that_can_be_read():
    axes = plot_agreement(frame([[1, -0.2], [-0.2, np.nan]]))
    assert [text.get_text() for text in axes.texts] == ["1.00", "−0.20", "−0.20", "–"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "black"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["A", "B"]
    assert axes.images[0].get_clim() == (-1, 1)
    assert axes.figure.axes[1].get_ylabel() == "Spearman's rank correlation"


def segments(axes) -> list[np.ndarray]:
    found = [np.array(bars.lines[2][0].get_segments()[0]) for bars in axes.containers]
    return [each[:, 0] for each in found if each.size]


def test_means_and_their_standard_errors():
    scores = {"A": [0.5, 1.5, np.nan], "B": [2.0]}
    axes = plot_means(scores, label="score")
    points = [bars.lines[0].get_xydata()[0] for bars in axes.containers]
    np.testing.assert_allclose(points, [[1, 0], [2, 1]])
    error = np.std([0.5, 1.5], ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(segments(axes), [[1 - error, 1 + error], [2, 2]])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["A", "B"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_intervals_need_not_be_symmetric():
    intervals = {"A": (0.4, 0.8), "B": (np.nan, np.nan)}
    axes = plot_means({"A": 0.5, "B": 1.0}, intervals=intervals, label="score")
    np.testing.assert_allclose(segments(axes), [[0.4, 0.8]])


@pytest.mark.parametrize(
    ("scores", "intervals", "message"),
    [
        ({}, None, "at least one"),
        ({"A": 1.0}, {"B": (0, 2)}, r"for the explainers \['A'\], are for \['B'\]"),
        ({"A": 1.0}, {"A": (1.5, 2)}, r"intervals\['A'\] must hold its mean, 1"),
        ({"A": 1.0}, {"A": (0, 0.5)}, "must hold its mean"),
    ],
)
def test_means_that_do_not_fit_are_refused(scores, intervals, message):
    with pytest.raises(ValueError, match=message):
        plot_means(scores, intervals=intervals, label="score")


def test_an_interval_may_leave_out_its_mean_by_a_rounding():
    axes = plot_means({"A": 0.1 + 0.2}, intervals={"A": (0.0, 0.3)}, label="score")
    np.testing.assert_allclose(segments(axes)[0], [0, 0.3])


def test_a_ranking_is_drawn_where_it_is_told():
    from matplotlib.figure import Figure

    scores = {"A": {"x": [0.0, 1.0, 1.0]}, "B": {"x": [3.0, 4.0, 9.0]}}
    evaluation = Evaluation.of_scores(scores, {"x": "lower"})
    figure = Figure()
    (axes,) = plot_ranking(evaluation, ax=figure)
    assert axes.figure is figure
    rows = {row.explainer: (row.low, row.high) for row in evaluation.ranking().rows}
    np.testing.assert_allclose(segments(axes), [rows["A"], rows["B"]])


def test_scores_of_the_samples_with_their_errors():
    metric = Infidelity(n_perturb_samples=8)
    scores = make_inputs("image").call(metric)
    axes = plot_scores(metric)
    (bars,) = axes.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), np.transpose([range(5), scores]))
    lengths = [np.ptp(np.array(segment)[:, 1]) / 2 for segment in bars.lines[2][0].get_segments()]
    np.testing.assert_allclose(lengths, metric.standard_errors)
    (line,) = (line for line in axes.lines if line.get_label().startswith("mean"))
    np.testing.assert_allclose(line.get_ydata(), scores.mean())
    error = scores.std(ddof=1) / np.sqrt(5)
    assert legend(axes) == [f"mean {scores.mean():.3g} ± {error:.2g}"]
    assert axes.get_ylabel() == "Infidelity (lower is better)"


def test_scores_of_a_metric_of_quantus():
    metric = quantus.Sparseness(disable_warnings=True)
    metric.evaluation_scores = [0.25, np.nan, 0.75]
    axes = plot_scores(metric)
    np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata(), [0.25, np.nan, 0.75])
    assert legend(axes)[0].startswith("mean 0.5 ±")


@pytest.mark.parametrize("wrong", [Infidelity(), ["A"], None])
def test_scores_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="metric must have been called and have one score per"):
        plot_scores(wrong)
