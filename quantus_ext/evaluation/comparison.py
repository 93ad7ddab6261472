"""Two explainers compared sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantus_ext.evaluation import sequences
from quantus_ext.evaluation.statistics import (
    bounds_of,
    holm,
    paired_difference,
    paired_means,
    paired_test,
    sign_of,
)
from quantus_ext.evaluation.tables import html, markdown, number, numbers, plain

if TYPE_CHECKING:
    from quantus_ext.evaluation.result import Evaluation


@dataclass(frozen=True)
class Compared:
    """Two explainers by one metric, sample by sample.

    Attributes
    ----------
    metric : str
    mean_a, mean_b : float
    difference, low, high : float
        Mean difference with its interval; positive if ``a`` is better.
    p_value : float
        Of a permutation test, corrected for the number of metrics.
    effect : float
        The difference in units of its standard deviation over samples.
    share : float
        Share of samples on which ``a`` is better; ties count half.
    n : int
        Samples with both scores.
    """

    metric: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    effect: float
    share: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Two explainers, metric by metric.

    Attributes
    ----------
    a, b : str
    rows : tuple of Compared
    confidence : float
        Of each interval.
    """

    a: str
    b: str
    rows: tuple[Compared, ...]
    confidence: float

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each metric."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_markdown(self) -> str:
        """Return a table; positive differences say that ``a`` is better."""
        return markdown(*self._table(plain))

    def _repr_html_(self) -> str:
        return html(*self._table(str))

    def _table(self, text: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows; names go through ``text``."""
        header = [
            *("metric", text(self.a), text(self.b), text(f"{self.a} better by")),
            *(f"{self.confidence:.0%} interval", "p", "effect", "samples better"),
        ]
        table = []
        for row in self.rows:
            difference, low, high = numbers(row.difference, row.low, row.high)
            share = "–" if math.isnan(row.share) else f"{row.share:.0%}"
            means = [*numbers(row.mean_a, row.mean_b), difference, f"{low} to {high}"]
            table.append([text(row.metric), *means, number(row.p_value), number(row.effect), share])
        return header, table


def compare(evaluation: Evaluation, a: str, b: str, *, n_resamples: int, seed: int) -> Comparison:
    """Compare two explainers; see :meth:`quantus_ext.Evaluation.compare`."""
    rows = []
    for metric in evaluation.metrics:
        first, second = evaluation.scores_of(a, metric), evaluation.scores_of(b, metric)
        if evaluation.stopping is not None:
            first, second = first[evaluation.stopping.order], second[evaluation.stopping.order]
        both = np.isfinite(first) & np.isfinite(second)
        rows.append(_compared(evaluation, metric, first[both], second[both], n_resamples, seed))
    corrected = holm([row.p_value for row in rows])
    rows = [replace(row, p_value=float(p)) for row, p in zip(rows, corrected, strict=True)]
    return Comparison(a, b, tuple(rows), evaluation.confidence)


def _compared(
    evaluation: Evaluation,
    metric: str,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    n_resamples: int,
    seed: int,
) -> Compared:
    n, nan = len(first), float("nan")
    difference = sign_of(evaluation.directions[metric]) * paired_difference(first, second)
    low = high = p = effect = nan
    if n > 1:
        if evaluation.stopping is not None:
            reach = evaluation.stopping.rule.reach(metric)
            low, high = sequences.interval(difference, 1 - evaluation.confidence, reach)
            p = sequences.p_value(difference, reach)
        else:
            bounds = bounds_of([first, second])
            # From the best answer of one with the worst of the other to the opposite.
            reach = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
            means = paired_means(
                difference[None],
                confidence=evaluation.confidence,
                n_resamples=n_resamples,
                seed=seed,
                bounds=reach,
            )
            low, high = float(means.low[0]), float(means.high[0])
            p = paired_test(difference, n_resamples=n_resamples, seed=seed)
        spread = difference.std(ddof=1)
        if spread > 0:
            effect = float(difference.mean() / spread)
    return Compared(
        metric=metric,
        mean_a=float(first.mean()) if n else nan,
        mean_b=float(second.mean()) if n else nan,
        difference=float(difference.mean()) if n else nan,
        low=low,
        high=high,
        p_value=p,
        effect=effect,
        share=float((difference > 0).mean() + (difference == 0).mean() / 2) if n else nan,
        n=n,
    )
