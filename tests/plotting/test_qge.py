"""QGE: what is drawn are the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from quantus_ext import QGE, MoRF
from quantus_ext.plotting import (
    COLOURS,
    plot_qge,
)
from tests.harness import make_inputs
from tests.plotting.drawn import (
    compared,
    legend,
)


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
    assert above.get_ylabel() == "Infidelity\n(lower is better)"
    assert below.get_ylabel() == "gap\n(higher is better)"


def bars(axes: Any) -> list[float]:
    """Return half the lengths of the error bars."""
    (lines,) = (c for c in axes.collections if len(c.get_paths()) and c.get_zorder() > 0)
    return [np.ptp(path.vertices[:, 1]) / 2 for path in lines.get_paths()]


def test_qge_shows_the_distribution_of_random_references():
    metric = compared()
    above, below = plot_qge(metric)
    dashes = [line.get_ydata() for line in above.lines if line.get_marker() == "_"]
    np.testing.assert_allclose(np.transpose(dashes[:4]), metric.details["references"])
    np.testing.assert_allclose(bars(below), [0.1, 0.2, np.nan])
    assert legend(above)[:2] == ["a random order", "mean of 4 random orders"]


def test_qge_after_a_call_has_the_references_that_were_drawn():
    inputs = make_inputs("table")
    metric = QGE(MoRF(4), reference="random", n_references=5)
    inputs.call(metric)
    dashes = [line.get_ydata() for line in plot_qge(metric)[0].lines if line.get_marker() == "_"]
    drawn = np.transpose([values for values in dashes if len(values)])
    assert drawn.shape == (5, 5)
    assert (drawn.std(1) > 0).all()
    np.testing.assert_allclose(drawn.mean(1), metric.details["reference"])


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
