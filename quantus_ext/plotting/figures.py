"""New figures, with or without pyplot, their palette and style, and how they are saved."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

# Okabe and Ito's palette, distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
DIVERGING_MAP = "RdBu_r"

DARK = 0.6
"""Share of the diverging map beyond which it is too dark for black letters."""

Place = Axes | FigureBase
"""Where a figure is drawn: on axes, or on a figure or a part of one."""

_new_figure: ContextVar[Callable[..., Figure] | None] = ContextVar("new_figure", default=None)
"""What makes new figures; None for pyplot in a notebook, which shows them, and no pyplot elsewhere.
"""

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")


def on_pyplot(plot: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """
    Return `plot` with its new figures made by pyplot, for the metrics of Quantus.

    Parameters
    ----------
    plot : callable
        A function of this module.

    Returns
    -------
    callable
        The same function, whose figure is pyplot's current one afterwards, so that ``pyplot.show``,
        ``pyplot.savefig`` and the ``plot`` method of Quantus's own metrics use it. It can be
        pickled, as metrics can.

    Examples
    --------
    >>> from matplotlib import pyplot
    >>> from quantus_ext.plotting import on_pyplot, plot_means
    >>> axes = on_pyplot(plot_means)({"A": [0.8, 0.9]}, label="faithfulness")
    >>> pyplot.gca() is axes
    True
    >>> pyplot.close()
    """
    drawn = partial(_drawn_on_pyplot, plot)
    # It still says which arguments it takes.
    drawn.__dict__["__wrapped__"] = plot
    return drawn


def _drawn_on_pyplot(plot: Callable[..., Drawn], *arguments: Any, **keywords: Any) -> Drawn:
    # Here, because choosing a backend is for those who ask for pyplot.
    from matplotlib import pyplot as plt

    return _drawn_by(plt.figure, plot, *arguments, **keywords)


def _drawn_by(
    maker: Callable[..., Figure], plot: Callable[..., Drawn], *arguments: Any, **keywords: Any
) -> Drawn:
    token = _new_figure.set(maker)
    try:
        return plot(*arguments, **keywords)
    finally:
        _new_figure.reset(token)


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook, which shows the figures of pyplot."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches; see :data:`_new_figure`."""
    make = _new_figure.get()
    if make is None and _in_notebook():
        from matplotlib import pyplot as plt

        make = plt.figure
    return (make or Figure)(figsize=(width, height), layout="constrained")


def one_panel(ax: Place | None, width: float, height: float) -> Axes:
    """Return axes to draw on: as given, on the figure that is given, or on a new one."""
    if isinstance(ax, Axes):
        return ax
    figure = several_panels(ax, width, height)
    axes: Axes = figure.subplots()
    return axes


def several_panels(ax: Place | None, width: float, height: float) -> FigureBase:
    """Return a figure for several panels: as given, in place of the axes given, or a new one."""
    if ax is None:
        return new_figure(width, height)
    if isinstance(ax, FigureBase):
        return ax
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib axes, a figure or a subfigure, is {ax!r}")
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(
            "ax must be axes in a grid, as of pyplot.subplots, for a figure of several panels; or "
            "pass a figure"
        )
    # The axes keep their place in the layout, and the panels are drawn there.
    ax.set_axis_off()
    return ax.figure.add_subfigure(place)


def style_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Label the axes and give them the package's grid and frame."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def figure_of(drawn: object) -> Figure:
    """
    Return the figure of what a plot function has returned, or else pyplot's current one.

    Parameters
    ----------
    drawn : matplotlib axes, array-like of axes or None

    Raises
    ------
    ValueError
        If the figure is empty.
    """
    axes = [axis for axis in np.ravel(np.asarray(drawn, dtype=object)) if isinstance(axis, Axes)]
    if axes:
        # The figure of an axes may be a part of one, and that part's figure is the whole.
        return axes[0].figure.figure
    from matplotlib import pyplot as plt

    if not plt.get_fignums() or not plt.gcf().findobj(Axes):
        raise ValueError(
            "plot_func must draw on pyplot's current figure or return the axes that it drew on; "
            f"pyplot has no axes, and it returned {drawn!r}"
        )
    return plt.gcf()


def draw(
    plot: object,
    *arguments: Any,
    show: bool,
    path_to_save: str | os.PathLike[str] | None,
    **keywords: Any,
) -> None:
    """
    Draw, save and show a figure, in this order, so that no file is blank.

    Parameters
    ----------
    plot : callable
        Draws on pyplot's current figure, or on a figure of its own whose axes it returns.
    show : bool
        Show the figure in a window or notebook.
    path_to_save : str or path, optional
        File to save to, at 400 dots per inch.
    *arguments, **keywords
        Of ``plot``.
    """
    if not callable(plot):
        raise ValueError(f"plot_func must be callable, is {plot!r}")
    # What is not shown is no figure of pyplot's, which notebooks would show.
    draw_it = on_pyplot(plot) if show else partial(_drawn_by, Figure, plot)
    drawn = draw_it(*arguments, **keywords)
    figure = figure_of(drawn)
    if path_to_save is not None:
        save_figure(figure, path_to_save, dpi=400)
    if show:
        from matplotlib import pyplot as plt

        plt.show()


def takes_metric(plot: object) -> bool:
    """Whether the first argument of a plot function is a metric, as in this package."""
    if not callable(plot):
        return False
    return next(iter(inspect.signature(plot).parameters), None) == "metric"


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> None:
    """
    Write a figure so that a reader of `path` sees the old file or the whole new one.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    path : str or path
        The file. Its suffix decides on the format; without one, matplotlib's default is added, as
        pyplot does.
    dpi : float
        Dots per inch, for pixel formats.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_name(f"{path.name}.{mpl.rcParams['savefig.format']}")
    # Beside the target, because a replacement is atomic only within one file system.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        kind = path.suffix.removeprefix(".")
        figure.savefig(partial, dpi=dpi, format=kind, bbox_inches="tight", pad_inches=0.15)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
