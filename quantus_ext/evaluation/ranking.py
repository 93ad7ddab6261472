"""Explainers ranked by each metric."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantus_ext.evaluation import sequences
from quantus_ext.evaluation.statistics import bounds_of, paired_difference, paired_means, sign_of
from quantus_ext.evaluation.stopping import Stopping, Verdict
from quantus_ext.evaluation.tables import html, markdown, numbers, plain

if TYPE_CHECKING:
    from quantus_ext.evaluation.result import Evaluation


@dataclass(frozen=True)
class Ranked:
    """The rank of one explainer by one metric.

    Attributes
    ----------
    metric, explainer : str
    rank : int or None
        1 is best; ties share it. None for an explainer without scores, or one that failed on some
        samples.
    mean, low, high : float
        Mean and interval over the samples with scores from all ranked explainers; NaN if there are
        none.
    ties : tuple of str
        Explainers that these samples do not separate from it.
    n : int
        The number of these samples; 0 without a rank. If the evaluation ended when the ranking was
        known, the samples of this explainer: ranks then come from pairs, on the samples that both
        have.
    close : tuple of str
        Explainers known to differ from it by less than the smallest difference that matters.
    """

    metric: str
    explainer: str
    rank: int | None
    mean: float
    low: float
    high: float
    ties: tuple[str, ...]
    n: int
    close: tuple[str, ...] = ()

    @property
    def shown_rank(self) -> str:
        """The rank as text, a dash for none.

        ``=`` beside it says that it is tied with another, ``≈`` that it is close to one.
        """
        mark = " =" if self.ties else " ≈" if self.close else ""
        return "–" if self.rank is None else f"{self.rank}{mark}"


@dataclass(frozen=True)
class Ranking:
    """Explainers by mean score, best first, metric by metric.

    Attributes
    ----------
    rows : tuple of Ranked
    confidence : float
        Of each interval, and of all ties of a metric together.
    """

    rows: tuple[Ranked, ...]
    confidence: float

    def of(self, metric: str) -> tuple[Ranked, ...]:
        """Return the rows of one metric."""
        return tuple(row for row in self.rows if row.metric == metric)

    def order(self, metric: str) -> tuple[str, ...]:
        """Return the explainers with a rank by one metric, best first."""
        return tuple(row.explainer for row in self.of(metric) if row.rank is not None)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each metric and explainer."""
        return pd.DataFrame([asdict(row) for row in self.rows]).astype({"rank": "Int64"})

    def to_markdown(self) -> str:
        """Return a table; ``=`` beside a rank says that it is tied with another."""
        return markdown(*self._table(plain))

    def _repr_html_(self) -> str:
        return html(*self._table(str))

    def _table(self, text: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows; names go through ``text``."""
        interval = f"{self.confidence:.0%} interval"
        table = []
        for row in self.rows:
            mean, low, high = numbers(row.mean, row.low, row.high)
            names = [text(row.metric), text(row.explainer)]
            ties = text(", ".join(row.ties))
            table.append([*names, row.shown_rank, mean, f"{low} to {high}", ties])
        return ["metric", "explainer", "rank", "mean", interval, "tied with"], table


def rank(evaluation: Evaluation, *, n_resamples: int, seed: int) -> Ranking:
    """Rank the explainers of an evaluation; see :meth:`quantus_ext.Evaluation.ranking`."""
    rows = []
    for metric in evaluation.metrics:
        if evaluation.stopping is None:
            rows += _ranked(evaluation, metric, n_resamples, seed)
        else:
            rows += _ranked_by_verdicts(evaluation, metric, evaluation.stopping)
    return Ranking(tuple(rows), evaluation.confidence)


def _ranked(evaluation: Evaluation, metric: str, n_resamples: int, seed: int) -> list[Ranked]:
    values = np.stack([evaluation.scores_of(e, metric) for e in evaluation.explainers])
    known = np.isfinite(values)
    there = _ranked_places(evaluation, metric, known)
    shared = known[there].all(0)
    n = int(shared.sum()) if there else 0
    kept = values[there][:, shared]
    if n == 0:
        return _without_rank(metric, evaluation.explainers)
    mean = kept.mean(1)
    ranks = _ranks(sign_of(evaluation.directions[metric]) * mean)
    if n > 1:
        means = paired_means(
            kept,
            confidence=evaluation.confidence,
            n_resamples=n_resamples,
            seed=seed,
            bounds=bounds_of(kept),
        )
        low, high, tied = means.low, means.high, means.tied
    else:
        low = high = np.full(len(kept), np.nan)
        tied = np.ones((len(kept), len(kept)), dtype=bool)
    names = [evaluation.explainers[place] for place in there]
    rows = [
        Ranked(
            metric=metric,
            explainer=names[i],
            rank=int(ranks[i]),
            mean=float(mean[i]),
            low=float(low[i]),
            high=float(high[i]),
            ties=tuple(names[j] for j in range(len(names)) if tied[i, j] and j != i),
            n=n,
        )
        for i in np.argsort(ranks, kind="stable")
    ]
    without = [e for place, e in enumerate(evaluation.explainers) if place not in there]
    return [*rows, *_without_rank(metric, without)]


def _ranked_by_verdicts(evaluation: Evaluation, metric: str, stopping: Stopping) -> list[Ranked]:
    column = evaluation.metrics.index(metric)
    values = evaluation.scores[:, column, stopping.order]
    known, verdicts = np.isfinite(values), stopping.verdicts[column]
    there = _ranked_places(evaluation, metric, known)
    # Pair by pair, because samples differ more than explainers do.
    better = np.zeros((len(values), len(values)), dtype=bool)
    for i, j in itertools.permutations(there, 2):
        verdict = verdicts[i, j]
        if verdict in (Verdict.BETTER, Verdict.WORSE):
            better[i, j] = verdict == Verdict.BETTER
            continue
        both = known[i] & known[j]
        difference = paired_difference(values[i, both], values[j, both])
        better[i, j] = sign_of(evaluation.directions[metric]) * difference.sum() > 0
    rows = []
    for i in there:
        own = values[i, known[i]]
        low, high = sequences.interval(
            own, 1 - evaluation.confidence, stopping.rule.bounds.get(metric)
        )
        rows.append(
            Ranked(
                metric=metric,
                explainer=evaluation.explainers[i],
                rank=1 + int(better[:, i].sum()),
                mean=float(own.mean()),
                low=low,
                high=high,
                ties=tuple(
                    evaluation.explainers[j]
                    for j in there
                    if j != i and verdicts[i, j] == Verdict.OPEN
                ),
                n=len(own),
                close=tuple(
                    evaluation.explainers[j] for j in there if verdicts[i, j] == Verdict.CLOSE
                ),
            )
        )
    rows.sort(key=lambda row: row.rank or 0)
    without = [e for place, e in enumerate(evaluation.explainers) if place not in there]
    return [*rows, *_without_rank(metric, without)]


def _ranked_places(evaluation: Evaluation, metric: str, known: NDArray[np.bool_]) -> list[int]:
    """Return the places of explainers with scores (e, n) that failed on no sample."""
    failed = evaluation.failed_cells()
    return [
        place
        for place, explainer in enumerate(evaluation.explainers)
        if known[place].any() and (explainer, metric) not in failed
    ]


def _without_rank(metric: str, explainers: Iterable[str]) -> list[Ranked]:
    nan = float("nan")
    return [Ranked(metric, explainer, None, nan, nan, nan, (), 0) for explainer in explainers]


def _ranks(better: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return ranks, 1 for the highest; equal values share the best."""
    ranks: NDArray[np.int64] = 1 + (better[None] > better[:, None]).sum(1)
    return ranks
