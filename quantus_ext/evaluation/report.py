"""An evaluation as a page and as a section of a model card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from quantus_ext.evaluation import pictures
from quantus_ext.evaluation.tables import markdown, number, numbers, plain
from quantus_ext.flags import MEANINGS, Flag
from quantus_ext.plotting import plot_agreement
from quantus_ext.spaces import NAMES

if TYPE_CHECKING:
    from quantus_ext.evaluation.failure import Failure
    from quantus_ext.evaluation.ranking import Ranked, Ranking
    from quantus_ext.evaluation.result import Evaluation


_MOST_CLASSES = 20
"""Of which means are shown class by class."""


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
    several = _several(evaluation)
    what = (
        f"Means over {which} samples with {evaluation.confidence:.0%} intervals; {best}. Metrics "
        f"do not compare with each other.{_shown(several)}"
        f"{_shown(_left_out(evaluation, ranking))}"
        f"{_shown(_stopped(evaluation))}"
    )
    lines = ["## Faithfulness of explanations", what, markdown(header, rows)]
    if evaluation.failures:
        lines += [
            "Failed:",
            "\n".join(f"- {plain(line)}" for _, line in _distinct(evaluation.failures)),
        ]
    arbitrary = _arbitrary(evaluation)
    if arbitrary:
        lines += [
            "Where scores are arbitrary, of which none is left out:",
            "\n".join(f"- {plain(line)}" for line in arbitrary),
        ]
    spaces = _spaces(evaluation)
    if spaces:
        lines += [
            "Which output the maps fit, as far as the metrics' own evaluations tell:",
            "\n".join(f"- {plain(line)}" for line in spaces),
        ]
    if evaluation.cards:
        lines += [
            "What the metrics measure:",
            "\n".join(f"- **{plain(n)}**: {c.summary()}" for n, c in evaluation.cards.items()),
        ]
    about = "; ".join(f"{name}: {value}" for name, value in _about(evaluation))
    if about:
        lines.append(plain(f"Made with {about}."))
    return "\n\n".join(lines) + "\n"


def _shown(sentence: str) -> str:
    """Return a sentence that follows another one as it shows in Markdown."""
    return f" {plain(sentence)}" if sentence else ""


def _several(evaluation: Evaluation) -> str:
    """Say that scores are means over several classes, if they are."""
    if evaluation.classes is None:
        return ""
    k = evaluation.classes.shape[1]
    return f"A sample's score is the mean over its {k} explained classes."


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
    mean, low, high = _written(row)
    text = f"{mean} ({low} to {high})"
    if stopped:
        text += f", n = {row.n:,}"
    return f"**{text}**" if _leads(row, ranking) else text


def _written(row: Ranked) -> tuple[str, ...]:
    """Return a mean and both ends of its interval as text."""
    return numbers(row.mean, row.low, row.high)


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


def _arbitrary(evaluation: Evaluation) -> list[str]:
    """Say of each explainer on how many samples something makes scores arbitrary."""
    told = []
    for (explainer, name), found in evaluation.flagged().groupby(["explainer", "flag"], sort=False):
        by = ", ".join(f"{m} {n:,}" for m, n in zip(found.metric, found.samples, strict=True))
        told.append(f"{explainer}: {MEANINGS[Flag[name]]} (samples by {by})")
    return told


def _spaces(evaluation: Evaluation) -> list[str]:
    """Say of each explainer which space its maps explain, by the metrics that know."""
    told = []
    for explainer, found in evaluation.spaces().groupby("explainer", sort=False):
        by = []
        for row in found.itertuples():
            name = "none" if row.space is None else NAMES[row.space]
            left = "" if row.space is None else f" ({number(getattr(row, row.space))} unexplained)"
            other = f", while the {NAMES[row.scored]} is scored" if row.warning else ""
            by.append(f"{row.metric}: {name}{left}{other}")
        told.append(f"{explainer} – {'; '.join(by)}")
    return told


def _by_class(evaluation: Evaluation) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """Return tables of means by class, metric by metric; none for one class, or too many."""
    if evaluation.classes is None or len(np.unique(evaluation.classes)) > _MOST_CLASSES:
        return []
    found = evaluation.by_class()
    tables = []
    for metric in evaluation.metrics:
        means = found[found["metric"] == metric].pivot(
            index="explainer", columns="class", values="mean"
        )
        rows = [(each, list(numbers(*means.loc[each].tolist()))) for each in evaluation.explainers]
        tables.append((metric, [str(label) for label in means.columns], rows))
    return tables


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
    by_cell = {(row.explainer, row.metric): row for row in ranking.rows}
    n_rows, seconds = f"{evaluation.n_rows:,}", f"{evaluation.seconds.sum():,.0f}"
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=f"{evaluation.n:,} samples, {len(evaluation.explainers)} explainers, "
            f"{len(evaluation.metrics)} metrics",
            cost=f"{int(evaluation.n_evaluations.sum()):,} evaluations of the model, for which "
            f"{n_rows} rows were sent, {seconds} s of work.",
            failures=_distinct(evaluation.failures),
            left_out=_left_out(evaluation, ranking),
            stopped=_stopped(evaluation),
            several=_several(evaluation),
            by_class=_by_class(evaluation),
            confidence=f"{evaluation.confidence:.0%}",
            titles=[_titled(evaluation, metric) for metric in evaluation.metrics],
            overview=[
                (explainer, [by_cell[explainer, metric] for metric in evaluation.metrics])
                for explainer in evaluation.explainers
            ],
            leaders=[row for row in ranking.rows if _leads(row, ranking)],
            metrics=[_metric(evaluation, ranking, metric) for metric in evaluation.metrics],
            agreement=_agreement(evaluation),
            arbitrary=_arbitrary(evaluation),
            spaces=_spaces(evaluation),
            cards={name: Markup(card.to_html()) for name, card in evaluation.cards.items()},
            chosen="Evenly spaced" if evaluation.stopping is None else "The first",
            cases=[pictures.shown_case(case, evaluation) for case in evaluation.cases],
            about=_about(evaluation),
        )
    )


def to_cell(evaluation: Evaluation) -> str:
    """Return what a notebook's cell shows: the ranking, what failed, and the cases."""
    return (
        _templates()
        .get_template("cell.html")
        .render(
            samples=f"{evaluation.n:,} samples" if evaluation.n != 1 else "1 sample",
            failed=[
                f"{explainer} by {metric}: {error}"
                for (explainer, metric), error in evaluation.failed_cells().items()
            ],
            ranking=Markup(evaluation.ranking()._repr_html_()),
            cases=[pictures.shown_case(case, evaluation) for case in evaluation.cases],
        )
    )


