"""Figures of attribution maps and of scores.

Every function takes arrays or what a metric's call leaves, draws on the figure or axes it is given
(or on a new figure of its own) and returns the matplotlib axes. `matplotlib.figure.Figure` is used
directly, never pyplot: nothing is shown, and the caller's backend and list of open figures stay as
they are. :func:`save_figure` writes ``axes.figure``.

Quantus's own ``metric.plot`` shows and saves pyplot's current figure, and hands its plot function
nothing but what it is given itself. :func:`on_pyplot` makes of each function here what it expects::

    metric = RFidelity(default_plot_func=on_pyplot(plot_fidelity))
    scores = metric(...)
    metric.plot(metric=metric, show=False, path_to_save="curves.png")

With ``show=True`` it saves after the window is closed, with many backends a blank file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, FigureBase
from numpy.typing import ArrayLike, NDArray
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.perturb import replace_by

if TYPE_CHECKING:
    from quantus_ext.base import TorchMetric
    from quantus_ext.metrics.qge import QGE

# Okabe and Ito's palette, distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
DIVERGING_MAP = "RdBu_r"

_DARK = 0.6
"""Correlation beyond which the map's colour is too dark for black numbers."""
_ROUNDING = 1e-9
_REFERENCES = {
    "inverse": "inverse explanation",
    "random": "random order",
    "negated": "negated explanation",
}
_CONSISTENCIES = ("IAC_{AR}", "IAC_{NR}", "IEC_{AR}", "IEC_{NR}")
"""To the left, above, to the right and below, as in MetaQuantus's own area plot."""
_KINDS: dict[str, dict[str, Any]] = {
    "Input": {"color": COLOURS[0], "hatch": None},
    "Model": {"color": COLOURS[1], "hatch": "///"},
}
_COLUMNS = 4

_new_figure: ContextVar[Callable[..., Figure]] = ContextVar("new_figure", default=Figure)

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")


