"""What pages show of cases and scores: pictures, coloured tokens, rows of a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from quantus_ext.evaluation.tables import number, numbers
from quantus_ext.plotting import COLOURS, STYLES
from quantus_ext.plotting.cases import fullest_slices
from quantus_ext.plotting.figures import DIVERGING_MAP
from quantus_ext.plotting.tokens import Token, coloured

if TYPE_CHECKING:
    from quantus_ext.evaluation.case import Case
    from quantus_ext.evaluation.result import Evaluation

_SVG = {"Date": None, "Creator": None, "Format": None, "Type": None}
"""Nothing about the file in the file, so that equal results make equal pages."""

_MOST_ROWS = 20
"""Columns of a table that are shown."""

_FOR, _AGAINST = "#b2182b", "#2166ac"


class Bar(NamedTuple):
    """A bar from the middle, in percent of the whole width."""

    kind: str
    left: str
    width: str
    label: str

    @classmethod
    def of(cls, value: float, largest: float, kind: str | None = None) -> Bar | None:
        """Return a bar of a value between -largest and largest; None where there is no value."""
        if not np.isfinite(value):
            return None
        length = 50 * min(abs(value) / (largest or 1), 1)
        left = 50 - length if value < 0 else 50
        sign = "for" if value > 0 else "against"
        return cls(kind or sign, f"{left:.1f}", f"{length:.1f}", number(value))


class Row(NamedTuple):
    """A column of a table: what it is called, its value, and bars of this and of all maps."""

    name: str
    value: str
    bars: list[Bar | None]


class Tile(NamedTuple):
    """An input, or an explainer's map of it with its scores."""

    title: str
    scores: list[str]
    images: Sequence[str] = ()
    drawing: bool = False
    broad: bool = False
    tokens: Sequence[Token] = ()


class ShownCase(NamedTuple):
    """One sample with its maps."""

    heading: str
    tiles: list[Tile]
    table: Sequence[Row] = ()
    note: str = ""


def shown_case(case: Case, evaluation: Evaluation) -> ShownCase:
    """Return what is shown of a sample: by its kind an image, slices, lines, tokens or a table."""
    heading = f"Sample {case.index:,}" if case.name is None else case.name
    heading += f", class {case.y if case.class_name is None else case.class_name}"
    scores = {name: _scores(evaluation, case, name) for name in case.maps}
    x = np.asarray(case.x)
    if x.ndim == 1 and case.tokens is None:
        return _table(heading, x, case, scores)
    maps = {name: positions(np.asarray(a, dtype=np.float64), x) for name, a in case.maps.items()}
    if x.ndim == 1:
        return _text(heading, case, maps, scores)
    if x.ndim == 2:
        return _series(heading, x, case, maps, scores)
    if x.ndim == 4:
        return _volume(heading, x, maps, scores)
    tiles = [Tile("input", [], [_image_of(x)])]
    tiles += [Tile(name, scores[name], **_map_of(a)) for name, a in maps.items()]
    return ShownCase(heading, tiles)


def _scores(evaluation: Evaluation, case: Case, explainer: str) -> list[str]:
    lines = []
    for metric in evaluation.metrics:
        place = evaluation.explainers.index(explainer), evaluation.metrics.index(metric), case.index
        score, error = numbers(evaluation.scores[place], evaluation.standard_errors[place])
        shown = f" ± {error}" if evaluation.standard_errors[place] > 0 else ""
        lines.append(f"{metric} {score}{shown}")
    return lines


def positions(a: NDArray[np.float64], x: NDArray[Any]) -> NDArray[np.float64]:
    """Return a map of a sample summed over channels, or over the dimensions of embeddings.

    Parameters
    ----------
    a : numpy.ndarray
        In the shape of the sample, or with one channel or none; of a text also (L, D). A map with
        one value per patch or segment stays as it is.
    x : numpy.ndarray
        The sample, channels first.
    """
    if x.ndim == 1:
        return a.sum(-1) if a.ndim == 2 else a
    return a.sum(0) if a.ndim == x.ndim else a


