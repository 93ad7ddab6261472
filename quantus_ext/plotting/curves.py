"""Removal curves: the output as elements go or come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from numpy.typing import ArrayLike, NDArray

from quantus_ext.functional.removal_curves import mean_weights
from quantus_ext.plotting.figures import COLOURS, STYLES, new_figure, style_axes
from quantus_ext.plotting.given import without_nan


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
        Fractions removed, increasing; those that come more than once are drawn once.
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
        Fractions removed, from nothing to everything, increasing; see :func:`plot_curves`.
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
        ABPC, in the legend, is the mean over fractions of LeRF's output less MoRF's, weighted as
        the metric does. Where LeRF's is the lower one it counts as negative, and the area has a
        colour of its own.

    Raises
    ------
    ValueError
        If fractions don't increase from 0 to 1, outputs don't fit them or each other, or all
        samples have NaN.

    Examples
    --------
    >>> axes = plot_removal([0, 0.5, 1], [[1, 0.2, 0]], [[1, 0.8, 0]])
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['LeRF', 'MoRF', 'ABPC = 0.200']
    """
    places = _places(fractions)
    if (places[0], places[-1]) != (0, 1):
        raise ValueError(f"fractions must go from 0 to 1, as ABPC does; got {places}")
    weights = mean_weights(torch.from_numpy(places)[None])[0].numpy()
    most, least = _outputs("morf", morf, places), _outputs("lerf", lerf, places)
    if most.shape != least.shape:
        raise ValueError(
            f"morf and lerf must be of the same samples; got the shapes {most.shape} and "
            f"{least.shape}"
        )
    both = without_nan("morf and lerf", np.concatenate([most, least], axis=1))
    most, least = both[:, : len(places)].mean(0), both[:, len(places) :].mean(0)
    axes = _curve_axes(axes, label)
    axes.plot(places, least, color=COLOURS[0], label="LeRF")
    axes.plot(places, most, color=COLOURS[1], label="MoRF")
    parts = [(least >= most, COLOURS[2], f"ABPC = {weights @ (least - most):.3f}")]
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
        figure = new_figure(8.4, 3.4 + 0.18 * len(deletion))
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


class _Samples(NamedTuple):
    """Curves without NaN, shape (n, L), and how many had NaN."""

    known: NDArray[np.float64]
    left_out: int


def _places(fractions: ArrayLike) -> NDArray[np.float64]:
    places = np.asarray(fractions, dtype=np.float64)
    if places.ndim != 1 or len(places) < 2 or not (np.diff(places) >= 0).all():
        raise ValueError(f"fractions must be two or more increasing numbers; got {places}")
    if places[0] == places[-1]:
        raise ValueError(f"fractions must increase, are all {places[0]}")
    return places


def _outputs(name: str, values: ArrayLike, places: NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) == 0 or array.shape[1] != len(places):
        raise ValueError(
            f"{name} must have the shape (n, {len(places)}), a value for each of the fractions; "
            f"got {array.shape}"
        )
    return array


def _samples(name: str, values: ArrayLike, places: NDArray[np.float64]) -> _Samples:
    given = _outputs(name, values, places)
    known = without_nan(name, given)
    return _Samples(known, len(given) - len(known))


def _curve_axes(axes: Axes | None, label: str) -> Axes:
    if axes is None:
        axes = new_figure(4.8, 3.4).subplots()
    style_axes(axes, "fraction removed", label)
    return axes


def _draw_curve(
    axes: Axes, places: NDArray[np.float64], samples: _Samples, name: str, position: int
) -> None:
    values, left_out = samples
    mean = values.mean(0)
    # Beyond the palette, colours repeat in another line style.
    colour, style = COLOURS[position % len(COLOURS)], STYLES[position // len(COLOURS) % len(STYLES)]
    shown = f"{name} ({left_out} with NaN left out)" if left_out else name
    axes.plot(places, mean, color=colour, linestyle=style, label=shown)
    if len(values) > 1:
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        axes.fill_between(places, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
