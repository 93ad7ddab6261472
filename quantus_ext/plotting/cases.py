"""One explanation: the input, its map, the input without the top of the map, and the scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from numpy.typing import ArrayLike, NDArray
from quantus.metrics.base import Metric
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of
from quantus_ext.arrays import tensor_from
from quantus_ext.batch import features_of, segmentations_of
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Elements
from quantus_ext.engine.replacements import replace_by
from quantus_ext.metrics.qge import QGE
from quantus_ext.metrics.removal import RemovalMetric
from quantus_ext.metrics.removal_curves import MoRF
from quantus_ext.plotting import tokens as tokens_
from quantus_ext.plotting.figures import (
    COLOURS,
    DIVERGING_MAP,
    STYLES,
    Place,
    several_panels,
    style_axes,
)
from quantus_ext.plotting.maps import show_image


def plot_case(
    x_batch: ArrayLike | Tensor,
    a_batch: ArrayLike | Tensor,
    metrics: Metric[Any] | Sequence[Metric[Any]] = (),
    *,
    model: nn.Module | None = None,
    s_batch: ArrayLike | Tensor | None = None,
    sample: int = 0,
    share: float = 0.1,
    baseline: float | str | NDArray[np.floating[Any]] | None = None,
    feature_names: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
    special: Collection[str] = (),
    ax: Place | None = None,
) -> NDArray[np.object_]:
    """
    Draw one explanation: the input, its map, the input without the top of the map, the scores.

    Parameters
    ----------
    x_batch : array-like, shape (n, C, D, H, W), (n, C, H, W), (n, C, T), (n, F) or (n, L)
        Inputs, channels first: volumes or videos, images, series, tables or token ids. Three
        channels are shown as red, green and blue; of any other number of channels, the mean is
        shown. Of a volume or video, the three slices or frames with the largest attributions are
        shown.
    a_batch : array-like
        Attributions, in any shape that metrics take. Their sum over channels is shown, and the
        mean of each patch or segment.
    metrics : quantus.metrics.base.Metric or sequence of them
        Metrics of this package or of Quantus that have been called on these inputs and have one
        score per sample. The first one that removes elements decides what an element is (a patch,
        for example) and what replaces it.
    model : torch.nn.Module, optional
        The explained model. If it is one of :mod:`quantus_ext.adapters`, padding is left out, and
        a group of columns is one element.
    s_batch : array-like, optional
        Segmentations, if a metric removes segments.
    sample : int, default 0
        The index of the input to draw.
    share : float, default 0.1
        Share of the elements to remove. At least one element is removed.
    baseline : float, str or array, optional
        The replacement, as ``perturb_baseline`` of the metrics; by default that of the first metric
        that removes elements, or 0. Removed tokens are grey.
    feature_names : sequence of F str, optional
        The names of a table's columns.
    tokens : sequence of L str, optional
        The tokens of this input. It is then drawn as a text, each token on a background in the
        colour of its attribution.
    special : collection of str
        Tokens that are neither coloured nor removed, such as ``"[CLS]"`` or ``"[PAD]"``.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (4,)
        In the third panel, the removed elements are tinted or shaded; in a text, they are grey.

    Raises
    ------
    ValueError, TypeError
        If inputs, attributions, names and scores do not have matching shapes.

    Examples
    --------
    >>> names = ["a", "b", "c"]
    >>> axes = plot_case(np.ones((1, 3)), [[0.2, -0.1, 0.9]], share=0.4, feature_names=names)
    >>> [float(bar.get_width()) for bar in axes[2].containers[0]]
    [1.0, 1.0, 0.0]
    >>> axes = plot_case([[5, 9, 6]], [[0.1, 0.8, 0.0]], tokens=["a", "great", "film"])
    >>> axes[2].get_title(loc="left")
    'without the top 1 of 3'
    """
    given = [metrics] if isinstance(metrics, Metric) else list(metrics)
    special_tokens = np.array([token in special for token in tokens or ()], dtype=bool)
    remover = _remover(given)
    case = _Case.of(
        x_batch, a_batch, remover, model, s_batch, sample, share, baseline, special_tokens
    )
    lines = [_score_line(f"metrics[{place}]", m, sample) for place, m in enumerate(given)]
    if feature_names is not None and (case.x.ndim > 1 or len(feature_names) != len(case.x)):
        raise ValueError(
            f"feature_names must have one entry per column of a table; got {len(feature_names)} "
            f"and inputs of the shape {case.x.shape}"
        )
    if tokens is None:
        draw = {1: _draw_table, 2: _draw_series, 3: _draw_image, 4: _draw_volume}[case.x.ndim]
        axes = draw(case, feature_names, ax)
    else:
        axes = _draw_text(case, tokens, len(lines), ax)
    panels, text = axes[:3], axes[3]
    removed = f"without the top {case.n_removed} of {case.n_elements}"
    if remover.element in _UNITS:
        # Below, because panels of images are narrow.
        removed = f"{removed}\n{_UNITS[remover.element]}"
    for axis, title in zip(panels, ("input", "map", removed), strict=True):
        axis.set_title(title, fontsize="medium", loc="center" if tokens is None else "left")
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


_UNITS = {"patch": "patches", "segment": "segments", "channel_value": "values"}


def _remover(metrics: Sequence[Metric[Any]]) -> RemovalMetric:
    """Return the first metric that removes elements, or one that removes positions."""
    inner = (metric.metric if isinstance(metric, QGE) else metric for metric in metrics)
    return next((each for each in inner if isinstance(each, RemovalMetric)), MoRF())


class _Case(NamedTuple):
    """One sample, without its axis of samples and without padding at the end of a series."""

    x: NDArray[np.float64]
    a: NDArray[np.float64]
    """Scores of the elements, in the shape of positions; 0 where none is."""
    masked: NDArray[np.float64]
    removed: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    """Positions that are in no element, in the shape of positions."""
    n_removed: int
    n_elements: int

    @classmethod
    def of(
        cls,
        x_batch: ArrayLike | Tensor,
        a_batch: ArrayLike | Tensor,
        remover: RemovalMetric,
        model: nn.Module | None,
        s_batch: ArrayLike | Tensor | None,
        sample: int,
        share: float,
        baseline: float | str | NDArray[np.floating[Any]] | None,
        special: NDArray[np.bool_],
    ) -> _Case:
        known = nn.Identity() if model is None else model
        adapter = adapter_of(known)
        given = tensor_from("x_batch", adapter.encoded(x_batch)).detach().cpu()
        # What an adapter says of ids it says of integers.
        x = given if adapter.takes_ids else given.double()
        checks.inputs(x)
        if not 0 <= sample < len(x):
            raise ValueError(f"sample must be between 0 and {len(x) - 1}, is {sample}")
        share = checks.fraction("share", share)
        features = features_of(adapter, x)
        if special.size:
            features = _without(special, x, features)
        checks.rows_for_samples("s_batch", s_batch, len(x))
        s = segmentations_of(s_batch)
        ordered = adapter.in_order("a_batch", a_batch, x_batch)
        a = tensor_from("a_batch", ordered).detach().cpu().double()
        counted = None if features is None else features >= 0
        if counted is not None and x.ndim > 2:
            counted = counted.unsqueeze(1)
        a = checks.attributions(remover.at_positions(a, x, s), x, counted=counted)
        row = slice(sample, sample + 1)
        x, a = x[row], a[row]
        features = features if features is None or len(features) == 1 else features[row]
        elements = remover.elements_of(x, None if s is None else s[row], features)
        # Ranked as by the metrics, so that the same ties are removed.
        keys = sampling.sample_keys(remover.seed or 0, torch.tensor([sample]))
        count = elements.largest
        top = max(1, sampling.snapped_floor(share * count))
        chosen = (elements.ranks(a, keys) < top).unsqueeze(1)
        mask = elements.expand(chosen, slice(None))
        masked = x[:, None].clone()
        if not adapter.takes_ids:
            removal = remover.perturbation(known) if baseline is None else replace_by(baseline)
            buffer = x.new_empty((1, 1, *x.shape[1:]))
            masked = removal.prepare(x).apply(slice(None), mask, keys[:, None], buffer)
        positions = x.shape[1:] if x.ndim == 2 else x.shape[2:]
        scores, inside = _at_positions(elements, elements.scores(a))
        kept = ~inside.reshape(positions).numpy()
        end = _end(kept) if x.ndim == 3 else positions[-1]
        return cls(
            x[0, ..., :end].numpy(),
            scores.reshape(positions)[..., :end].numpy(),
            masked[0, 0, ..., :end].numpy(),
            mask[0, 0].reshape(-1, *positions).any(0)[..., :end].numpy(),
            kept[..., :end],
            top,
            count,
        )


def _without(special: NDArray[np.bool_], x: Tensor, features: Tensor | None) -> Tensor:
    """Return the elements of texts without the special tokens of the one that is drawn."""
    if special.shape != x.shape[1:]:
        raise ValueError(
            f"tokens must be {x.shape[1:]} in number, as the ids of an input; got {special.size}"
        )
    if special.all():
        raise ValueError("special must leave a token that can be removed, has all of them")
    each = torch.arange(x.shape[1])[None] if features is None else features
    return each.masked_fill(torch.from_numpy(special), -1)


def _at_positions(elements: Elements, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of elements (1, T) at their positions, summed over channels.

    And which positions are in an element.
    """
    if elements.group is None:
        values, inside = scores, torch.ones_like(scores, dtype=torch.bool)
    else:
        values = torch.cat([scores, scores.new_zeros(1, 1)], 1).gather(1, elements.group)
        inside = elements.group < elements.largest
    # A table has no channels.
    if len(elements.mask_shape) == 1:
        return values, inside
    channels = elements.mask_shape[0]
    return values.reshape(channels, -1).sum(0), inside.reshape(channels, -1).any(0)