def _text(
    heading: str,
    case: Case,
    maps: Mapping[str, NDArray[np.float64]],
    scores: Mapping[str, list[str]],
) -> ShownCase:
    """Return the tokens of a text, on the colours of each map."""
    assert case.tokens is not None
    kept = np.zeros(len(case.tokens), dtype=bool) if case.inside is None else ~case.inside
    # Padding at the end says nothing; special tokens between others do.
    end = int(np.flatnonzero(~kept)[-1]) + 1
    texts, kept = case.tokens[:end], kept[:end]
    tiles = []
    for name, values in maps.items():
        shown = values[:end]
        largest = float(np.abs(shown[~kept]).max()) or 1.0
        written = [
            token._replace(background="") if token.background == "none" else token
            for token in coloured(texts, shown, largest, kept)
        ]
        tiles.append(Tile(name, scores[name], tokens=written))
    if not tiles:
        tiles.append(Tile("input", [], tokens=[Token(text, "") for text in texts]))
    return ShownCase(heading, tiles)


def _table(heading: str, x: NDArray[Any], case: Case, scores: Mapping[str, list[str]]) -> ShownCase:
    """Return a row for each column of a table, or for those with the largest attributions."""
    maps = {name: positions(np.asarray(a, dtype=np.float64), x) for name, a in case.maps.items()}
    tiles = [Tile(name, scores[name]) for name in maps]
    # A map with a value for each segment has none for a column.
    values = np.array(
        [a if a.shape == x.shape else np.full(x.shape, np.nan) for a in maps.values()]
    )
    largest = np.array([np.nanmax(np.abs(a), initial=0.0) for a in values])
    deviation = np.full(x.shape, np.nan)
    if case.typical is not None and case.values is None:
        mean, spread = case.typical
        deviation[spread > 0] = ((x - mean)[spread > 0]) / spread[spread > 0]
    chosen = np.arange(len(x))
    if len(x) > _MOST_ROWS and len(values):
        share = np.nan_to_num(np.abs(values) / np.where(largest > 0, largest, 1)[:, None]).max(0)
        chosen = np.sort(np.argsort(-share, kind="stable")[:_MOST_ROWS])
    names = case.feature_names or [f"column {place}" for place in range(len(x))]
    rows = [
        Row(
            names[place],
            number(float(x[place])) if case.values is None else case.values[place],
            [
                Bar.of(float(deviation[place]), 3.0, "value"),
                *(Bar.of(a[place], most) for a, most in zip(values, largest, strict=True)),
            ],
        )
        for place in chosen.tolist()
    ]
    n = len(x)
    note = f"{len(rows)} of {n:,} columns, those with the largest attributions." * (len(rows) < n)
    return ShownCase(heading, tiles, rows, note)


