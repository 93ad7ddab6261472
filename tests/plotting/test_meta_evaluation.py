"""MetaQuantus's area: what is drawn are the numbers."""

from __future__ import annotations

import numpy as np

from quantus_ext.plotting import (
    plot_area,
)
from tests.plotting.drawn import (
    consistencies,
)


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
