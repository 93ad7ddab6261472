"""Figures of attribution maps and of scores.

Every function takes arrays, draws on the figure or axes it is given (or on a new figure of its
own) and returns the matplotlib axes. `matplotlib.figure.Figure` is used directly, never pyplot:
nothing is shown, and the caller's backend and list of open figures stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from numpy.typing import ArrayLike, NDArray

# Okabe and Ito's palette, distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DIVERGING_MAP = "RdBu_r"


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