def on_pyplot(plot: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """
    Return `plot` with its new figures made by pyplot, for ``default_plot_func`` and notebooks.

    Parameters
    ----------
    plot : callable
        A function of this module.

    Returns
    -------
    callable
        The same, but the figure is pyplot's current one afterwards, which ``pyplot.show``,
        ``pyplot.savefig`` and Quantus's ``metric.plot`` take. It pickles, as metrics do.

    Examples
    --------
    >>> from matplotlib import pyplot
    >>> from quantus_ext import RFidelity
    >>> metric = RFidelity(default_plot_func=on_pyplot(plot_scores))
    >>> metric.plot(names=["A"], scores=[0.9], errors=[0.1], label="faithfulness", show=False)
    >>> pyplot.gca().get_xlabel()
    'faithfulness'
    >>> pyplot.close()
    """
    return partial(_drawn_on_pyplot, plot)


def _drawn_on_pyplot(plot: Callable[..., Drawn], *arguments: Any, **keywords: Any) -> Drawn:
    # Here, because choosing a backend is for those who ask for pyplot.
    from matplotlib import pyplot as plt

    token = _new_figure.set(plt.figure)
    try:
        return plot(*arguments, **keywords)
    finally:
        _new_figure.reset(token)


def _figure(width: float, height: float) -> Figure:
    return _new_figure.get()(figsize=(width, height), layout="constrained")


def plot_maps(
    images: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    labels: Sequence[str] | None = None,
    figure: FigureBase | None = None,
) -> NDArray[np.object_]:
    """
    Draw a grid: one row per image, the image first, then each explainer's map of it.

    Each map is divided by its own largest magnitude, because explainers differ in scale.

    Parameters
    ----------
    images : array-like, shape (n, H, W)
        Single-channel images.
    maps : mapping of str to array-like, shape (n, H, W)
        Attributions by the name of their explainer.
    labels : sequence of n str, optional
        Written beside the rows.
    figure : matplotlib figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (n, 1 + len(maps))

    Raises
    ------
    ValueError
        If a map's shape or the number of labels doesn't fit the images.

    Examples
    --------
    >>> axes = plot_maps(np.eye(3)[None], {"Saliency": np.ones((1, 3, 3))}, labels=["digit 1"])
    >>> axes.shape, axes[0, 1].get_title()
    ((1, 2), 'Saliency')
    """
    images = np.asarray(images, dtype=np.float64)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"images must have the shape (n, H, W) and no 0 in it; got {images.shape}")
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in maps.items()}
    for name, values in columns.items():
        if values.shape != images.shape:
            raise ValueError(
                f"maps[{name!r}] must have the shape of images, {images.shape}; got {values.shape}"
            )
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"labels must have one entry an image, {len(images)}; got {len(labels)}")

    if figure is None:
        figure = _figure(1.3 * (1 + len(columns)), 1.3 * len(images) + 0.6)
    axes = figure.subplots(len(images), 1 + len(columns), squeeze=False)
    for row, image in enumerate(images):
        axes[row, 0].imshow(image, cmap="gray_r")
        if labels is not None:
            axes[row, 0].set_ylabel(labels[row])
        for column, values in enumerate(columns.values(), start=1):
            largest = np.abs(values[row]).max()
            scaled = values[row] / largest if largest > 0 else values[row]
            drawn = axes[row, column].imshow(scaled, cmap=DIVERGING_MAP, vmin=-1, vmax=1)
    for axis, title in zip(axes[0], ("input", *columns), strict=True):
        # A line a word, or long names run into each other.
        axis.set_title(title.replace(" ", "\n"), fontsize="medium")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    if columns:
        figure.colorbar(
            drawn,
            # Under all of them: under the maps alone it would push these out of their rows.
            ax=axes,
            location="bottom",
            fraction=0.04,
            pad=0.02,
            ticks=[-1, 0, 1],
            label="attribution ÷ the map's largest magnitude",
        )
    return axes


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
    errors : array-like, shape (k,)
        Half-lengths of the error bars, one standard error; NaN draws none.
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
        If names, scores and errors differ in length.

    Examples
    --------
    >>> axes = plot_scores(["A", "B"], [0.9, 0.2], [0.1, 0.1], label="faithfulness")
    >>> axes.get_xlabel(), [tick.get_text() for tick in axes.get_yticklabels()]
    ('faithfulness', ['A', 'B'])
    """
    scores, errors = np.asarray(scores, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if scores.shape != (len(names),) or errors.shape != scores.shape:
        raise ValueError(
            f"scores and errors must have one value a name, {len(names)}; "
            f"got the shapes {scores.shape} and {errors.shape}"
        )
    if axes is None:
        axes = _figure(4.5, 0.8 + 0.35 * len(names)).subplots()
    for position, (score, error) in enumerate(zip(scores, errors, strict=True)):
        colour = COLOURS[position % len(COLOURS)]
        axes.errorbar(score, position, xerr=error, fmt="o", color=colour, capsize=3, markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def plot_curves(
    fractions: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    label: str,
    axes: Axes | None = None,
) -> Axes:
    """
    Draw a removal curve per explainer: its mean over samples, and one standard error about it.

    Parameters
    ----------
    fractions : array-like, shape (L,)
        Fractions removed, increasing.
    curves : mapping of str to array-like, shape (n, L)
        The samples' curves by the name of their explainer. Samples with NaN are left out, and
        the legend says how many. A single sample has no band.
    label : str
        What the curves are, such as "output f(x)".
    axes : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If fractions don't increase, a curve doesn't fit them, or all its samples have NaN.

    Examples
    --------
    >>> axes = plot_curves([0, 0.5, 1], {"A": [[1, 0.4, 0], [1, 0.6, 0]]}, label="output f(x)")
    >>> axes.get_xlabel(), axes.lines[0].get_ydata().tolist()
    ('fraction removed', [1.0, 0.5, 0.0])
    """
    places = _places(fractions)
    samples = {name: _samples(f"curves[{name!r}]", c, places) for name, c in curves.items()}
    axes = _curve_axes(axes, label)
    for position, (name, values) in enumerate(samples.items()):
        _draw_curve(axes, places, values, name, position)
    if samples:
        axes.legend(frameon=False, fontsize="small")
    return axes


def plot_removal(
    fractions: ArrayLike,
    morf: ArrayLike,
    lerf: ArrayLike,
    *,
    label: str = "output f(x)",
    axes: Axes | None = None,
) -> Axes:
    """
    Draw the mean outputs with most and with least relevant removed first, and ABPC between them.

    Parameters
    ----------
    fractions : array-like, shape (L,)
        Fractions removed, in equal steps.
    morf, lerf : array-like, shape (n, L)
        The same samples' outputs, most and least relevant removed first. Samples with NaN in
        either are left out of both.
    label : str
        What the outputs are.
    axes : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        ABPC, in the legend, is the mean over fractions of LeRF's output less MoRF's. Where LeRF's
        is the lower one it counts as negative, and the area has a colour of its own.

    Raises
    ------
    ValueError
        If fractions don't increase in equal steps, outputs don't fit them or each other, or all
        samples have NaN.

    Examples
    --------
    >>> axes = plot_removal([0, 0.5, 1], [[1, 0.2, 0]], [[1, 0.8, 0]])
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['LeRF', 'MoRF', 'ABPC = 0.200']
    """
    places = _places(fractions)
    if not np.allclose(np.diff(places), places[1] - places[0]):
        raise ValueError(f"fractions must increase in equal steps, as ABPC does; got {places}")
    most, least = _outputs("morf", morf, places), _outputs("lerf", lerf, places)
    if most.shape != least.shape:
        raise ValueError(
            f"morf and lerf must be of the same samples; got the shapes {most.shape} and "
            f"{least.shape}"
        )
    both = _without_nan("morf and lerf", np.concatenate([most, least], axis=1))
    most, least = both[:, : len(places)].mean(0), both[:, len(places) :].mean(0)
    axes = _curve_axes(axes, label)
    axes.plot(places, least, color=COLOURS[0], label="LeRF")
    axes.plot(places, most, color=COLOURS[1], label="MoRF")
    parts = [(least >= most, COLOURS[2], f"ABPC = {(least - most).mean():.3f}")]
    if (least < most).any():
        parts.append((least < most, COLOURS[3], "counts as negative"))
    for where, colour, name in parts:
        axes.fill_between(
            places,
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
    fractions: ArrayLike,
    deletion: Mapping[str, ArrayLike],
    insertion: Mapping[str, ArrayLike],
    *,
    label: str = "output f(x)",
    figure: FigureBase | None = None,
) -> NDArray[np.object_]:
    """
    Draw deletion and insertion curves side by side, an explainer in the same colour in both.

    Parameters
    ----------
    fractions : array-like, shape (L,)
        Fractions removed, and restored, increasing.
    deletion, insertion : mapping of str to array-like, shape (n, L)
        The samples' outputs by the name of their explainer, the same names in both; see
        :func:`plot_curves`. The legends have the areas under the mean curves.
    label : str
        What the outputs are.
    figure : matplotlib figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (2,)

    Raises
    ------
    ValueError
        If the names differ, and as :func:`plot_curves`.

    Examples
    --------
    >>> axes = plot_deletion_insertion([0, 1], {"A": [[1, 0]]}, {"A": [[0, 1]]})
    >>> [axis.get_xlabel() for axis in axes]
    ['fraction removed', 'fraction restored']
    >>> axes[0].get_legend().get_texts()[0].get_text()
    'A: 0.500'
    """
    places = _places(fractions)
    if not deletion or set(deletion) != set(insertion):
        raise ValueError(
            "deletion and insertion must have the same explainers, at least one; got "
            f"{list(deletion)} and {list(insertion)}"
        )
    samples = [
        {name: _samples(f"{title}[{name!r}]", curves[name], places) for name in deletion}
        for title, curves in (("deletion", deletion), ("insertion", insertion))
    ]
    if figure is None:
        figure = _figure(8.4, 3.4 + 0.18 * len(deletion))
    axes: NDArray[np.object_] = figure.subplots(1, 2, sharey=True)
    for axis, curves, title, done in zip(
        axes,
        samples,
        ("deletion, lower is better", "insertion, higher is better"),
        ("removed", "restored"),
        strict=True,
    ):
        _curve_axes(axis, label)
        for position, (name, values) in enumerate(curves.items()):
            mean = values.known.mean(0)
            area = ((mean[1:] + mean[:-1]) / 2 * np.diff(places)).sum()
            _draw_curve(axis, places, values, f"{name}: {area:.3f}", position)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel(f"fraction {done}")
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
        If there is not one row and one column a name, or a value is outside [-1, 1].

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
            f"correlation must have one row and one column a name, {k}; got the shape "
            f"{values.shape}"
        )
    if (np.abs(values) > 1 + _ROUNDING).any():
        raise ValueError(f"correlation must be between -1 and 1; got {np.nanmax(np.abs(values))}")
    if axes is None:
        axes = _figure(2.6 + 0.62 * k, 1.6 + 0.62 * k).subplots()
    axes.set_facecolor("0.85")
    drawn = axes.imshow(values, cmap=DIVERGING_MAP, vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > _DARK else "black"
        text = "–" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(k), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(drawn, ax=axes, ticks=[-1, 0, 1], label=label, shrink=0.8)
    return axes


def plot_fidelity(
    metric: TorchMetric | Mapping[str, ArrayLike], *, axes: Axes | None = None
) -> Axes:
    """
    Draw Fid⁺ and Fid⁻ against the size of the explanation: means over samples, one error about.

    Parameters
    ----------
    metric : Fidelity, RFidelity, FFidelity or ROAR; or mapping
        A metric that has been called, or its ``details``. Samples with NaN are left out, and the
        legend says how many.
    axes : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The bands are one standard error of the mean, from the spread of the samples, which has
        that of the draws in it; of a single sample, the standard error of its draws.

    Raises
    ------
    ValueError
        If the details are not those of a fidelity, or all samples have NaN.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Fidelity
    >>> model = torch.nn.Linear(4, 2).eval()
    >>> metric = Fidelity([0.25, 0.5])
    >>> _ = metric(model, np.ones((3, 4)), np.array([0, 1, 0]), np.eye(3, 4))
    >>> axes = plot_fidelity(metric)
    >>> axes.get_xlabel(), axes.lines[0].get_xdata().tolist()
    ('size of the explanation, s/t', [0.25, 0.5])
    """
    names = [f"{part}_{sign}" for sign in ("plus", "minus") for part in ("curve", "error")]
    details = _details(metric, ("sparsity", *names))
    order = np.argsort(details["sparsity"][0])
    sizes = details["sparsity"][0, order]
    values = {name: details[name][:, order] for name in names}
    # An unknown error of a draw is no reason to leave its sample out.
    curves = np.concatenate([values["curve_plus"], values["curve_minus"]], axis=1)
    _without_nan("curve_plus and curve_minus", curves)
    known = ~np.isnan(curves).any(1)
    if axes is None:
        axes = _figure(4.8, 3.6).subplots()
    for sign, name, colour, style in (
        ("plus", "Fid⁺, without it (higher is better)", COLOURS[0], "-"),
        ("minus", "Fid⁻, with it alone (lower is better)", COLOURS[1], "--"),
    ):
        curve, errors = values[f"curve_{sign}"][known], values[f"error_{sign}"][known]
        mean = curve.mean(0)
        error = curve.std(0, ddof=1) / np.sqrt(len(curve)) if len(curve) > 1 else errors[0]
        axes.plot(sizes, mean, style, color=colour, marker="o", markersize=3, label=name)
        if len(sizes) > 1:
            edges = (mean - error, mean + error)
            axes.fill_between(sizes, *edges, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.errorbar(sizes, mean, error, color=colour, capsize=3)
    output = getattr(metric, "output", None)
    what = {"label": ": fall of 1(y = f(·))", "probability": ": fall of the probability"}
    _style_axes(axes, "size of the explanation, s/t", f"fidelity{what.get(str(output), '')}")
    left_out = f", {(~known).sum()} with NaN left out" if not known.all() else ""
    shown = "mean ± standard error" if len(curves) > 1 else "± standard error of the draws"
    # Above: curves of a good explanation fill all corners.
    axes.legend(
        frameon=False,
        fontsize="small",
        title=f"{shown}{left_out}",
        title_fontsize="small",
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
    return axes


def plot_qge(metric: QGE, *, figure: FigureBase | None = None) -> NDArray[np.object_]:
    """
    Draw each sample's score beside that of its reference, and the gap between them below.

    Parameters
    ----------
    metric : QGE
        Has been called.
    figure : matplotlib figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (2,)
        With several random references of a metric that is not random itself, bars from their mean
        reach one standard deviation of their distribution, and bars from the gap one standard
        error. Otherwise neither is known, and none is drawn.

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
    ('Infidelity (lower is better)', True)
    """
    details = _details(metric, ("score", "reference"))
    score, reference = details["score"], details["reference"]
    is_turned = metric.signed and metric.direction is ScoreDirection.LOWER
    gap = reference - score if is_turned else score - reference
    # 0 is that of a reference that is not drawn at random.
    error = np.where(metric.standard_errors > 0, metric.standard_errors, np.nan)
    sample = np.arange(len(score))
    if figure is None:
        figure = _figure(min(3.6 + 0.16 * len(score), 12), 4.8)
    axes: NDArray[np.object_] = figure.subplots(2, 1, sharex=True, height_ratios=(4, 3))
    above, below = axes
    above.vlines(sample, score, reference, color="0.7", zorder=0)
    k = metric.n_references
    name = f"mean of {k} random orders" if k > 1 else _REFERENCES[metric.reference]
    if np.isfinite(error).any():
        above.errorbar(sample, reference, error * k**0.5, fmt="none", color=COLOURS[1], capsize=2)
        name += ", ± their standard deviation"
    above.plot(sample, reference, "s", color=COLOURS[1], mfc="white", markersize=5, label=name)
    above.plot(sample, score, "o", color=COLOURS[0], markersize=5, label="explanation")
    is_better = gap < 0 if metric.score_direction is ScoreDirection.LOWER else gap > 0
    colours = np.where(is_better, COLOURS[2], COLOURS[3])
    below.bar(sample, gap, color=colours, yerr=error, capsize=2, width=0.7)
    below.axhline(0, color="0.2", linewidth=0.8)
    _style_axes(above, "", f"{metric.metric.name} ({metric.direction.value} is better)")
    _style_axes(below, "sample", f"gap ({metric.score_direction.value} is better)")
    below.xaxis.get_major_locator().set_params(integer=True)
    above.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))
    below.set_title(
        f"better than its reference: {is_better.sum()} of {len(gap)}", fontsize="small", loc="left"
    )
    return axes


def plot_area(
    results: Mapping[str, Mapping[str, Any]], *, figure: FigureBase | None = None
) -> NDArray[np.object_]:
    """
    Draw MetaQuantus's area plot: the four consistencies of each metric, the larger the better.

    Parameters
    ----------
    results : mapping of str to mapping
        By the name of a metric, ``MetaEvaluation.results_meta_consistency_scores`` or the mapping
        that ``MetaEvaluationBenchmarking`` keeps of it, so that one category of a benchmark's
        results, ``results[data][model][category]``, is such a mapping.
    figure : matplotlib figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (len(results),)
        Each has the metric's name as its title, and MC, the mean over perturbations and
        consistencies. The dashed line is the largest area.

    Raises
    ------
    ValueError
        If there are no results, or a consistency is missing, undefined (no prediction changed
        under the adversary's perturbation) or outside [0, 1].

    Examples
    --------
    >>> parts = {"IAC_{NR}": [0.5], "IAC_{AR}": [0.9], "IEC_{NR}": [0.6], "IEC_{AR}": [0.8]}
    >>> axes = plot_area({"Infidelity": {"Input": {"consistency_scores": parts}}})
    >>> axes[0].get_title()
    'Infidelity\\nMC = 0.700'
    """
    if not results:
        raise ValueError("results must have a metric, is empty")
    known = {name: _consistencies(name, given) for name, given in results.items()}
    columns = min(len(known), _COLUMNS)
    rows = -(-len(known) // columns)
    if figure is None:
        figure = _figure(2.6 * columns, 2.9 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in grid[len(known) :]:
        axis.remove()
    axes: NDArray[np.object_] = grid[: len(known)]
    handles: dict[str, Any] = {}
    ticks = np.array([-1, -0.5, 0, 0.5, 1])
    for axis, (name, kinds) in zip(axes, known.items(), strict=True):
        best = axis.plot([-1, 0, 1, 0, -1], [0, 1, 0, -1, 0], "--", color="0.5", linewidth=1)
        handles["largest possible"] = best[0]
        for kind, style in _KINDS.items():
            if kind not in kinds:
                continue
            left, up, right, down = kinds[kind]
            colour = style["color"]
            handles[f"{kind.lower()} perturbed"] = axis.fill(
                [-left, 0, right, 0],
                [0, up, 0, -down],
                facecolor=(colour, 0.3),
                edgecolor=colour,
                linewidth=1.5,
                hatch=style["hatch"],
            )[0]
        axis.set_title(f"{name}\nMC = {np.mean([*kinds.values()]):.3f}", fontsize="medium")
        axis.set_xlabel("$IAC_{AR}$  ←      →  $IEC_{AR}$")
        axis.set_ylabel("$IEC_{NR}$  ←      →  $IAC_{NR}$")
        axis.set_xticks(ticks, [f"{abs(tick):g}" for tick in ticks])
        axis.set_yticks(ticks, [f"{abs(tick):g}" for tick in ticks])
        axis.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[:].set_visible(False)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    return axes


def plot_case(
    x_batch: ArrayLike | Tensor,
    a_batch: ArrayLike | Tensor,
    metrics: Sequence[Metric[Any]] = (),
    *,
    sample: int = 0,
    share: float = 0.1,
    baseline: float | str | NDArray[np.floating[Any]] = 0.0,
    names: Sequence[str] | None = None,
    figure: FigureBase | None = None,
) -> NDArray[np.object_]:
    """
    Draw one explanation: the input, its map, the input without the top of the map, the scores.

    Parameters
    ----------
    x_batch : array-like, shape (n, C, H, W), (n, C, T) or (n, F)
        Inputs, channels first: images, series or tables. Three channels are shown as red, green
        and blue, any other number by its mean.
    a_batch : array-like, shape of `x_batch` or with one channel
        Attributions; what is shown is their sum over channels.
    metrics : sequence of quantus.metrics.base.Metric
        Have been called on these inputs, with a score a sample; also Quantus's own.
    sample : int, default 0
        Which of the inputs.
    share : float, default 0.1
        Share of the pixels, time steps or features that is removed, at least one.
    baseline : float, str or array
        What they become, as ``perturb_baseline`` of the metrics.
    names : sequence of F str, optional
        The features of a table.
    figure : matplotlib figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (4,)
        In the third, what was removed is tinted or shaded.

    Raises
    ------
    ValueError, TypeError
        If inputs, attributions, names or a metric's scores don't fit each other.

    Examples
    --------
    >>> axes = plot_case(np.ones((1, 3)), [[0.2, -0.1, 0.9]], share=0.4, names=["a", "b", "c"])
    >>> [float(bar.get_width()) for bar in axes[2].containers[0]]
    [1.0, 1.0, 0.0]
    """
    case = _Case.of(x_batch, a_batch, sample, share, baseline)
    lines = [_score_line(f"metrics[{place}]", m, sample) for place, m in enumerate(metrics)]
    if names is not None and (case.x.ndim > 1 or len(names) != len(case.x)):
        raise ValueError(
            f"names must have one entry a feature of a table; got {len(names)} and inputs of the "
            f"shape {case.x.shape}"
        )
    draw = {1: _draw_table, 2: _draw_series, 3: _draw_image}[case.x.ndim]
    axes = draw(case, names, figure)
    panels, text = axes[:3], axes[3]
    removed = f"without the top {case.removed.sum()} of {case.removed.size}"
    for axis, title in zip(panels, ("input", "map", removed), strict=True):
        axis.set_title(title, fontsize="medium")
    text.set_axis_off()
    text.set_title("scores" if lines else "", fontsize="medium", loc="left")
    for place, line in enumerate(lines):
        # In points, because panels differ in height.
        offset = (0, -6 - 34 * place)
        text.annotate(
            line,
            (0, 1),
            offset,
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            fontsize="small",
            linespacing=1.4,
        )
    return axes


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> None:
    """
    Write a figure so that a reader of `path` sees the old file or the whole new one.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to write.
    path : str or path
        Where; its suffix chooses the format.
    dpi : float
        Dots an inch, for formats made of pixels.
    """
    path = Path(path)
    # Beside the target, because a replacement is atomic only within one file system.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        kind = path.suffix.removeprefix(".")
        figure.savefig(partial, dpi=dpi, format=kind, bbox_inches="tight", pad_inches=0.15)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Samples(NamedTuple):
    """Curves without NaN, shape (n, L), and how many had NaN."""

    known: NDArray[np.float64]
    left_out: int


def _places(fractions: ArrayLike) -> NDArray[np.float64]:
    places = np.asarray(fractions, dtype=np.float64)
    if places.ndim != 1 or len(places) < 2 or not (np.diff(places) > 0).all():
        raise ValueError(f"fractions must be two or more increasing numbers; got {places}")
    return places


def _outputs(name: str, values: ArrayLike, places: NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) == 0 or array.shape[1] != len(places):
        raise ValueError(
            f"{name} must have the shape (n, {len(places)}), a value for each of the fractions; "
            f"got {array.shape}"
        )
    return array


def _without_nan(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[~np.isnan(values).any(1)]
    if len(known) == 0:
        raise ValueError(f"{name} must have a sample without NaN; all {len(values)} have NaN")
    return known


def _samples(name: str, values: ArrayLike, places: NDArray[np.float64]) -> _Samples:
    given = _outputs(name, values, places)
    known = _without_nan(name, given)
    return _Samples(known, len(given) - len(known))


def _curve_axes(axes: Axes | None, label: str) -> Axes:
    if axes is None:
        axes = _figure(4.8, 3.4).subplots()
    _style_axes(axes, "fraction removed", label)
    return axes


def _draw_curve(
    axes: Axes, places: NDArray[np.float64], samples: _Samples, name: str, position: int
) -> None:
    values, left_out = samples
    mean = values.mean(0)
    # Beyond the palette a colour comes again in another style.
    colour, style = COLOURS[position % len(COLOURS)], STYLES[position // len(COLOURS) % len(STYLES)]
    shown = f"{name} ({left_out} with NaN left out)" if left_out else name
    axes.plot(places, mean, color=colour, linestyle=style, label=shown)
    if len(values) > 1:
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        axes.fill_between(places, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)


def _details(
    metric: Metric[Any] | Mapping[str, ArrayLike], names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    details = metric if isinstance(metric, Mapping) else getattr(metric, "details", {})
    missing = [name for name in names if name not in details]
    if missing:
        raise ValueError(
            f"metric must have been called and have {', '.join(missing)} in its details; has "
            f"{list(details)}"
        )
    return {name: np.asarray(details[name], dtype=np.float64) for name in names}


def _consistencies(name: str, given: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the four consistencies of each kind of perturbation, by its name."""
    kinds = given.get("results_meta_consistency_scores", given)
    unknown = set(kinds) - set(_KINDS)
    if unknown or not kinds:
        raise ValueError(
            f"results[{name!r}] must have the results of {' or '.join(_KINDS)}; has {list(kinds)}"
        )
    found = {}
    for kind, result in kinds.items():
        parts = result["consistency_scores"]
        found[kind] = [float(np.mean(parts.get(part, np.nan))) for part in _CONSISTENCIES]
        for part, value in zip(_CONSISTENCIES, found[kind], strict=True):
            if not 0 <= value <= 1:
                raise ValueError(
                    f"results[{name!r}][{kind!r}] must have {part} between 0 and 1, has {value}; "
                    "NaN says that it was never defined, as where no prediction changed"
                )
    return found


class _Case(NamedTuple):
    """One sample, without its axis of samples."""

    x: NDArray[np.float64]
    a: NDArray[np.float64]
    """Scores of the elements, in the shape of positions."""
    masked: NDArray[np.float64]
    removed: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        x_batch: ArrayLike | Tensor,
        a_batch: ArrayLike | Tensor,
        sample: int,
        share: float,
        baseline: float | str | NDArray[np.floating[Any]],
    ) -> _Case:
        x = torch.as_tensor(x_batch).detach().cpu().double()
        checks.inputs(x)
        a = checks.attributions(torch.as_tensor(a_batch).detach().cpu().double(), x)
        if not 0 <= sample < len(x):
            raise ValueError(f"sample must be between 0 and {len(x) - 1}, is {sample}")
        share = checks.fraction("share", share)
        x, a = x[[sample]], a[[sample]]
        # As the metrics do, so that the same of several equal values go.
        elements = elements_of(x)
        keys = sampling.sample_keys(0, torch.tensor([sample]))
        top = max(1, sampling.snapped_floor(share * elements.largest))
        chosen = (elements.ranks(a, keys) < top).unsqueeze(1)
        mask = elements.expand(chosen, slice(None))
        buffer = x.new_empty((1, *x.shape))
        masked = replace_by(baseline).prepare(x)(slice(None), mask, keys[:, None], buffer)
        positions = x.shape[1:] if x.ndim == 2 else x.shape[2:]
        return cls(
            x[0].numpy(),
            elements.scores(a)[0].reshape(positions).numpy(),
            masked[0, 0].numpy(),
            chosen[0, 0].reshape(positions).numpy(),
        )


