"""Scores of samples and of explainers, and how metrics agree on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from quantus.metrics.base import Metric

from quantus_ext import checks
from quantus_ext.plotting.figures import (
    COLOURS,
    DARK,
    DIVERGING_MAP,
    Place,
    one_panel,
    several_panels,
    style_axes,
)

if TYPE_CHECKING:
    from quantus_ext.evaluation import Evaluation
    from quantus_ext.protocols import MetricAgreement

_ROUNDING = 1e-9


def plot_scores(metric: Metric[Any], *, ax: Place | None = None) -> Axes:
    """
    Draw a metric's score of each sample with its standard error, and their mean.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        A metric of this package or of Quantus that has been called and has one score per sample.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The error bars are the Monte-Carlo standard errors of single scores, where they are known.
        The line is the mean, with a band of one standard error over samples.

    Raises
    ------
    ValueError
        If the metric has not been called, or there is not one score per sample.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import MoRF
    >>> metric = MoRF(4)
    >>> _ = metric(torch.nn.Linear(4, 2).eval(), np.ones((3, 4)), np.array([0, 1, 0]), np.eye(3, 4))
    >>> plot_scores(metric).get_ylabel()
    'MoRF (higher is better)'
    """
    scores = scores_of(metric)
    errors = np.asarray(getattr(metric, "standard_errors", ()), dtype=np.float64)
    errors = errors if errors.shape == scores.shape else np.full_like(scores, np.nan)
    axes = one_panel(ax, min(3.6 + 0.08 * len(scores), 9), 3.4)
    sample = np.arange(len(scores))
    # An error of 0 has no bar.
    bars = np.where(errors > 0, errors, np.nan)
    size = 4 if len(scores) <= 60 else 2
    axes.errorbar(sample, scores, bars, fmt="o", color=COLOURS[0], markersize=size, elinewidth=1)
    known = scores[np.isfinite(scores)]
    if len(known) > 1:
        mean, error = known.mean(), known.std(ddof=1) / np.sqrt(len(known))
        text = f"mean {mean:.3g} ± {error:.2g}".replace("-", "−")
        axes.axhline(mean, color=COLOURS[1], linewidth=1.2, label=text)
        axes.axhspan(mean - error, mean + error, color=COLOURS[1], alpha=0.2, linewidth=0)
        # Above, where no score is.
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1)}
        axes.legend(frameon=False, fontsize="small", **place)
    style_axes(axes, "sample", f"{metric.name} ({metric.score_direction.value} is better)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def scores_of(metric: object) -> NDArray[np.float64]:
    """Return the scores of the samples that a metric was called for last, shape (n,)."""
    scores = getattr(metric, "evaluation_scores", None)
    if not isinstance(metric, Metric) or scores is None or np.ndim(scores) != 1 or not len(scores):
        raise ValueError(
            "metric must have been called and have one score per sample; "
            f"{getattr(metric, 'name', repr(metric))} has {np.size(scores or ())}"
        )
    return np.asarray(scores, dtype=np.float64)


def plot_means(
    scores: Mapping[str, ArrayLike],
    *,
    label: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    ax: Place | None = None,
) -> Axes:
    """
    Draw the mean score of each explainer and its interval, the first explainer on top.

    Parameters
    ----------
    scores : mapping of str to array-like, shape (n,)
        For each explainer the scores of the samples, or a single mean. NaN is left out.
    label : str
        The label of the x-axis: what the score is, and which direction is better.
    intervals : mapping of str to (float, float), optional
        Lower and upper end of each explainer's interval, which need not be symmetric; with NaN,
        none is drawn. By default one standard error over samples on either side.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there are no scores, the intervals are of other explainers, or an interval does not
        contain its mean.

    Examples
    --------
    >>> axes = plot_means({"A": [0.8, 1.0], "B": [0.1, 0.3]}, label="faithfulness")
    >>> axes.get_xlabel(), [tick.get_text() for tick in axes.get_yticklabels()]
    ('faithfulness', ['A', 'B'])
    """
    given = checks.mapping("scores", scores)
    if not given:
        raise ValueError("scores must hold at least one explainer, is empty")
    values = {name: np.atleast_1d(np.asarray(v, dtype=np.float64)) for name, v in given.items()}
    known = {name: each[np.isfinite(each)] for name, each in values.items()}
    means = {name: each.mean() if len(each) else np.nan for name, each in known.items()}
    if intervals is None:
        errors = {n: v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else 0 for n, v in known.items()}
        intervals = {name: (means[name] - e, means[name] + e) for name, e in errors.items()}
    elif set(intervals) != set(given):
        raise ValueError(
            f"intervals must be for the explainers {list(given)}, are for {list(intervals)}"
        )
    axes = one_panel(ax, 4.5, 0.8 + 0.35 * len(given))
    for position, (name, mean) in enumerate(means.items()):
        low, high = intervals[name]
        # An interval can leave out the mean by a rounding.
        room = _ROUNDING * (abs(low) + abs(high))
        if low > mean + room or high < mean - room:
            raise ValueError(
                f"intervals[{name!r}] must hold its mean, {mean:g}, is {low:g} to {high:g}"
            )
        lengths = [[max(mean - low, 0)], [max(high - mean, 0)]]
        colour = COLOURS[position % len(COLOURS)]
        axes.errorbar(mean, position, xerr=lengths, fmt="o", color=colour, capsize=3, markersize=5)
    axes.set_yticks(range(len(given)), list(given))
    axes.set_ylim(len(given) - 0.5, -0.5)
    style_axes(axes, label, "")
    axes.grid(False, axis="y")
    return axes


def plot_ranking(
    evaluation: Evaluation, metrics: Sequence[str] | None = None, *, ax: Place | None = None
) -> NDArray[np.object_]:
    """
    Draw the means of all explainers with their intervals, one panel per metric.

    Parameters
    ----------
    evaluation : quantus_ext.evaluation.Evaluation
    metrics : sequence of str, optional
        Metrics to draw; all by default.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (metrics,)

    Raises
    ------
    ValueError
        If ``metrics`` is empty or names an unknown metric.

    Examples
    --------
    >>> from quantus_ext import Evaluation
    >>> scores = {"A": {"MoRF": [0.5, 0.6, 0.9]}, "B": {"MoRF": [0.1, 0.3, 0.2]}}
    >>> (axes,) = plot_ranking(Evaluation.of_scores(scores, {"MoRF": "higher"}))
    >>> axes.get_xlabel()
    'MoRF (higher is better)'
    """
    chosen = evaluation.metrics if metrics is None else tuple(metrics)
    if not chosen:
        raise ValueError("metrics must name at least one, is empty: leave it out for all")
    for metric in chosen:
        checks.one_of("metrics", metric, evaluation.metrics)
    ranking, explainers = evaluation.ranking(), evaluation.explainers
    figure = several_panels(ax, 1.2 + 3.3 * len(chosen), 0.9 + 0.35 * len(explainers))
    panels: NDArray[Any] = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, chosen, strict=True):
        rows = {row.explainer: row for row in ranking.of(metric)}
        plot_means(
            {name: [rows[name].mean] for name in explainers},
            intervals={name: (rows[name].low, rows[name].high) for name in explainers},
            label=f"{metric} ({evaluation.directions[metric].value} is better)",
            ax=axes,
        )
    return panels


def plot_agreement(
    agreement: MetricAgreement | pd.DataFrame,
    *,
    label: str = "Spearman's rank correlation",
    ax: Place | None = None,
) -> Axes:
    """
    Draw a heat map of correlations between metrics, with the numbers in it.

    Parameters
    ----------
    agreement : quantus_ext.protocols.MetricAgreement or pandas.DataFrame
        The ``correlation`` of a result, or a frame with a row and a column for each metric.
        Correlations lie in [-1, 1]. An undefined one, NaN, is grey.
    label : str
        The label of the colour bar: which correlation it is.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError, TypeError
        If ``agreement`` is something else, its rows and columns differ, or a value is outside
        [-1, 1].

    Examples
    --------
    >>> names = ["MoRF", "ABPC"]
    >>> axes = plot_agreement(pd.DataFrame([[1, 0.83], [0.83, 1]], names, names))
    >>> [text.get_text() for text in axes.texts]
    ['1.00', '0.83', '0.83', '1.00']
    """
    names, values = _correlations(agreement)
    if (np.abs(values) > 1 + _ROUNDING).any():
        raise ValueError(f"correlation must be between -1 and 1; got {np.nanmax(np.abs(values))}")
    k = len(names)
    axes = one_panel(ax, 2.6 + 0.62 * k, 1.6 + 0.62 * k)
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


def _correlations(
    agreement: MetricAgreement | pd.DataFrame,
) -> tuple[list[str], NDArray[np.float64]]:
    """Return the names of metrics, and their correlations as a matrix."""
    if isinstance(agreement, pd.DataFrame):
        names = [str(name) for name in agreement.columns]
        if not names or [str(name) for name in agreement.index] != names:
            raise ValueError(
                "agreement must have one row and one column for each metric; has the rows "
                f"{list(agreement.index)} and the columns {names}"
            )
        return names, agreement.to_numpy(dtype=np.float64)
    if not hasattr(agreement, "correlation"):
        raise TypeError(
            "agreement must be what metric_agreement returns, or a data frame of correlations; is "
            f"{agreement!r}"
        )
    return list(agreement.names), np.asarray(agreement.correlation, dtype=np.float64)