def _end(kept: NDArray[np.bool_]) -> int:
    """Return where the padding at the end of a series begins."""
    return int(np.flatnonzero(~kept)[-1]) + 1


def _score_line(name: str, metric: Metric[Any], sample: int) -> str:
    scores = metric.evaluation_scores
    if sample >= np.size(scores) or np.ndim(scores[sample]) > 0:
        raise ValueError(
            f"{name} must have one score per sample, after a call with return_aggregate=False; "
            f"{metric.name} has {np.size(scores)} values"
        )
    errors = getattr(metric, "standard_errors", ())
    error = errors[sample] if sample < len(errors) else np.nan
    value = f"{scores[sample]:.3g}".replace("-", "−") + (f" ± {error:.2g}" if error > 0 else "")
    return f"{metric.name}\n  {value} ({metric.score_direction.value} is better)"


def _largest(case: _Case) -> float:
    return float(np.abs(case.a).max()) or 1.0


def _draw_image(case: _Case, names: Sequence[str] | None, ax: Place | None) -> NDArray[np.object_]:
    figure = several_panels(ax, 9.2, 2.9)
    axes: NDArray[np.object_] = figure.subplots(1, 4)
    limits = (float(case.x.min()), float(case.x.max()))
    for axis, values in zip(axes[[0, 2]], (case.x, case.masked), strict=True):
        show_image(axis, values, limits)
    drawn = axes[1].imshow(case.a, cmap=DIVERGING_MAP, vmin=-_largest(case), vmax=_largest(case))
    axes[2].imshow(case.removed[..., None] * np.array(to_rgba(COLOURS[4], 0.5)))
    for axis in axes[:3]:
        axis.set_xticks([])
        axis.set_yticks([])
    ticks = [-_largest(case), 0, _largest(case)]
    bar = figure.colorbar(
        drawn, ax=axes[1], location="bottom", label="attribution", shrink=0.8, ticks=ticks
    )
    bar.set_ticklabels([f"{tick:.2g}".replace("-", "−") for tick in ticks])
    return axes


