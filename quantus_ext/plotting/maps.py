"""Attribution maps beside the images that they explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import FigureBase
from numpy.typing import ArrayLike, NDArray

from quantus_ext.plotting.figures import DIVERGING_MAP, new_figure


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
        raise ValueError(f"labels must have one entry per image, {len(images)}; got {len(labels)}")

    if figure is None:
        figure = new_figure(1.3 * (1 + len(columns)), 1.3 * len(images) + 0.6)
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
        # One line per word, or long names overlap.
        axis.set_title(title.replace(" ", "\n"), fontsize="medium")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    if columns:
        figure.colorbar(
            drawn,
            # Below all panels: below the maps alone, it would push them out of line.
            ax=axes,
            location="bottom",
            fraction=0.04,
            pad=0.02,
            ticks=[-1, 0, 1],
            label="attribution ÷ the map's largest magnitude",
        )
    return axes