def _series(
    heading: str,
    x: NDArray[Any],
    case: Case,
    maps: Mapping[str, NDArray[np.float64]],
    scores: Mapping[str, list[str]],
) -> ShownCase:
    """Return the lines of a series and bars of its maps, without padding at the end."""
    length = x.shape[1]
    end = length if case.inside is None else int(np.flatnonzero(case.inside)[-1]) + 1
    figure, axes = _small_axes()
    for place, channel in enumerate(x[:, :end]):
        style = STYLES[place // len(COLOURS) % len(STYLES)]
        label = None if case.feature_names is None else case.feature_names[place]
        axes.plot(channel, style, color=COLOURS[place % len(COLOURS)], linewidth=1, label=label)
    if case.feature_names is not None:
        axes.legend(frameon=False, fontsize=7)
    limits = axes.get_xlim()
    tiles = [Tile("input", [], [picture(figure)], drawing=True, broad=True)]
    for name, values in maps.items():
        shown = values[:end] if len(values) == length else values
        drawn = _bars(shown, limits if len(values) == length else None)
        tiles.append(Tile(name, scores[name], [drawn], drawing=True, broad=True))
    return ShownCase(heading, tiles)


def _volume(
    heading: str,
    x: NDArray[Any],
    maps: Mapping[str, NDArray[np.float64]],
    scores: Mapping[str, list[str]],
) -> ShownCase:
    """Return slices one above the other, the same of the volume and of all its maps."""
    depth = x.shape[1]
    # Where the maps have most, each by its own scale.
    whole = [np.abs(a) / (np.abs(a).max() or 1.0) for a in maps.values() if a.shape == x.shape[1:]]
    chosen = fullest_slices(sum(whole, np.zeros(x.shape[1:])))
    limits = (float(x.min()), float(x.max()))
    tiles = [Tile("input", [], [_image_of(x[:, place], limits) for place in chosen])]
    for name, a in maps.items():
        slices = a[chosen] if a.shape == x.shape[1:] else a
        tiles.append(Tile(name, scores[name], **_map_of(slices)))
    places = ", ".join(str(place) for place in chosen.tolist())
    return ShownCase(heading, tiles, note=f"Slices {places} of 0 to {depth - 1}, from the top.")


def _image_of(x: NDArray[Any], limits: tuple[float, float] | None = None) -> str:
    """Return an image (C, H, W), in colour if it has three channels."""
    file = io.BytesIO()
    if len(x) == 3:
        low, high = limits or (x.min(), x.max())
        scaled = (x - low) / ((high - low) or 1.0)
        imsave(file, scaled.transpose(1, 2, 0).astype(np.float64), format="png")
    else:
        low, high = limits or (None, None)
        imsave(file, x.mean(0), cmap="gray_r", vmin=low, vmax=high, format="png")
    return _address(file.getvalue(), "image/png")


def _map_of(a: NDArray[np.float64]) -> dict[str, Any]:
    """Return the picture of a map: its pixels, those of its slices, or bars of segments."""
    if a.ndim == 1:
        return {"images": [_bars(a)], "drawing": True}
    largest = float(np.abs(a).max()) or 1.0
    images = []
    for values in a if a.ndim == 3 else [a]:
        file = io.BytesIO()
        imsave(file, values, cmap=DIVERGING_MAP, vmin=-largest, vmax=largest, format="png")
        images.append(_address(file.getvalue(), "image/png"))
    return {"images": images}


def _small_axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.6, 1.7), layout="constrained")
    axes = figure.subplots()
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure, axes


def _bars(values: NDArray[np.float64], limits: tuple[float, float] | None = None) -> str:
    figure, axes = _small_axes()
    colours = [_FOR if value > 0 else _AGAINST for value in values]
    axes.bar(np.arange(len(values)), values, color=colours, width=1.0)
    axes.axhline(0, color="0.4", linewidth=0.6)
    if limits is not None:
        axes.set_xlim(limits)
    return picture(figure)


def spread(evaluation: Evaluation, metric: str) -> str:
    """Return boxes of the samples' scores by a metric, or nothing where there are none."""
    values = [evaluation.scores_of(explainer, metric) for explainer in evaluation.explainers]
    known = [each[np.isfinite(each)] for each in values]
    if not any(map(len, known)):
        return ""
    figure = Figure(figsize=(4.2, 0.7 + 0.3 * len(known)), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(
        known,
        orientation="horizontal",
        showfliers=False,
        widths=0.6,
        tick_labels=list(evaluation.explainers),
        medianprops={"color": COLOURS[1]},
    )
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(metric)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return picture(figure)


def picture(figure: Figure) -> str:
    """Return a figure as the address of an image, with its content in it."""
    file = io.BytesIO()
    for text in figure.findobj(Text):
        # A name with dollars in it is no formula.
        text.set_parse_math(False)
    with rc_context({"svg.hashsalt": "quantus_ext"}):
        figure.savefig(file, format="svg", metadata=_SVG)
    return _address(file.getvalue(), "image/svg+xml")


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