def _draw_volume(case: _Case, names: Sequence[str] | None, ax: Place | None) -> NDArray[np.object_]:
    """Draw the slices on which the map has most, one above the other, as an image."""
    chosen = fullest_slices(case.a)
    below = case._replace(
        x=_stacked(case.x[:, chosen]),
        a=_stacked(case.a[chosen]),
        masked=_stacked(case.masked[:, chosen]),
        removed=_stacked(case.removed[chosen]),
    )
    height = case.a.shape[1]
    figure = several_panels(ax, 9.2, 1.2 + 1.7 * len(chosen) * min(height / case.a.shape[2], 2.0))
    axes = _draw_image(below, names, figure)
    middles = height * np.arange(len(chosen)) + (height - 1) / 2
    axes[0].set_yticks(middles, [f"slice {place}" for place in chosen])
    for axis in axes[:3]:
        for border in height * np.arange(1, len(chosen)):
            axis.axhline(border - 0.5, color="0.5", linewidth=0.8)
    return axes


_SLICES = 3


def fullest_slices(a: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """Return the slices of a map (D, H, W) whose sums of attributions are largest, by position."""
    most = np.argsort(-np.abs(a).sum((1, 2)), kind="stable")[:_SLICES]
    return np.sort(most)


def _stacked(slices: NDArray[Any]) -> NDArray[Any]:
    """Return slices (\\*channels, D, H, W) one above the other, (\\*channels, D · H, W)."""
    return slices.reshape(*slices.shape[:-3], -1, slices.shape[-1])


def _draw_series(case: _Case, names: Sequence[str] | None, ax: Place | None) -> NDArray[np.object_]:
    figure = several_panels(ax, 8.4, 5.2)
    grid = figure.subplot_mosaic(
        [["input", "scores"], ["map", "scores"], ["masked", "scores"]], width_ratios=(3, 1)
    )
    axes: NDArray[np.object_] = np.array([grid[n] for n in ("input", "map", "masked", "scores")])
    time = np.arange(case.x.shape[1])
    for axis, values in zip(axes[[0, 2]], (case.x, case.masked), strict=True):
        for channel, line in enumerate(values):
            style = STYLES[channel // len(COLOURS) % len(STYLES)]
            axis.plot(time, line, style, color=COLOURS[channel % len(COLOURS)])
        style_axes(axis, "", "value")
    axes[2].sharey(axes[0])
    for step in time[case.removed]:
        axes[2].axvspan(step - 0.5, step + 0.5, color="0.85", linewidth=0, zorder=0)
    axes[1].bar(time, case.a, width=1.0, color=_by_sign(case))
    style_axes(axes[1], "", "attribution")
    axes[2].set_xlabel("time step")
    for axis in axes[1:3]:
        axis.sharex(axes[0])
    for axis in axes[:2]:
        axis.tick_params(labelbottom=False)
    return axes


def _draw_table(case: _Case, names: Sequence[str] | None, ax: Place | None) -> NDArray[np.object_]:
    figure = several_panels(ax, 9.2, 1.6 + 0.24 * len(case.x))
    axes: NDArray[np.object_] = figure.subplots(1, 4)
    place = np.arange(len(case.x))
    for axis, values, colours, label in (
        (axes[0], case.x, COLOURS[6], "value"),
        (axes[1], case.a, _by_sign(case), "attribution"),
        (axes[2], case.masked, COLOURS[6], "value"),
    ):
        axis.barh(place, values, color=colours, height=0.7)
        style_axes(axis, label, "")
        axis.set_yticks(
            place, names if names is not None and axis is axes[0] else [""] * len(place)
        )
        axis.set_ylim(len(place) - 0.5, -0.5)
        axis.axvline(0, color="0.2", linewidth=0.8)
    for row in place[case.removed]:
        axes[2].axhspan(row - 0.5, row + 0.5, color="0.85", linewidth=0, zorder=0)
    axes[2].set_xlim(axes[0].get_xlim())
    return axes


def _draw_text(
    case: _Case, texts: Sequence[str], n_scores: int, ax: Place | None
) -> NDArray[np.object_]:
    width = 7.2 * 72
    lines = tokens_.wrapped(texts, 0.94 * width)
    height = tokens_.LINE * len(lines)
    heights = [height, height, 8, height, 36 * n_scores + 1]
    figure = several_panels(ax, width / 72, (sum(heights) + 130) / 72)
    grid = figure.subplot_mosaic(
        [["input"] * 3, ["map"] * 3, ["bar", ".", "."], ["masked"] * 3, ["scores"] * 3],
        height_ratios=heights,
    )
    axes: NDArray[np.object_] = np.array([grid[n] for n in ("input", "map", "masked", "scores")])
    largest = _largest(case)
    plain = [tokens_.Token(text) for text in texts]
    shown = tokens_.coloured(texts, case.a, largest, case.kept)
    left = tokens_.greyed(texts, case.removed)
    for axis, written in zip(axes, (plain, shown, left), strict=False):
        tokens_.write(axis, written, lines)
    scale = ScalarMappable(Normalize(-largest, largest), DIVERGING_MAP)
    figure.colorbar(scale, cax=grid["bar"], label="attribution", location="bottom")
    return axes


def _by_sign(case: _Case) -> list[str]:
    """Return red for positive and blue for negative, as the maps of images have it."""
    return ["#b2182b" if value > 0 else "#2166ac" for value in case.a]