def _score_line(name: str, metric: Metric[Any], sample: int) -> str:
    scores = metric.evaluation_scores
    if sample >= np.size(scores) or np.ndim(scores[sample]) > 0:
        raise ValueError(
            f"{name} must have a score a sample, after a call with return_aggregate=False; "
            f"{metric.name} has {np.size(scores)} values"
        )
    errors = getattr(metric, "standard_errors", ())
    error = errors[sample] if sample < len(errors) else np.nan
    value = f"{scores[sample]:.3g}".replace("-", "−") + (f" ± {error:.2g}" if error > 0 else "")
    return f"{metric.name}\n  {value} ({metric.score_direction.value} is better)"


def _largest(case: _Case) -> float:
    return float(np.abs(case.a).max()) or 1.0


def _draw_image(
    case: _Case, names: Sequence[str] | None, figure: FigureBase | None
) -> NDArray[np.object_]:
    figure = _figure(9.2, 2.9) if figure is None else figure
    axes: NDArray[np.object_] = figure.subplots(1, 4)
    limits = (case.x.min(), case.x.max())
    for axis, values in zip(axes[[0, 2]], (case.x, case.masked), strict=True):
        if len(values) == 3:
            span = (limits[1] - limits[0]) or 1.0
            axis.imshow(((values - limits[0]) / span).clip(0, 1).transpose(1, 2, 0))
        else:
            axis.imshow(values.mean(0), cmap="gray_r", vmin=limits[0], vmax=limits[1])
    drawn = axes[1].imshow(case.a, cmap=DIVERGING_MAP, vmin=-_largest(case), vmax=_largest(case))
    axes[2].imshow(case.removed[..., None] * np.array(to_rgba(COLOURS[4], 0.5)))
    for axis in axes[:3]:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(drawn, ax=axes[1], location="bottom", label="attribution", shrink=0.8)
    return axes


