"""Figures of attribution maps and of scores.

First comes what is drawn (a metric that has been called, an evaluation, or inputs with their
maps), ``ax=`` says where: on axes, or on a figure or a part of one; by default on a new figure.
Figures of several panels fit into the place of the axes. What is drawn on is returned: axes, or an
array of them.

Outside of notebooks pyplot is not used: nothing is shown, and the caller's backend and list of open
figures stay as they are. In a notebook, new figures are pyplot's, so that a cell shows them.
:func:`save_figure` writes ``axes.figure``.

``metric.plot()`` draws :func:`plot_metric`, or what is passed to it, saves it and shows it::

    scores = metric(...)
    metric.plot(path_to_save="curves.png")
    metric.plot(plotting.plot_scores)

Quantus's own metrics save after they have shown, with many backends a blank file, and save pyplot's
current figure: pass them :func:`on_pyplot` of a function here, and ``show=False``.
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
