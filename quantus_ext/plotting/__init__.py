"""Figures of attribution maps and of scores.

The first argument is what to draw: a metric that has been called, an evaluation, or inputs with
their maps. ``ax=`` takes the matplotlib axes, figure or subfigure to draw on; by default, a new
figure is made. A figure of several panels fills the space of the given axes. Each function returns
the axes, or an array of them.

Outside notebooks, pyplot is not used: nothing is shown, and the caller's backend and list of open
figures do not change. In a notebook, pyplot makes the new figures, so that the cell shows them.
:func:`save_figure` saves ``axes.figure``.

``metric.plot()`` draws :func:`plot_metric`, or the function that you pass, saves the figure, and
shows it::

    scores = metric(...)
    metric.plot(path_to_save="curves.png")
    metric.plot(plotting.plot_scores)

Quantus's own metrics save pyplot's current figure after they have shown it, which gives a blank
file with many backends. Pass them ``on_pyplot(function)``, see :func:`on_pyplot`, and
``show=False``.
"""

from quantus_ext.plotting.cases import plot_case
from quantus_ext.plotting.curves import plot_curves, plot_deletion_insertion, plot_removal
from quantus_ext.plotting.default import plot_metric
from quantus_ext.plotting.fidelity import plot_fidelity
from quantus_ext.plotting.figures import COLOURS, STYLES, on_pyplot, save_figure
from quantus_ext.plotting.maps import plot_maps
from quantus_ext.plotting.meta_evaluation import plot_area
from quantus_ext.plotting.qge import plot_qge
from quantus_ext.plotting.scores import plot_agreement, plot_means, plot_ranking, plot_scores

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
    "plot_means",
    "plot_metric",
    "plot_qge",
    "plot_ranking",
    "plot_removal",
    "plot_scores",
    "save_figure",
]
