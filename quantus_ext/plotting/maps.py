"""Attribution maps beside the images that they explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from quantus_ext.plotting.figures import DIVERGING_MAP, Place, several_panels


def plot_maps(
    x_batch: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    labels: Sequence[str] | None = None,
    ax: Place | None = None,
) -> NDArray[np.object_]:
    """
    Draw a grid: one row per image, the image first, then each explainer's map of it.

    Each map is divided by its own largest magnitude, because explainers differ in scale.

    Parameters
    ----------
    x_batch : array-like, shape (n, C, H, W) or (n, H, W)
        Images, channels first. Three channels are shown as red, green and blue; of any other number
        of channels, the mean is shown.
    maps : mapping of str to array-like, shape of `x_batch`, with one channel or with none
        Attributions of each explainer. Their sum over channels is shown.
    labels : sequence of n str, optional
        Labels of the rows.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (n, 1 + len(maps))

    Raises
    ------
    ValueError
        If the shape of a map or the number of labels does not match the images.

    Examples
    --------
    >>> axes = plot_maps(np.eye(3)[None], {"Saliency": np.ones((1, 3, 3))}, labels=["digit 1"])
    >>> axes.shape, axes[0, 1].get_title()
    ((1, 2), 'Saliency')
    """
    images = np.asarray(x_batch, dtype=np.float64)
    if images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(
            "x_batch must have the shape (n, C, H, W) or (n, H, W) and no 0 in it; got "
            f"{images.shape}"
        )
    images = images[:, None] if images.ndim == 3 else images
    columns = {name: _map(name, values, images.shape) for name, values in maps.items()}
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"labels must have one entry per image, {len(images)}; got {len(labels)}")

    figure = several_panels(ax, 1.3 * (1 + len(columns)), 1.3 * len(images) + 0.6)
    axes = figure.subplots(len(images), 1 + len(columns), squeeze=False)
    for row, image in enumerate(images):
        show_image(axes[row, 0], image, (float(image.min()), float(image.max())))
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


def show_image(axes: Axes, image: NDArray[np.float64], limits: tuple[float, float]) -> None:
    """Draw an image (C, H, W): three channels in colour, otherwise their mean in grey."""
    low, high = limits
    if len(image) == 3:
        span = (high - low) or 1.0
        axes.imshow(((image - low) / span).clip(0, 1).transpose(1, 2, 0))
    else:
        axes.imshow(image.mean(0), cmap="gray_r", vmin=low, vmax=high)


def _map(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return maps of images of a shape (n, C, H, W), summed over channels, (n, H, W)."""
    n, channels, *size = shape
    given = np.asarray(values, dtype=np.float64)
    allowed = [(n, *size), (n, 1, *size), (n, channels, *size)]
    if given.shape not in allowed:
        raise ValueError(
            f"maps[{name!r}] must have one of the shapes {', '.join(map(str, allowed))}; got "
            f"{given.shape}"
        )
    summed: NDArray[np.float64] = given if given.ndim == 3 else given.sum(1)
    return summed
