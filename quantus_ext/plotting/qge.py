"""QGE: scores, scores of their references, and the gaps between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from quantus.helpers.enums import ScoreDirection

from quantus_ext.plotting.figures import COLOURS, Place, several_panels, style_axes
from quantus_ext.plotting.given import details_of

if TYPE_CHECKING:
    from quantus_ext.metrics.qge import QGE

_REFERENCES = {
    "inverse": "inverse explanation",
    "random": "random order",
    "negated": "negated explanation",
}


def plot_qge(metric: QGE, *, ax: Place | None = None) -> NDArray[np.object_]:
    """
    Draw each sample's score beside that of its reference, and the gap between them below.

    Parameters
    ----------
    metric : QGE
        A metric that has been called.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (2,)
        Each of several random references is a dash. The error bars are one standard error. They
        are left out where it is unknown, for example around a metric that is itself random.

    Raises
    ------
    ValueError
        If the metric has not been called.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import QGE, Infidelity
    >>> model = torch.nn.Linear(4, 2).eval()
    >>> metric = QGE(Infidelity(perturb_baseline=0.0))
    >>> scores = metric(model, np.ones((3, 4)), np.array([0, 1, 0]), np.eye(3, 4))
    >>> above, below = plot_qge(metric)
    >>> above.get_ylabel(), np.allclose([bar.get_height() for bar in below.patches], scores)
    ('Infidelity\\n(lower is better)', True)
    """
    details = details_of(metric, ("score", "reference", "references"))
    score, reference = details["score"], details["reference"]
    is_turned = metric.signed and metric.direction is ScoreDirection.LOWER
    gap = reference - score if is_turned else score - reference
    # 0 for references that are not random.
    error = np.where(metric.standard_errors > 0, metric.standard_errors, np.nan)
    sample = np.arange(len(score))
    figure = several_panels(ax, min(3.6 + 0.16 * len(score), 12), 4.8)
    axes: NDArray[np.object_] = figure.subplots(2, 1, sharex=True, height_ratios=(4, 3))
    above, below = axes
    above.vlines(sample, score, reference, color="0.7", zorder=0)
    k = metric.n_references
    name = f"mean of {k} random orders" if k > 1 else _REFERENCES[metric.reference]
    if k > 1:
        # The more there are the fainter, so that dense regions stand out.
        faint = max(0.15, k**-0.5)
        dash: dict[str, Any] = {"marker": "_", "linestyle": "none", "markersize": 9, "zorder": 1}
        above.plot(sample, details["references"], color=COLOURS[1], alpha=faint, **dash)
        above.plot([], [], color=COLOURS[1], label="a random order", **dash)
    above.plot(sample, reference, "s", color=COLOURS[1], mfc="white", markersize=5, label=name)
    above.plot(sample, score, "o", color=COLOURS[0], markersize=5, label="explanation")
    is_better = gap < 0 if metric.score_direction is ScoreDirection.LOWER else gap > 0
    colours = np.where(is_better, COLOURS[2], COLOURS[3])
    below.bar(sample, gap, color=colours, yerr=error, capsize=2, width=0.7)
    below.axhline(0, color="0.2", linewidth=0.8)
    style_axes(above, "", f"{metric.metric.name}\n({metric.direction.value} is better)")
    style_axes(below, "sample", f"gap\n({metric.score_direction.value} is better)")
    below.xaxis.get_major_locator().set_params(integer=True)
    above.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))
    below.set_title(
        f"better than its reference: {is_better.sum()} of {len(gap)}", fontsize="small", loc="left"
    )
    return axes
