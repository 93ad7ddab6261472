"""Figures of attribution maps and of scores.

Every function takes arrays or what a metric's call leaves, draws on the figure or axes it is given
(or on a new figure of its own) and returns the matplotlib axes. `matplotlib.figure.Figure` is used
directly, never pyplot: nothing is shown, and the caller's backend and list of open figures stay as
they are. :func:`save_figure` writes ``axes.figure``.

Each is a ``default_plot_func`` as it is. ``metric.plot`` of this package's metrics draws on pyplot
where the figure is to be shown, and saves before it shows::

    metric = RFidelity(default_plot_func=plot_fidelity)
    scores = metric(...)
    metric.plot(metric=metric, show=False, path_to_save="curves.png")

For Quantus's own metrics, and in notebooks, :func:`on_pyplot` makes of each function one that draws
on pyplot's figures. Quantus saves after it has shown, with many backends a blank file.
"""

from quantus_ext.plotting.cases import plot_case
from quantus_ext.plotting.curves import plot_curves, plot_deletion_insertion, plot_removal
from quantus_ext.plotting.fidelity import plot_fidelity
from quantus_ext.plotting.figures import COLOURS, STYLES, on_pyplot, save_figure
from quantus_ext.plotting.maps import plot_maps
from quantus_ext.plotting.meta_evaluation import plot_area
from quantus_ext.plotting.qge import plot_qge
from quantus_ext.plotting.scores import plot_agreement, plot_scores

__all__ = [
    "COLOURS",
    "STYLES",
    "on_pyplot",
    "plot_agreement",
    "plot_area",
    "plot_case",
    "plot_curves",
    "plot_deletion_insertion",
    "plot_fidelity",
    "plot_maps",
    "plot_qge",
    "plot_removal",
    "plot_scores",
    "save_figure",
]
