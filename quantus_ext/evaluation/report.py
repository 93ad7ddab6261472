"""An evaluation as a page and as a section of a model card."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text

from quantus_ext.evaluation.tables import markdown, number, plain
from quantus_ext.plotting import COLOURS, plot_agreement
from quantus_ext.plotting.figures import DIVERGING_MAP

if TYPE_CHECKING:
    from quantus_ext.evaluation.result import Case, Evaluation, Failure, Ranked, Ranking

_SVG = {"Date": None, "Creator": None, "Format": None, "Type": None}
"""Nothing about the file in the file, so that equal results make equal pages."""

_SLICES = 3
"""Of a volume."""

_STYLE = """
:root { color-scheme: light; --line: #d8dce2; --soft: #f5f6f8; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.2rem; color: #1c2128; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 44rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid var(--line); }
td span, th span { display: block; font-size: .85em; color: #57606a;
  font-weight: normal; }
td.best { background: #e6f2ea; }
.metric { display: grid; gap: .2rem 1.5rem; align-items: start;
  grid-template-columns: minmax(0, 4fr) minmax(0, 3fr); }
.metric h3 { grid-column: 1 / -1; margin-bottom: 0; }
.metric table { width: 100%; }
.metric td:first-child { white-space: normal; overflow-wrap: break-word; }
.metric td:last-child { width: 34%; padding-right: 0; }
.metric svg { display: block; width: 100%; height: 1.4rem; }
img { max-width: 100%; height: auto; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; width: 10rem; }
figure img { width: 100%; border: 1px solid var(--line); }
figure img.pixels { image-rendering: pixelated; }
figcaption { font-size: .85rem; line-height: 1.35; overflow-wrap: anywhere; }
figcaption span { display: block; color: #57606a; }
.failed { background: #fdecea; border-left: 4px solid #b3261e; padding: .6rem 1rem; }
.failed pre { overflow-x: auto; font-size: .8rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem;
  font-size: .9rem; }
dt { color: #57606a; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 48rem) {
  body { padding: .8rem; }
  .metric { grid-template-columns: minmax(0, 1fr); }
  figure { width: calc(50% - .4rem); }
  dl { grid-template-columns: minmax(0, 1fr); }
  dd { margin-bottom: .4rem; }
  th, td { padding: .3rem .25rem; }
  .metric td:last-child { width: 24%; }
}
"""

_NOTES = """
<p>Each number is a mean over samples. The interval says where the mean over all samples like these
lies, with {confidence} confidence; few samples with skewed scores keep less than that, and samples
that all have one score have no interval. Explainers that are <b>tied</b> (=) cannot be told apart
by these samples; where two are not, the difference stands for all pairs of that metric
together.</p>
<p>Ranks compare explainers within a metric. Metrics ask different questions, so their numbers do
not compare with each other, nor with those of another model.</p>
"""


def to_markdown(evaluation: Evaluation) -> str:
    """Return a section for a model card."""
    ranking = evaluation.ranking()
    best = "bold: best, or tied with the best"
    header = ["explainer", *(plain(_titled(evaluation, each)) for each in evaluation.metrics)]
    by_cell = {(row.explainer, row.metric): row for row in ranking.rows}
    stopped = evaluation.stopping is not None
    rows = [
        [
            plain(explainer),
            *(_cell(by_cell[explainer, m], ranking, stopped=stopped) for m in evaluation.metrics),
        ]
        for explainer in evaluation.explainers
    ]
    which = f"n of {evaluation.n:,}" if stopped else f"{evaluation.n:,}"
    what = (
        f"Means over {which} samples with {evaluation.confidence:.0%} intervals; {best}. Metrics "
        f"do not compare with each other.{_shown(_left_out(evaluation, ranking))}"
        f"{_shown(_stopped(evaluation))}"
    )
    lines = ["## Faithfulness of explanations", what, markdown(header, rows)]
    if evaluation.failures:
        lines += [
            "Failed:",
            "\n".join(f"- {plain(line)}" for _, line in _distinct(evaluation.failures)),
        ]
    about = "; ".join(f"{name}: {value}" for name, value in _about(evaluation))
    if about:
        lines.append(plain(f"Made with {about}."))
    return "\n\n".join(lines) + "\n"


def _shown(sentence: str) -> str:
    """Return a sentence that follows another one as it shows in Markdown."""
    return f" {plain(sentence)}" if sentence else ""


def _left_out(evaluation: Evaluation, ranking: Ranking) -> str:
    """Say where fewer samples than all count, because some have no score."""
    if evaluation.stopping is not None:
        return ""
    counts = {m: max(row.n for row in ranking.of(m)) for m in evaluation.metrics}
    fewer = [f"{m} counts {n:,}" for m, n in counts.items() if 0 < n < evaluation.n]
    if not fewer:
        return ""
    return f" Samples that an explainer has no score for are left out: {', '.join(fewer)}."


def _stopped(evaluation: Evaluation) -> str:
    """Say what follows from a run that ended early."""
    stopping = evaluation.stopping
    if stopping is None:
        return ""
    rule = stopping.rule
    sentences = [
        "The run ended when the ranking was known.",
        "Samples were scored in random order.",
        "An explainer was left out of a metric once it was told apart from every other one.",
        f"All verdicts hold together with {evaluation.confidence:.0%} confidence.",
        "Intervals allow for the looking.",
        "Ranks come from pairs, on the samples that both have; means may rest on different ones.",
    ]
    if rule.smallest_difference:
        sizes = [f"{number(size)} by {name}" for name, size in rule.smallest_difference.items()]
        sentences.append(f"≈: known to differ by less than {', '.join(sizes)}.")
    unbounded = [name for name in evaluation.metrics if name not in rule.bounds]
    if unbounded:
        sentences.append(f"Scores of {', '.join(unbounded)} have no bounds: there, approximately.")
    return " ".join(sentences)


def _titled(evaluation: Evaluation, metric: str) -> str:
    arrow = {"higher": "↑", "lower": "↓"}.get(evaluation.directions[metric].value, "")
    return f"{metric} {arrow}".strip()


def _cell(row: Ranked, ranking: Ranking, *, stopped: bool) -> str:
    if row.n == 0:
        return "–"
    text = f"{number(row.mean)} ({number(row.low)} to {number(row.high)})"
    if stopped:
        text += f", n = {row.n:,}"
    return f"**{text}**" if _leads(row, ranking) else text


def _leads(row: Ranked, ranking: Ranking) -> bool:
    """Whether a row is the best of its metric or tied with it."""
    best = ranking.of(row.metric)[0]
    return row.n > 0 and (row.rank == 1 or best.explainer in (*row.ties, *row.close))


def _distinct(failures: Sequence[Failure]) -> list[tuple[Failure, str]]:
    """Return the first of those that say the same of one explainer, and what is to be told."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.explainer, failure.error), []).append(failure)
    told = []
    for group in groups.values():
        first = group[0]
        metrics = ", ".join(dict.fromkeys(failure.metric for failure in group))
        where = f"first on samples {first.start:,}–{first.stop - 1:,}"
        told.append((first, f"{first.explainer} by {metrics}: {first.error} ({where})"))
    return told


def _about(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return how it was made: versions, seed, hashes."""
    settings = evaluation.settings
    shown = [(name, str(value)) for name, value in settings.get("versions", {}).items()]
    shown += [(name, str(settings[name])) for name in ("seed", "batch_size") if name in settings]
    shown += [
        (f"draws of {name}", f"{found['n']} ({found['reason']})")
        for name, found in settings.get("draws", {}).items()
    ]
    shown += [
        (name, str(settings[name])[:16])
        for name in ("model", "x_batch", "y_batch", "s_batch")
        if settings.get(name) is not None
    ]
    return shown


def to_html(evaluation: Evaluation) -> str:
    """Return a page with everything in it: no scripts, nothing fetched."""
    ranking = evaluation.ranking()
    title = (
        f"{evaluation.n:,} samples, {len(evaluation.explainers)} explainers, "
        f"{len(evaluation.metrics)} metrics"
    )
    cost = (
        f"{int(evaluation.n_evaluations.sum()):,} evaluations of the model, for which "
        f"{evaluation.n_rows:,} rows were sent, {evaluation.seconds.sum():,.0f} s of work."
    )
    best = f"Mean and rank; green: best, or tied with the best.{_left_out(evaluation, ranking)}"
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{cost}</p>",
        _failures(evaluation),
        "<h2>Overview</h2>",
        f"<p>{escape(best)}</p>",
        f"<p>{escape(_stopped(evaluation))}</p>" if evaluation.stopping else "",
        _overview(evaluation, ranking),
        "<h2>Metric by metric</h2>",
        "<p>Bars: the intervals of the means. Boxes: the scores, sample by sample.</p>",
        *(_metric(evaluation, ranking, metric) for metric in evaluation.metrics),
        _agreement(evaluation),
        _cases(evaluation),
        "<h2>How to read it</h2>",
        _NOTES.format(confidence=f"{evaluation.confidence:.0%}"),
        "<h2>How it was made</h2>",
        _definitions(_about(evaluation)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>Evaluation of explanations</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, wide: bool = True) -> str:
    """Return a table of what is HTML already; a wide one scrolls by itself."""
    head = "".join(f"<th>{name}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide">{table}</div>' if wide else table


def _td(text: str, *, kind: str = "", below: str = "") -> str:
    shown = f' class="{kind}"' if kind else ""
    more = f"<span>{escape(below)}</span>" if below else ""
    return f"<td{shown}>{escape(text)}{more}</td>"


def _overview(evaluation: Evaluation, ranking: Ranking) -> str:
    by_cell = {(row.explainer, row.metric): row for row in ranking.rows}
    rows = []
    for explainer in evaluation.explainers:
        cells = [_td(explainer)]
        for metric in evaluation.metrics:
            row = by_cell[explainer, metric]
            text = "–" if row.n == 0 else f"{number(row.mean)}  ({row.shown_rank})"
            below = f"{row.n:,} samples" if evaluation.stopping and row.n else ""
            cells.append(_td(text, kind="best" if _leads(row, ranking) else "", below=below))
        rows.append(cells)
    return _table(["", *(escape(_titled(evaluation, m)) for m in evaluation.metrics)], rows)


def _metric(evaluation: Evaluation, ranking: Ranking, metric: str) -> str:
    rows = ranking.of(metric)
    ends = [end for row in rows for end in (row.low, row.high) if np.isfinite(end)]
    limits = (min(ends), max(ends)) if ends else (0.0, 1.0)
    direction = evaluation.directions[metric].value
    cells = [
        [
            _td(row.explainer, below=_beside(row)),
            _td(row.shown_rank),
            _td(
                number(row.mean), below=f"{number(row.low)} to {number(row.high)}" if row.n else ""
            ),
            f"<td>{_interval(row, limits)}</td>",
        ]
        for row in rows
    ]
    header = ["", "rank", f"mean<span>{ranking.confidence:.0%} interval</span>", ""]
    return (
        f'<section class="metric"><h3>{escape(metric)} ({direction} is better)</h3>'
        f"{_table(header, cells, wide=False)}{_spread(evaluation, metric)}</section>"
    )


def _beside(row: Ranked) -> str:
    """Return what is to be said of an explainer and others."""
    said = [("tied with", row.ties), ("close to", row.close)]
    return "; ".join(f"{how} {', '.join(names)}" for how, names in said if names)


def _interval(row: Ranked, limits: tuple[float, float]) -> str:
    """Return a mean with its interval as a drawing, on the scale of its metric."""
    if not np.isfinite(row.low):
        return ""
    span = (limits[1] - limits[0]) or 1.0
    low, mean, high = (
        5 + 190 * (value - limits[0]) / span for value in (row.low, row.mean, row.high)
    )
    return (
        '<svg viewBox="0 0 200 24" role="img" preserveAspectRatio="none" '
        f'aria-label="{number(row.low)} to {number(row.high)}">'
        '<line x1="5" x2="195" y1="12" y2="12" stroke="#d8dce2"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="12" y2="12" stroke="{COLOURS[0]}" '
        'stroke-width="4"/>'
        f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="4" y2="20" stroke="#1c2128" '
        'stroke-width="2"/></svg>'
    )


def _spread(evaluation: Evaluation, metric: str) -> str:
    """Return boxes of the samples' scores."""
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
    axes.set_xlabel(metric)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return _picture(figure, f"Spread of {metric} over the samples")


def _agreement(evaluation: Evaluation) -> str:
    if len(evaluation.metrics) < 2 or len(evaluation.explainers) < 3:
        return ""
    found = evaluation.agreement()
    k = len(found.names)
    figure = Figure(figsize=(2.6 + 0.62 * k, 1.6 + 0.62 * k), layout="constrained")
    plot_agreement(found, ax=figure)
    return (
        "<h2>Do the metrics agree?</h2><p>Rank correlation of the explainers' mean scores, turned "
        "so that 1 is agreement.</p>" + _picture(figure, "Rank correlations between the metrics")
    )


def _cases(evaluation: Evaluation) -> str:
    if not evaluation.cases:
        return ""
    parts = [
        "<h2>Cases</h2>",
        "<p>Evenly spaced samples; red speaks for the class, blue against.</p>",
    ]
    for case in evaluation.cases:
        tiles = [_tile(case.x, "input", [], is_map=False)]
        tiles += [
            _tile(maps, explainer, _scores(evaluation, case, explainer), is_map=True)
            for explainer, maps in case.maps.items()
        ]
        parts.append(
            f"<h3>Sample {case.index:,}, class {case.y}</h3>"
            f'<div class="tiles">{"".join(tiles)}</div>'
        )
    return "\n".join(parts)


def _scores(evaluation: Evaluation, case: Case, explainer: str) -> list[str]:
    lines = []
    for metric in evaluation.metrics:
        place = evaluation.explainers.index(explainer), evaluation.metrics.index(metric), case.index
        score, error = evaluation.scores[place], evaluation.standard_errors[place]
        shown = f" ± {error:.2g}" if error > 0 else ""
        lines.append(f"{metric} {number(score)}{shown}")
    return lines


def _tile(values: np.ndarray, title: str, lines: Sequence[str], *, is_map: bool) -> str:
    text = "".join(f"<span>{escape(line)}</span>" for line in lines)
    image = _drawn(np.asarray(values, dtype=np.float64), title, is_map=is_map)
    return f"<figure>{image}<figcaption>{escape(title)}{text}</figcaption></figure>"


def _drawn(values: np.ndarray, title: str, *, is_map: bool) -> str:
    """Draw a sample or a map of it: pixels of an image or of slices of a volume, a line of a
    series, bars of a table.
    """  # noqa: D205 - one sentence
    if values.ndim == 4:
        # Evenly spaced in depth, the same for the sample and all its maps.
        depth = values.shape[1]
        slices = values[:, np.unique((2 * np.arange(_SLICES) + 1) * depth // (2 * _SLICES))]
        values = slices.reshape(len(values), -1, values.shape[3])
    if values.ndim == 3:
        return _pixels(values, title, is_map=is_map)
    figure = Figure(figsize=(2.4, 1.8), layout="constrained")
    axes = figure.subplots()
    if values.ndim == 2 and not is_map:
        for place, channel in enumerate(values):
            axes.plot(channel, color=COLOURS[place % len(COLOURS)], linewidth=1)
    else:
        shown = values.sum(0) if values.ndim == 2 else values
        signs = ["#b2182b" if value > 0 else "#2166ac" for value in shown]
        axes.bar(np.arange(len(shown)), shown, color=signs if is_map else COLOURS[0], width=0.9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _picture(figure, title)


def _pixels(values: np.ndarray, title: str, *, is_map: bool) -> str:
    file = io.BytesIO()
    if is_map:
        shown = values.sum(0)
        largest = float(np.abs(shown).max()) or 1.0
        imsave(file, shown, cmap=DIVERGING_MAP, vmin=-largest, vmax=largest, format="png")
    elif len(values) == 3:
        low, span = values.min(), np.ptp(values) or 1.0
        imsave(file, ((values - low) / span).transpose(1, 2, 0), format="png")
    else:
        imsave(file, values.mean(0), cmap="gray_r", format="png")
    return _image(file.getvalue(), "image/png", title, "pixels")


def _picture(figure: Any, title: str) -> str:
    file = io.BytesIO()
    for text in figure.findobj(Text):
        # A name with dollars in it is no formula.
        text.set_parse_math(False)
    with rc_context({"svg.hashsalt": "quantus_ext"}):
        figure.savefig(file, format="svg", metadata=_SVG)
    return _image(file.getvalue(), "image/svg+xml", title)


def _image(content: bytes, kind: str, title: str, name: str = "") -> str:
    data = base64.b64encode(content).decode()
    shown = f' class="{name}"' if name else ""
    return f'<img{shown} alt="{escape(title)}" src="data:{kind};base64,{data}">'


def _failures(evaluation: Evaluation) -> str:
    if not evaluation.failures:
        return ""
    items = "".join(
        f"<li>{escape(line)}<details><summary>where</summary>"
        f"<pre>{escape(failure.traceback)}</pre></details></li>"
        for failure, line in _distinct(evaluation.failures)
    )
    return f'<div class="failed"><b>Failed</b><ul>{items}</ul></div>'


def _definitions(pairs: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{items}</dl>"
