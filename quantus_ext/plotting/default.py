"""The default figure of each metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from quantus.metrics.base import Metric

from quantus_ext.plotting.curves import plot_curves, plot_removal
from quantus_ext.plotting.fidelity import plot_fidelity
from quantus_ext.plotting.figures import Place
from quantus_ext.plotting.qge import plot_qge
from quantus_ext.plotting.scores import plot_scores

_FIGURES: dict[str, Callable[..., Any]] = {
    "references": plot_qge,
    "curve_plus": plot_fidelity,
    "curve_morf": plot_removal,
    "curve": plot_curves,
}
"""By the key of ``details`` that a figure is drawn from."""


def plot_metric(metric: Metric[Any], *, ax: Place | None = None) -> Axes | NDArray[np.object_]:
    """
    Draw the default figure of a metric, as ``metric.plot()`` does.

    That is a figure of fidelity curves, of removal curves, or of QGE's scores beside their
    references. Other metrics are drawn by :func:`plot_scores`.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        A metric that has been called.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes or numpy.ndarray of them

    Raises
    ------
    ValueError
        If the metric has not been called.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Deletion
    >>> metric = Deletion(2)
    >>> _ = metric(torch.nn.Linear(4, 2).eval(), np.ones((3, 4)), np.array([0, 1, 0]), np.eye(3, 4))
    >>> plot_metric(metric).get_xlabel()
    'fraction removed'
    """
    details = getattr(metric, "details", {})
    for key, plot in _FIGURES.items():
        if key in details:
            drawn: Axes | NDArray[np.object_] = plot(metric, ax=ax)
            return drawn
    return plot_scores(metric, ax=ax)
