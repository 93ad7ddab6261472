"""Scores and agreement: what is drawn are the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from quantus_ext.plotting import plot_agreement, plot_scores


def test_agreement_shows_numbers_that_can_be_read():
    axes = plot_agreement(["A", "B"], [[1, -0.2], [-0.2, np.nan]])
    assert [text.get_text() for text in axes.texts] == ["1.00", "−0.20", "−0.20", "–"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "black"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["A", "B"]
    assert axes.images[0].get_clim() == (-1, 1)
    assert axes.figure.axes[1].get_ylabel() == "Spearman's rank correlation"


def test_errors_below_and_above_are_drawn_as_they_are():
    axes = plot_scores(["A", "B"], [0.5, 1.0], [[0.1, 0.2], [0.3, np.nan]], label="score")
    segments = [bars.lines[2][0].get_segments() for bars in axes.containers]
    np.testing.assert_allclose(segments[0], [[[0.4, 0], [0.8, 0]]])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["A", "B"]


@pytest.mark.parametrize("errors", [[0.1], [[0.1, 0.1]] * 3, [0.1, -0.1], [[0.1, -0.1], [0, 0]]])
def test_errors_that_do_not_fit_are_refused(errors):
    with pytest.raises(ValueError, match="errors must"):
        plot_scores(["A", "B"], [0.5, 1.0], errors, label="score")
