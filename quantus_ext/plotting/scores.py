"""Scores of explainers, and how metrics agree on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from quantus_ext.plotting.figures import COLOURS, DARK, DIVERGING_MAP, new_figure

if TYPE_CHECKING:
    from quantus_ext.evaluation import Ranking

_ROUNDING = 1e-9


def plot_scores(
    names: Sequence[str],
    scores: ArrayLike,
    errors: ArrayLike,
    *,
    label: str,
    axes: Axes | None = None,
) -> Axes:
    """
    Draw one score per explainer as a point with its error bar, the first name on top.

    Parameters
    ----------
    names : sequence of k str
        The explainers.
    scores : array-like, shape (k,)
        Their scores.
    errors : array-like, shape (k,) or (2, k)
        Half-lengths of the error bars, such as standard errors; or the lengths below and above
        each score. NaN draws none.
    label : str
        What the score is, and which direction is better.
    axes : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If names, scores and errors differ in length, or an error is negative.

    Examples
    --------
    >>> axes = plot_scores(["A", "B"], [0.9, 0.2], [0.1, 0.1], label="faithfulness")
    >>> axes.get_xlabel(), [tick.get_text() for tick in axes.get_yticklabels()]
    ('faithfulness', ['A', 'B'])
    """
    scores, errors = np.asarray(scores, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    k = len(names)
    if scores.shape != (k,) or errors.shape not in {(k,), (2, k)}:
        raise ValueError(
            f"scores and errors must have one value per name, {k} (errors also two); "
            f"got the shapes {scores.shape} and {errors.shape}"
        )
    if (errors < 0).any():
        raise ValueError(f"errors must not be negative; got {np.nanmin(errors)}")
    lengths = np.broadcast_to(errors, (2, k))
    if axes is None:
        axes = new_figure(4.5, 0.8 + 0.35 * len(names)).subplots()
    for position, score in enumerate(scores):
        colour, error = COLOURS[position % len(COLOURS)], lengths[:, [position]]
        axes.errorbar(score, position, xerr=error, fmt="o", color=colour, capsize=3, markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def plot_ranking(
    ranking: Ranking, labels: Mapping[str, str], explainers: Sequence[str]
) -> NDArray[Any]:
    """
    Draw a ranking: one panel per metric, each explainer's mean with its interval.

    Parameters
    ----------
    ranking : quantus_ext.evaluation.Ranking
    labels : mapping of str to str
        Metrics to draw, and the label of each one's axis.
    explainers : sequence of str
        From top to bottom.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (metrics,)
    """
    n = len(labels)
    figure = new_figure(1.2 + 3.3 * n, 0.9 + 0.35 * len(explainers))
    panels: NDArray[Any] = figure.subplots(1, n, sharey=True, squeeze=False)[0]
    for axes, (metric, label) in zip(panels, labels.items(), strict=True):
        rows = {row.explainer: row for row in ranking.of(metric)}
        mean, low, high = (
            np.array([getattr(rows[name], field) for name in explainers])
            for field in ("mean", "low", "high")
        )
        # An interval can leave out the mean by a rounding.
        below, above = np.maximum(mean - low, 0), np.maximum(high - mean, 0)
        plot_scores(explainers, mean, [below, above], label=label, axes=axes)
    return panels


def plot_agreement(
    names: Sequence[str],
    correlation: ArrayLike,
    *,
    label: str = "Spearman's rank correlation",
    axes: Axes | None = None,
) -> Axes:
    """
    Draw a heat map of correlations between metrics, with the numbers in it.

    Parameters
    ----------
    names : sequence of k str
        The metrics.
    correlation : array-like, shape (k, k)
        From -1 to 1; NaN, for an undefined one, is grey.
    label : str
        Which correlation it is.
    axes : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there is not one row and one column per name, or a value is outside [-1, 1].

    Examples
    --------
    >>> axes = plot_agreement(["MoRF", "ABPC"], [[1, 0.83], [0.83, 1]])
    >>> [text.get_text() for text in axes.texts]
    ['1.00', '0.83', '0.83', '1.00']
    """
    values = np.asarray(correlation, dtype=np.float64)
    k = len(names)
    if k == 0 or values.shape != (k, k):
        raise ValueError(
            f"correlation must have one row and one column per name, {k}; got the shape "
            f"{values.shape}"
        )
    if (np.abs(values) > 1 + _ROUNDING).any():
        raise ValueError(f"correlation must be between -1 and 1; got {np.nanmax(np.abs(values))}")
    if axes is None:
        axes = new_figure(2.6 + 0.62 * k, 1.6 + 0.62 * k).subplots()
    axes.set_facecolor("0.85")
    drawn = axes.imshow(values, cmap=DIVERGING_MAP, vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > DARK else "black"
        text = "–" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(k), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(drawn, ax=axes, ticks=[-1, 0, 1], label=label, shrink=0.8)
    return axes
