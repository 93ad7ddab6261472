"""Figures of attribution maps and of scores.

Every function takes arrays, draws on the figure or axes it is given (or on a new figure of its
own) and returns the matplotlib axes. `matplotlib.figure.Figure` is used directly, never pyplot:
nothing is shown, and the caller's backend and list of open figures stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from numpy.typing import ArrayLike, NDArray

# Okabe and Ito's palette, distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
DIVERGING_MAP = "RdBu_r"

_DARK = 0.6
"""Correlation beyond which the map's colour is too dark for black numbers."""
_ROUNDING = 1e-9


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
        size = (1.3 * (1 + len(columns)), 1.3 * len(images) + 0.6)
        figure = Figure(figsize=size, layout="constrained")
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
        size = (4.5, 0.8 + 0.35 * len(names))
        axes = Figure(figsize=size, layout="constrained").subplots()
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
        figure = Figure(figsize=(8.4, 3.4 + 0.18 * len(deletion)), layout="constrained")
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
        size = (2.6 + 0.62 * k, 1.6 + 0.62 * k)
        axes = Figure(figsize=size, layout="constrained").subplots()
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
        axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
    axes.set_xlabel("fraction removed")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
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
