"""Scores and agreement: what is drawn are the numbers."""

from __future__ import annotations

import numpy as np

from quantus_ext.plotting import (
    plot_agreement,
)


def test_agreement_shows_numbers_that_can_be_read():
    axes = plot_agreement(["A", "B"], [[1, -0.2], [-0.2, np.nan]])
    assert [text.get_text() for text in axes.texts] == ["1.00", "−0.20", "−0.20", "–"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "black"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["A", "B"]
    assert axes.images[0].get_clim() == (-1, 1)
    assert axes.figure.axes[1].get_ylabel() == "Spearman's rank correlation"