def _draw_series(
    case: _Case, names: Sequence[str] | None, figure: FigureBase | None
) -> NDArray[np.object_]:
    figure = _figure(8.4, 5.2) if figure is None else figure
    grid = figure.subplot_mosaic(
        [["input", "scores"], ["map", "scores"], ["masked", "scores"]], width_ratios=(3, 1)
    )
    axes: NDArray[np.object_] = np.array([grid[n] for n in ("input", "map", "masked", "scores")])
    time = np.arange(case.x.shape[1])
    for axis, values in zip(axes[[0, 2]], (case.x, case.masked), strict=True):
        for channel, line in enumerate(values):
            style = STYLES[channel // len(COLOURS) % len(STYLES)]
            axis.plot(time, line, style, color=COLOURS[channel % len(COLOURS)])
        _style_axes(axis, "", "value")
    axes[2].sharey(axes[0])
    for step in time[case.removed]:
        axes[2].axvspan(step - 0.5, step + 0.5, color="0.85", linewidth=0, zorder=0)
    axes[1].bar(time, case.a, width=1.0, color=_by_sign(case))
    _style_axes(axes[1], "", "attribution")
    axes[2].set_xlabel("time step")
    for axis in axes[1:3]:
        axis.sharex(axes[0])
    for axis in axes[:2]:
        axis.tick_params(labelbottom=False)
    return axes


def _draw_table(
    case: _Case, names: Sequence[str] | None, figure: FigureBase | None
) -> NDArray[np.object_]:
    figure = _figure(9.2, 1.6 + 0.24 * len(case.x)) if figure is None else figure
    axes: NDArray[np.object_] = figure.subplots(1, 4)
    place = np.arange(len(case.x))
    for axis, values, colours, label in (
        (axes[0], case.x, COLOURS[6], "value"),
        (axes[1], case.a, _by_sign(case), "attribution"),
        (axes[2], case.masked, COLOURS[6], "value"),
    ):
        axis.barh(place, values, color=colours, height=0.7)
        _style_axes(axis, label, "")
        axis.set_yticks(
            place, names if names is not None and axis is axes[0] else [""] * len(place)
        )
        axis.set_ylim(len(place) - 0.5, -0.5)
        axis.axvline(0, color="0.2", linewidth=0.8)
    for row in place[case.removed]:
        axes[2].axhspan(row - 0.5, row + 0.5, color="0.85", linewidth=0, zorder=0)
    axes[2].set_xlim(axes[0].get_xlim())
    return axes


def _by_sign(case: _Case) -> list[str]:
    """Return red for positive and blue for negative, as the maps of images have it."""
    return ["#b2182b" if value > 0 else "#2166ac" for value in case.a]


def _style_axes(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
