"""Removal curves: the output while elements are removed or restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from quantus_ext.functional.removal_curves import mean_weights
from quantus_ext.plotting.figures import (
    COLOURS,
    STYLES,
    Place,
    one_panel,
    several_panels,
    style_axes,
)
from quantus_ext.plotting.given import Called, by_explainer, details_of

_LABEL = "output f(x)"


def plot_curves(
    metric: Called | Mapping[str, Called], *, label: str = _LABEL, ax: Place | None = None
) -> Axes:
    """
    Draw removal curves: the mean over samples with a band of one standard error.

    Parameters
    ----------
    metric : MoRF, LeRF, Deletion or Insertion; mapping
        A metric that has been called, or its ``details``, with ``curve`` of shape (n, L) and
        ``fractions`` of shape (n, L) or (L,); or a mapping of explainers to these, which gives a
        line each. If the fractions of samples differ, as for series of different lengths, curves
        are interpolated. Samples with NaN are left out, and the legend gives their number. A
        single sample has no band.
    label : str
        The label of the y-axis, such as "probability of the class".
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the fractions do not increase, the curve has another shape, or all samples have NaN.

    Examples
    --------
    >>> details = {"fractions": [0, 0.5, 1], "curve": [[1, 0.4, 0], [1, 0.6, 0]]}
    >>> axes = plot_curves({"Saliency": details})
    >>> axes.get_xlabel(), axes.lines[0].get_ydata().tolist()
    ('fraction removed', [1.0, 0.5, 0.0])
    """
    given = by_explainer(metric)
    curves = {name: _Curves.of(name, each, "curve") for name, each in given.items()}
    axes = one_panel(ax, 4.8, 3.4)
    style_axes(axes, f"fraction {_done(given)}", label)
    for position, (name, each) in enumerate(curves.items()):
        each.draw(axes, name, position)
    axes.legend(frameon=False, fontsize="small")
    return axes


def plot_removal(metric: Called, *, label: str = _LABEL, ax: Place | None = None) -> Axes:
    """
    Draw the mean MoRF and LeRF curves and the area between them, ABPC.

    Parameters
    ----------
    metric : ABPC or mapping
        A metric that has been called, or its ``details``, with ``curve_morf``, ``curve_lerf`` and
        ``fractions`` from 0 to 1; see :func:`plot_curves`. Samples with NaN in either curve are
        left out of both.
    label : str
        The label of the y-axis.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The legend gives ABPC: the mean over fractions of the LeRF curve minus the MoRF curve, with
        the weights of the metric. Where the LeRF curve is lower, the difference is negative, and
        the area has another colour.

    Raises
    ------
    ValueError
        If the fractions do not increase from 0 to 1, the curves have other shapes, or all samples
        have NaN.

    Examples
    --------
    >>> axes = plot_removal(
    ...     {"fractions": [0, 0.5, 1], "curve_morf": [[1, 0.2, 0]], "curve_lerf": [[1, 0.8, 0]]}
    ... )
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['LeRF', 'MoRF', 'ABPC = 0.200']
    """
    names = ("curve_morf", "curve_lerf", "fractions")
    morf, lerf, fractions = details_of(metric, names).values()
    if morf.shape != lerf.shape:
        raise ValueError(
            f"curve_morf and curve_lerf must be of the same samples; have the shapes {morf.shape} "
            f"and {lerf.shape}"
        )
    places = _fractions("metric", fractions, morf)
    if (places[:, 0] != 0).any() or (places[:, -1] != 1).any():
        raise ValueError(f"fractions must go from 0 to 1, as ABPC does; got {places}")
    known = ~np.isnan(np.hstack([morf, lerf])).any(1)
    if not known.any():
        raise ValueError(f"metric must have a sample without NaN; all {known.size} have NaN")
    morf, lerf, places = morf[known], lerf[known], places[known]
    abpc = (mean_weights(torch.from_numpy(places)).numpy() * (lerf - morf)).sum(1).mean()
    grid = _grid(places)
    most, least = (_on(grid, places, values).mean(0) for values in (morf, lerf))
    axes = one_panel(ax, 4.8, 3.4)
    style_axes(axes, "fraction removed", label)
    axes.plot(grid, least, color=COLOURS[0], label="LeRF")
    axes.plot(grid, most, color=COLOURS[1], label="MoRF")
    parts = [(least >= most, COLOURS[2], f"ABPC = {abpc:.3f}".replace("-", "−"))]
    if (least < most).any():
        parts.append((least < most, COLOURS[3], "counts as negative"))
    for where, colour, name in parts:
        axes.fill_between(
            grid,
            most,
            least,
            where=where.tolist(),
            interpolate=True,
            color=colour,
            alpha=0.25,
            linewidth=0,
            label=name,
        )
    axes.legend(frameon=False, fontsize="small")
    return axes


def plot_deletion_insertion(
    deletion: Called | Mapping[str, Called],
    insertion: Called | Mapping[str, Called],
    *,
    label: str = _LABEL,
    ax: Place | None = None,
) -> NDArray[np.object_]:
    """
    Draw deletion and insertion curves side by side, each explainer in one colour.

    Parameters
    ----------
    deletion, insertion : Deletion and Insertion; mapping
        Metrics that have been called, or their ``details``; or mappings of the same explainers to
        these. See :func:`plot_curves`. The legends give the areas under the mean curves.
    label : str
        The label of the y-axis.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (2,)

    Raises
    ------
    ValueError
        If the names differ, or for the reasons of :func:`plot_curves`.

    Examples
    --------
    >>> falling, rising = ({"fractions": [0, 1], "curve": [c]} for c in ([1, 0], [0, 1]))
    >>> axes = plot_deletion_insertion({"A": falling}, {"A": rising})
    >>> [axis.get_xlabel() for axis in axes]
    ['fraction removed', 'fraction restored']
    >>> axes[0].get_legend().get_texts()[0].get_text()
    'A: 0.500'
    """
    removed, restored = by_explainer(deletion), by_explainer(insertion)
    if len(removed) == len(restored) == 1:
        # Metrics are called by their own names.
        restored = dict(zip(removed, restored.values(), strict=True))
    if set(removed) != set(restored):
        raise ValueError(
            "deletion and insertion must have the same explainers; got "
            f"{list(removed)} and {list(restored)}"
        )
    curves = [
        {name: _Curves.of(f"{title} of {name}", given[name], "curve") for name in removed}
        for title, given in (("deletion", removed), ("insertion", restored))
    ]
    figure = several_panels(ax, 8.4, 3.4 + 0.18 * len(removed))
    axes: NDArray[np.object_] = figure.subplots(1, 2, sharey=True)
    for axis, given, title, done in zip(
        axes,
        curves,
        ("deletion, lower is better", "insertion, higher is better"),
        ("removed", "restored"),
        strict=True,
    ):
        style_axes(axis, f"fraction {done}", label)
        for position, (name, each) in enumerate(given.items()):
            area = trapezoid(each.values.mean(0), each.places)
            each.draw(axis, f"{name}: {area:.3f}", position)
        axis.set_title(title, fontsize="medium")
        # Below, because the curves of the two panels leave different corners free.
        axis.legend(
            frameon=False,
            fontsize="small",
            title="area under the curve",
            title_fontsize="small",
            loc="upper center",
            bbox_to_anchor=(0.5, -0.18),
        )
    axes[1].set_ylabel("")
    return axes


class _Curves(NamedTuple):
    """Samples' curves at common places, and how many are left out for their NaN."""

    places: NDArray[np.float64]
    values: NDArray[np.float64]
    left_out: int

    @classmethod
    def of(cls, name: str, metric: Called, key: str) -> _Curves:
        values, fractions = details_of(metric, (key, "fractions")).values()
        places = _fractions(name, fractions, values)
        known = ~np.isnan(values).any(1)
        if not known.any():
            raise ValueError(f"{name} must have a sample without NaN; all {known.size} have NaN")
        grid = _grid(places[known])
        left_out = int((~known).sum())
        return cls(grid, _on(grid, places[known], values[known]), left_out)

    def draw(self, axes: Axes, name: str, position: int) -> None:
        n, mean = len(self.values), self.values.mean(0)
        # Beyond the palette, colours repeat in another line style.
        colour = COLOURS[position % len(COLOURS)]
        style = STYLES[position // len(COLOURS) % len(STYLES)]
        shown = f"{name} ({self.left_out} with NaN left out)" if self.left_out else name
        axes.plot(self.places, mean, color=colour, linestyle=style, label=shown)
        if n > 1:
            error = self.values.std(0, ddof=1) / np.sqrt(n)
            edges = (mean - error, mean + error)
            axes.fill_between(self.places, *edges, color=colour, alpha=0.2, linewidth=0)


def _done(given: Mapping[str, Called]) -> str:
    """Return what happens to elements along the curves."""
    kept = [
        each if isinstance(each, Mapping) else getattr(each, "details", {})
        for each in given.values()
    ]
    return "restored" if all("final_rise" in details for details in kept) else "removed"


def _fractions(
    name: str, fractions: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the fractions of each sample, checked, in the shape of the curves' values."""
    wide = fractions.shape[-1:]
    if values.ndim != 2 or len(values) == 0 or wide not in ((), values.shape[1:]):
        raise ValueError(
            f"curves of {name} must have the shape (n, {', '.join(map(str, wide))}), a value for "
            f"each of the fractions; have {values.shape}"
        )
    if not wide or wide[0] < 2 or fractions.ndim > 2 or not (np.diff(fractions) >= 0).all():
        raise ValueError(f"fractions must be two or more increasing numbers; got {fractions}")
    if fractions.ndim == 2 and len(fractions) != len(values):
        raise ValueError(
            f"fractions of {name} must have one row, or one per sample, {len(values)}; have "
            f"{len(fractions)}"
        )
    if (fractions[..., 0] == fractions[..., -1]).any():
        raise ValueError(f"fractions must increase, are all {fractions.ravel()[0]}")
    return np.broadcast_to(fractions, values.shape)


def _grid(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fractions at which curves are averaged: the samples' own where they agree."""
    alike = bool((places == places[0]).all())
    grid: NDArray[np.float64] = places[0] if alike else np.unique(places)
    return grid


def _on(
    grid: NDArray[np.float64], places: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return curves (n, L) at other fractions, (n, len(grid))."""
    if grid.shape == places.shape[1:] and bool((places == grid).all()):
        return values
    return np.stack([np.interp(grid, *each) for each in zip(places, values, strict=True)])