@cache
def _templates() -> Environment:
    """Return what makes HTML of the templates beside this module; all text is escaped."""
    found = Environment(
        loader=PackageLoader("quantus_ext.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"mean": lambda row: _written(row)[0], "beside": _beside}
    return found


def _metric(evaluation: Evaluation, ranking: Ranking, metric: str) -> dict[str, Any]:
    """Return what is shown of one metric."""
    rows = ranking.of(metric)
    ends = [end for row in rows for end in (row.low, row.high) if np.isfinite(end)]
    limits = (min(ends), max(ends)) if ends else (0.0, 1.0)
    return {
        "name": metric,
        "title": f"{metric} ({evaluation.directions[metric].value} is better)",
        "rows": [(row, _written(row), _interval(row, limits)) for row in rows],
        "spread": pictures.spread(evaluation, metric),
    }


def _beside(row: Ranked) -> str:
    """Return what is to be said of an explainer and others."""
    said = [("tied with", row.ties), ("close to", row.close)]
    return "; ".join(f"{how} {', '.join(names)}" for how, names in said if names)


def _interval(row: Ranked, limits: tuple[float, float]) -> list[str]:
    """Return where low end, mean and high end are drawn, on the scale of their metric."""
    if not np.isfinite(row.low):
        return []
    span = (limits[1] - limits[0]) or 1.0
    return [
        f"{5 + 190 * (value - limits[0]) / span:.1f}" for value in (row.low, row.mean, row.high)
    ]


def _agreement(evaluation: Evaluation) -> str:
    if len(evaluation.metrics) < 2 or len(evaluation.explainers) < 3:
        return ""
    found = evaluation.agreement()
    k = len(found.names)
    figure = Figure(figsize=(2.6 + 0.62 * k, 1.6 + 0.62 * k), layout="constrained")
    plot_agreement(found, ax=figure)
    return pictures.picture(figure)
