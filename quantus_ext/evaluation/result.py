"""The result of an evaluation: scores, rankings, comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from quantus.helpers.enums import ScoreDirection

from quantus_ext import checks
from quantus_ext.card import Card
from quantus_ext.evaluation import sequences
from quantus_ext.evaluation.statistics import (
    bounds_of,
    holm,
    paired_difference,
    paired_means,
    paired_test,
)
from quantus_ext.evaluation.stopping import Stopping, Verdict
from quantus_ext.evaluation.tables import html, markdown, number, numbers, plain
from quantus_ext.files import DamagedError, OtherFormatError, sealed_json, unsealed_json, write_text
from quantus_ext.flags import Flag
from quantus_ext.shown import ShownByArguments, short

if TYPE_CHECKING:
    from quantus_ext.evaluation.drift import Drift
    from quantus_ext.protocols import MetricAgreement

_FORMAT = 3


@dataclass(frozen=True)
class Failure:
    """The error that a metric or an explainer raised on some samples.

    Attributes
    ----------
    explainer, metric : str
    start, stop : int
        The samples of the shard.
    error, traceback : str
    """

    explainer: str
    metric: str
    start: int
    stop: int
    error: str
    traceback: str


@dataclass(frozen=True, repr=False)
class Case(ShownByArguments):
    """A sample to show.

    Attributes
    ----------
    index : int
    x : numpy.ndarray
    y : int
    maps : dict of str to numpy.ndarray
        Attributions by explainer.
    name, class_name : str, optional
        Of the sample, and of the explained class.
    tokens : tuple of str, optional
        Of a text, one for each id.
    feature_names : tuple of str, optional
        Of the columns of a table, or of the channels of a series.
    values : tuple of str, optional
        The values of a row of a data frame, as it has them.
    typical : tuple of two numpy.ndarray, optional
        Mean and standard deviation of a table's columns.
    inside : numpy.ndarray of bool, optional
        Which positions metrics remove or count; padding is not.
    """

    index: int
    x: np.ndarray
    y: int
    maps: Mapping[str, np.ndarray]
    name: str | None = None
    class_name: str | None = None
    tokens: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    typical: tuple[np.ndarray, np.ndarray] | None = None
    inside: np.ndarray | None = None


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


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of e explainers by m metrics on n samples.

    Attributes
    ----------
    explainers, metrics : tuple of str
    directions : mapping of str to ScoreDirection
        Whether lower or higher scores of a metric are better.
    scores, standard_errors : numpy.ndarray, shape (e, m, n)
        NaN where a metric failed; standard errors are also NaN where they are unknown.
    flags : numpy.ndarray of int, shape (e, m, n)
        What makes scores arbitrary, sums of :class:`quantus_ext.flags.Flag`; see
        :meth:`flagged`.
    n_evaluations : numpy.ndarray of int, shape (e, m)
        Rows that the scores of a cell are based on, as if it were computed alone.
    seconds : numpy.ndarray, shape (e, m)
        Time of the workers.
    failures : tuple of Failure
    settings : dict
        Versions, seeds, settings, and content hashes of model and data.
    confidence : float
        Of the intervals.
    cases : tuple of Case
        Samples to show; none after :meth:`from_json`.
    columns : tuple of (str, str)
        The metric and the call behind each of ``metrics``.
    n_rows : int
        Distinct rows actually sent through the model for the metrics.
    stopping : Stopping or None
        Where it stopped, if it ended when the ranking was known (``until="ranked"``): scores of
        samples that were not needed are NaN.
    carry_inputs : tuple of bool or None
        For each explainer, whether its maps were taken to include the input factor; None if each
        metric decided.
    cards : mapping of str to Card
        What the numbers of each of ``metrics`` mean; empty for :meth:`of_scores`.
    agg_func : callable, optional
        For :meth:`to_dict`.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus.helpers.enums import ScoreDirection
    >>> from quantus_ext import Evaluation
    >>> noise = np.random.default_rng(0).normal(scale=0.1, size=(2, 1, 30))
    >>> evaluation = Evaluation.of_scores(
    ...     {"A": {"Deletion": noise[0, 0]}, "B": {"Deletion": 1 + noise[1, 0]}},
    ...     {"Deletion": "lower"},
    ... )
    >>> evaluation.ranking().order("Deletion")
    ('A', 'B')
    >>> evaluation.compare("A", "B").rows[0].share
    1.0
    """

    explainers: tuple[str, ...]
    metrics: tuple[str, ...]
    directions: Mapping[str, ScoreDirection]
    scores: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    flags: NDArray[np.int64]
    n_evaluations: NDArray[np.int64]
    seconds: NDArray[np.float64]
    failures: tuple[Failure, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    confidence: float = 0.95
    cases: tuple[Case, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    n_rows: int = 0
    carry_inputs: tuple[bool | None, ...] = ()
    stopping: Stopping | None = None
    cards: Mapping[str, Card] = field(default_factory=dict)
    agg_func: Callable[..., Any] | None = None

    @classmethod
    def of_scores(
        cls,
        scores: Mapping[str, Mapping[str, Sequence[float] | NDArray[np.float64]]],
        directions: Mapping[str, str | ScoreDirection],
        *,
        confidence: float = 0.95,
    ) -> Evaluation:
        """Make one from existing scores, as ``quantus.evaluate`` returns them.

        Parameters
        ----------
        scores : dict of explainer to dict of metric to n scores
        directions : dict of metric to {"higher", "lower"} or ScoreDirection
        confidence : float, default 0.95
        """
        named = {
            explainer: checks.mapping(f"scores[{explainer!r}]", cells)
            for explainer, cells in checks.mapping("scores", scores).items()
        }
        explainers = tuple(named)
        metrics = tuple(next(iter(named.values()), {}))
        if not metrics or any(set(cells) != set(metrics) for cells in named.values()):
            raise ValueError(
                "scores must hold the same metrics for each explainer, at least one, hold "
                f"{checks.shown({e: list(cells) for e, cells in named.items()})}"
            )
        directions = checks.mapping("directions", directions)
        for metric in metrics:
            given = _value(directions.get(metric))
            checks.one_of(f"directions[{metric!r}]", given, [d.value for d in ScoreDirection])
        confidence = checked_confidence(confidence)
        cells = [
            [checks.column(f"scores[{e!r}][{m!r}]", named[e][m]) for m in metrics]
            for e in explainers
        ]
        shapes = {each.shape for row in cells for each in row}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1 or shapes == {(0,)}:
            raise ValueError(
                f"scores must have one number for each sample, have shapes {sorted(shapes)}"
            )
        values = np.array(cells)
        return cls(
            explainers=explainers,
            metrics=metrics,
            directions={m: ScoreDirection(_value(directions[m])) for m in metrics},
            scores=values,
            standard_errors=np.full_like(values, np.nan),
            flags=np.zeros(values.shape, dtype=np.int64),
            n_evaluations=np.zeros(values.shape[:2], dtype=np.int64),
            seconds=np.zeros(values.shape[:2]),
            confidence=confidence,
            columns=tuple((metric, "") for metric in metrics),
        )

    def __repr__(self) -> str:
        failed = f", failed_cells={len(self._failed)}" if self.failures else ""
        return (
            f"Evaluation(explainers={short([*self.explainers])}, "
            f"metrics={short([*self.metrics])}, n={self.n}{failed})"
        )

    def _repr_html_(self) -> str:
        """Return the ranking with its intervals, and the cases, for a notebook's cell."""
        from quantus_ext.evaluation.report import to_cell

        return to_cell(self)

    def plot(
        self,
        metrics: Sequence[str] | None = None,
        *,
        show: bool = True,
        path_to_save: str | Path | None = None,
    ) -> None:
        """Draw the means of all explainers with their intervals, one panel per metric.

        Parameters
        ----------
        metrics : sequence of str, optional
            Metrics to draw; all by default.
        show : bool, default True
            Show it in a window or notebook.
        path_to_save : str or path, optional
            Where it is saved, at 400 dots per inch.

        Raises
        ------
        ValueError
            If ``metrics`` is empty or names one that there is not.

        Examples
        --------
        >>> import tempfile
        >>> from quantus_ext import Evaluation
        >>> evaluation = Evaluation.of_scores(
        ...     {"A": {"MoRF": [0.5, 0.6, 0.9]}, "B": {"MoRF": [0.1, 0.3, 0.2]}}, {"MoRF": "higher"}
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     evaluation.plot(show=False, path_to_save=f"{folder}/means.png")
        """
        from quantus_ext.plotting import figures, plot_ranking

        figures.draw(plot_ranking, self, metrics, show=show, path_to_save=path_to_save)

    @property
    def n(self) -> int:
        """Samples."""
        return int(self.scores.shape[2])

    def scores_of(self, explainer: str, metric: str) -> NDArray[np.float64]:
        """Return the scores of a cell, shape (n,)."""
        checks.one_of("explainer", explainer, self.explainers)
        checks.one_of("metric", metric, self.metrics)
        values: NDArray[np.float64] = self.scores[
            self.explainers.index(explainer), self.metrics.index(metric)
        ]
        return values

    def scores_asked(self, explainer: str, metric: str) -> NDArray[np.float64]:
        """Return the scores of a cell without those that the ranking did not need.

        They are in the order in which the samples were scored.
        """
        scores = self.scores_of(explainer, metric)
        if self.stopping is None:
            return scores
        place = self.explainers.index(explainer), self.metrics.index(metric)
        return scores[self.stopping.order[: self.stopping.counts[place]]]

    def flagged(self) -> pd.DataFrame:
        """Return on how many samples something makes scores arbitrary; no score is left out for it.

        Returns
        -------
        pandas.DataFrame
            Columns explainer, flag, metric and samples; see :class:`quantus_ext.flags.Flag`.

        Examples
        --------
        >>> import numpy as np, torch, quantus_ext
        >>> evaluation = quantus_ext.evaluate(
        ...     {"INFD": quantus_ext.Infidelity(n_perturb_samples=8)},
        ...     {"nothing": np.zeros((3, 4)), "random": np.random.default_rng(0).random((3, 4))},
        ...     torch.nn.Linear(4, 2).eval(),
        ...     np.ones((3, 4), dtype="float32"),
        ...     np.zeros(3, dtype=int),
        ... )
        >>> evaluation.flagged().to_dict("records")
        [{'explainer': 'nothing', 'flag': 'ZERO_MAP', 'metric': 'INFD', 'samples': 3}]
        """
        rows = [
            (explainer, flag.name, metric, count)
            for e, explainer in enumerate(self.explainers)
            for flag in Flag
            for m, metric in enumerate(self.metrics)
            if (count := int(((self.flags[e, m] & int(flag)) > 0).sum()))
        ]
        return pd.DataFrame(rows, columns=["explainer", "flag", "metric", "samples"])

    def _sign(self, metric: str) -> int:
        return -1 if self.directions[metric] is ScoreDirection.LOWER else 1

    def means(self) -> pd.DataFrame:
        """Return mean scores, explainers × metrics, over the samples that have one."""
        with np.errstate(invalid="ignore"):
            known = np.isfinite(self.scores)
            total = np.where(known, self.scores, 0).sum(2)
            means = total / known.sum(2)
        return pd.DataFrame(means, index=list(self.explainers), columns=list(self.metrics))

    def _means_of_shared(self) -> pd.DataFrame:
        """Return mean scores over the samples that all explainers with scores have one for."""
        known = np.isfinite(self.scores)
        there = np.any(known, axis=2)
        shared = np.where(there[..., None], known, True).all(0) & there.any(0)[:, None]
        with np.errstate(invalid="ignore"):
            means = np.where(shared, self.scores, 0).sum(2) / shared.sum(1)
        means[~there] = np.nan
        return pd.DataFrame(means, index=list(self.explainers), columns=list(self.metrics))

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy table: sample, explainer, metric, score, standard_error."""
        e, m, n = self.scores.shape
        return pd.DataFrame(
            {
                "sample": np.tile(np.arange(n), e * m),
                "explainer": _repeated(self.explainers, m * n, 1),
                "metric": _repeated(self.metrics, n, e),
                "score": self.scores.ravel(),
                "standard_error": self.standard_errors.ravel(),
            }
        )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the result of ``quantus.evaluate``: explainer, metric, scores.

        With several calls, their names are another level. Scores are lists, or what ``agg_func``
        returns.
        """
        several = len({call for _, call in self.columns}) > 1
        result: dict[str, dict[str, Any]] = {}
        for row, explainer in enumerate(self.explainers):
            cells: dict[str, Any] = {}
            for column, (metric, call) in enumerate(self.columns):
                scores: Any = self.scores[row, column].tolist()
                value = scores if self.agg_func is None else self.agg_func(scores)
                if several:
                    cells.setdefault(metric, {})[call] = value
                else:
                    cells[metric] = value
            result[explainer] = cells
        return result

    def as_quantus_frame(self) -> pd.DataFrame:
        """Return :meth:`to_dict` as the data frame of ``quantus.evaluate``."""
        if len({call for _, call in self.columns}) > 1:
            raise ValueError("return_as_df needs one call, call_kwargs has several")
        return pd.DataFrame.from_dict(self.to_dict())

    def ranking(self, *, n_resamples: int = 2000, seed: int = 0) -> Ranking:
        """Rank the explainers by each metric, with intervals and ties.

        Intervals are for the mean over the population of samples, and include the Monte-Carlo
        errors of scores. Two explainers are tied unless their difference is significant, for all
        pairs of a metric together; see ``quantus_ext.evaluation.statistics.paired_means``. An
        explainer that failed on any sample has no rank, and its failed samples still count for
        others.

        If the evaluation ended when the ranking was known, the verdicts on all pairs hold together
        for all metrics, and intervals account for the repeated looks; see ``stopping``.

        Parameters
        ----------
        n_resamples : int, default 2000
            Of the bootstrap and of the test.
        seed : int, default 0

        Returns
        -------
        Ranking
        """
        n_resamples = checks.positive_integer("n_resamples", n_resamples)
        seed = checks.fixed_seed("seed", seed)
        rows = []
        for metric in self.metrics:
            if self.stopping is None:
                rows += self._ranked(metric, n_resamples, seed)
            else:
                rows += self._ranked_by_verdicts(metric, self.stopping)
        return Ranking(tuple(rows), self.confidence)

    def _ranked(self, metric: str, n_resamples: int, seed: int) -> list[Ranked]:
        values = np.stack([self.scores_of(e, metric) for e in self.explainers])
        known = np.isfinite(values)
        failed = self._failed
        there = [
            place
            for place, explainer in enumerate(self.explainers)
            if known[place].any() and (explainer, metric) not in failed
        ]
        shared = known[there].all(0)
        n = int(shared.sum()) if there else 0
        kept = values[there][:, shared]
        nan = float("nan")
        if n == 0:
            return [Ranked(metric, e, None, nan, nan, nan, (), 0) for e in self.explainers]
        mean = kept.mean(1)
        ranks = _ranks(self._sign(metric) * mean)
        if n > 1:
            means = paired_means(
                kept,
                confidence=self.confidence,
                n_resamples=n_resamples,
                seed=seed,
                bounds=bounds_of(kept),
            )
            low, high, tied = means.low, means.high, means.tied
        else:
            low = high = np.full(len(kept), nan)
            tied = np.ones((len(kept), len(kept)), dtype=bool)
        names = [self.explainers[place] for place in there]
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
        without = [e for place, e in enumerate(self.explainers) if place not in there]
        return [*rows, *(Ranked(metric, e, None, nan, nan, nan, (), 0) for e in without)]

    def _ranked_by_verdicts(self, metric: str, stopping: Stopping) -> list[Ranked]:
        column = self.metrics.index(metric)
        values = self.scores[:, column, stopping.order]
        known, verdicts = np.isfinite(values), stopping.verdicts[column]
        there = [
            place
            for place, explainer in enumerate(self.explainers)
            if known[place].any() and (explainer, metric) not in self._failed
        ]
        # Pair by pair, because samples differ more than explainers do.
        better = np.zeros((len(values), len(values)), dtype=bool)
        for i, j in itertools.permutations(there, 2):
            verdict = verdicts[i, j]
            if verdict in (Verdict.BETTER, Verdict.WORSE):
                better[i, j] = verdict == Verdict.BETTER
                continue
            both = known[i] & known[j]
            difference = paired_difference(values[i, both], values[j, both])
            better[i, j] = self._sign(metric) * difference.sum() > 0
        rows = []
        for i in there:
            own = values[i, known[i]]
            low, high = sequences.interval(
                own, 1 - self.confidence, stopping.rule.bounds.get(metric)
            )
            rows.append(
                Ranked(
                    metric=metric,
                    explainer=self.explainers[i],
                    rank=1 + int(better[:, i].sum()),
                    mean=float(own.mean()),
                    low=low,
                    high=high,
                    ties=tuple(
                        self.explainers[j]
                        for j in there
                        if j != i and verdicts[i, j] == Verdict.OPEN
                    ),
                    n=len(own),
                    close=tuple(
                        self.explainers[j] for j in there if verdicts[i, j] == Verdict.CLOSE
                    ),
                )
            )
        rows.sort(key=lambda row: row.rank or 0)
        nan = float("nan")
        without = [e for place, e in enumerate(self.explainers) if place not in there]
        return [*rows, *(Ranked(metric, e, None, nan, nan, nan, (), 0) for e in without)]

    @property
    def _failed(self) -> set[tuple[str, str]]:
        """Cells that failed, on some samples at least."""
        return {(failure.explainer, failure.metric) for failure in self.failures}

    def failed_cells(self) -> dict[tuple[str, str], str]:
        """Return the first error of each cell that failed, by explainer and metric."""
        first: dict[tuple[str, str], str] = {}
        for failure in self.failures:
            first.setdefault((failure.explainer, failure.metric), failure.error)
        return first

    def compare(self, a: str, b: str, *, n_resamples: int = 2000, seed: int = 0) -> Comparison:
        """Compare two explainers sample by sample, by each metric.

        If the evaluation ended when the ranking was known, intervals and p-values account for the
        repeated looks.

        Parameters
        ----------
        a, b : str
            Explainers.
        n_resamples : int, default 2000
            Of the bootstrap and of the permutation test.
        seed : int, default 0

        Returns
        -------
        Comparison
        """
        n_resamples = checks.positive_integer("n_resamples", n_resamples)
        seed = checks.fixed_seed("seed", seed)
        for name, value in (("a", a), ("b", b)):
            checks.one_of(name, value, self.explainers)
        if a == b:
            raise ValueError(f"a and b must be two explainers, are both {a!r}")
        rows = []
        for metric in self.metrics:
            first, second = self.scores_of(a, metric), self.scores_of(b, metric)
            if self.stopping is not None:
                first, second = first[self.stopping.order], second[self.stopping.order]
            both = np.isfinite(first) & np.isfinite(second)
            first, second = first[both], second[both]
            rows.append(self._compared(metric, first, second, n_resamples, seed))
        corrected = holm([row.p_value for row in rows])
        return Comparison(
            a,
            b,
            tuple(
                Compared(**{**asdict(row), "p_value": float(p)})
                for row, p in zip(rows, corrected, strict=True)
            ),
            self.confidence,
        )

    def _compared(
        self,
        metric: str,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        n_resamples: int,
        seed: int,
    ) -> Compared:
        n, nan = len(first), float("nan")
        difference = self._sign(metric) * paired_difference(first, second)
        low = high = p = effect = nan
        if n > 1:
            if self.stopping is not None:
                reach = self.stopping.rule.reach(metric)
                low, high = sequences.interval(difference, 1 - self.confidence, reach)
                p = sequences.p_value(difference, reach)
            else:
                bounds = bounds_of([first, second])
                # From the best answer of one with the worst of the other to the opposite.
                reach = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
                means = paired_means(
                    difference[None],
                    confidence=self.confidence,
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

    def agreement(self) -> MetricAgreement:
        """Correlate the metrics' mean scores over the explainers.

        Returns
        -------
        MetricAgreement
            See :func:`quantus_ext.protocols.metric_agreement`; the one model is that evaluated.
        """
        from quantus_ext.protocols import metric_agreement

        means = self.means() if self.stopping is None else self._means_of_shared()
        for explainer, metric in self._failed:
            # The mean over other samples would rank it.
            means.loc[explainer, metric] = np.nan
        return metric_agreement(
            {metric: means[metric].to_numpy()[None] for metric in self.metrics},
            directions=dict(self.directions),
            nan_policy="omit",
        )

    def drift(
        self, baseline: Evaluation, *, alpha: float = 0.05, smallest_effect: float = 0.0
    ) -> Drift:
        """Compare with a baseline, for each explainer and metric that both have.

        Two tests compare the scores of the samples: one for a change of level (Mann and Whitney),
        one for a change of distribution (Kolmogorov and Smirnov). Holm's method corrects all
        p-values together: if nothing has changed, the probability of any alarm is at most
        ``alpha``. The two evaluations are treated as independent samples; on the same samples there
        are fewer alarms.

        Parameters
        ----------
        baseline : Evaluation
            For example that of the last release, from :meth:`from_json`.
        alpha : float, default 0.05
        smallest_effect : float, default 0.0
            Significant changes smaller than this are ignored: Cliff's delta for the level, the
            largest difference of the distribution functions for the shape. With many samples, every
            change is significant.

        Returns
        -------
        Drift

        Raises
        ------
        ValueError
            If nothing can be compared, or a metric has another direction.
        """
        from quantus_ext.evaluation.drift import drift

        return drift(baseline, self, alpha=alpha, smallest_effect=smallest_effect)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Return a section for a model card: means with intervals, failures, settings.

        Parameters
        ----------
        path : str or Path, optional
            Also write it to this file.
        """
        from quantus_ext.evaluation.report import to_markdown

        text = to_markdown(self)
        if path is not None:
            write_text(path, text)
        return text

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page: tables, plots and cases.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
            Of the file.
        """
        from quantus_ext.evaluation.report import to_html

        return write_text(path, to_html(self))

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything but the cases, with a checksum, for :meth:`from_json`; NaN is null.

        Parameters
        ----------
        path : str or Path, optional
            A file to write it to as well.
        """
        content = {
            "format": _FORMAT,
            "explainers": self.explainers,
            "metrics": self.metrics,
            "columns": self.columns,
            "directions": {name: value.value for name, value in self.directions.items()},
            "confidence": self.confidence,
            "scores": _nulls(self.scores),
            "standard_errors": _nulls(self.standard_errors),
            "flags": self.flags.tolist(),
            "n_evaluations": self.n_evaluations.tolist(),
            "n_rows": self.n_rows,
            "carry_inputs": self.carry_inputs,
            "seconds": self.seconds.tolist(),
            "failures": [asdict(failure) for failure in self.failures],
            "settings": self.settings,
            "cards": {name: card.to_plain() for name, card in self.cards.items()},
        }
        if self.stopping is not None:
            content["stopping"] = self.stopping.to_plain()
        text = sealed_json(content, nan=False)
        if path is not None:
            write_text(path, text)
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Evaluation:
        """Read what :meth:`to_json` wrote: the text itself, or the path of a file.

        Parameters
        ----------
        source : str or Path

        Raises
        ------
        ValueError
            If it is nothing that it wrote, or not as it wrote it.
        """
        checks.address("source", source)
        # No path holds an entry.
        is_text = isinstance(source, str) and (source.lstrip().startswith("{") or '": ' in source)
        text = str(source) if is_text else Path(source).read_bytes()
        what = f"source must be what to_json wrote, {'the text' if is_text else source}"
        try:
            return cls(**_fields(unsealed_json(text, format=_FORMAT)))
        except OtherFormatError as error:
            raise ValueError(f"{what} {error}: write it anew with this one") from error
        except DamagedError as error:
            raise ValueError(
                f"{what} is damaged or something else: {error}. Take a copy of it, or evaluate "
                "again and write it anew"
            ) from error


def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an evaluation from those of its JSON, checked against each other."""
    try:
        fields: dict[str, Any] = {
            "explainers": tuple(content["explainers"]),
            "metrics": tuple(content["metrics"]),
            "directions": {n: ScoreDirection(v) for n, v in content["directions"].items()},
            "scores": np.array(content["scores"], dtype=np.float64),
            "standard_errors": np.array(content["standard_errors"], dtype=np.float64),
            "flags": np.array(content["flags"], dtype=np.int64),
            "n_evaluations": np.array(content["n_evaluations"], dtype=np.int64),
            "seconds": np.array(content["seconds"], dtype=np.float64),
            "failures": tuple(Failure(**failure) for failure in content["failures"]),
            "settings": content["settings"],
            "confidence": content["confidence"],
            "columns": tuple((metric, call) for metric, call in content["columns"]),
            "n_rows": content["n_rows"],
            "carry_inputs": tuple(content["carry_inputs"]),
            "stopping": Stopping.of_plain(content["stopping"]) if "stopping" in content else None,
            "cards": {n: Card.of_plain(card) for n, card in content["cards"].items()},
        }
    except Exception as error:
        raise DamagedError(f"its entries are not those of an evaluation: {error!r}") from error
    shape = (len(fields["explainers"]), len(fields["metrics"]))
    per_cell = [fields[name].shape for name in ("n_evaluations", "seconds")]
    per_sample = [fields[name].shape for name in ("scores", "standard_errors", "flags")]
    named = [fields["explainers"], fields["metrics"]]
    if (
        not all(isinstance(name, str) for names in named for name in names)
        or [len(set(names)) for names in named] != list(shape)
        or 0 in shape
        or len(fields["columns"]) != shape[1]
        or per_cell != [shape, shape]
        or len(set(per_sample)) > 1
        or per_sample[0][:-1] != shape
        or set(fields["directions"]) != set(fields["metrics"])
        or not set(fields["cards"]) <= set(fields["metrics"])
    ):
        raise DamagedError(f"its arrays are not of {shape[0]} explainers and {shape[1]} metrics")
    stopping = fields["stopping"]
    if stopping is not None and not stopping.fits(*per_sample[0]):
        raise DamagedError("where it stopped does not fit its scores")
    return fields


def checked_confidence(value: object) -> float:
    """Return the confidence of intervals, a number between 0 and 1."""
    confidence = checks.finite_number("confidence", value)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, is {confidence}")
    return confidence


def _value(direction: Any) -> Any:
    return direction.value if isinstance(direction, ScoreDirection) else direction


def _repeated(names: Sequence[str], each: int, times: int) -> pd.Categorical:
    codes = np.tile(np.repeat(np.arange(len(names)), each), times)
    return pd.Categorical.from_codes(codes, categories=list(names))


def _ranks(better: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return ranks, 1 for the highest; equal values share the best."""
    ranks: NDArray[np.int64] = 1 + (better[None] > better[:, None]).sum(1)
    return ranks


def _nulls(values: NDArray[np.float64]) -> Any:
    numbers = values.astype(object)
    numbers[~np.isfinite(values)] = None
    return numbers.tolist()
