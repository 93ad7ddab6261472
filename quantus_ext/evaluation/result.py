"""The result of an evaluation: its scores, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from quantus.helpers.enums import ScoreDirection

from quantus_ext import checks
from quantus_ext.card import Card
from quantus_ext.engine.spaces import SPACES, Space
from quantus_ext.evaluation.as_json import FORMAT, of_plain, to_plain
from quantus_ext.evaluation.by_class import by_class, class_frame
from quantus_ext.evaluation.case import Case
from quantus_ext.evaluation.comparison import Comparison, compare
from quantus_ext.evaluation.failure import Failure
from quantus_ext.evaluation.ranking import Ranking, rank
from quantus_ext.evaluation.stopping import Stopping
from quantus_ext.files import DamagedError, OtherFormatError, sealed_json, unsealed_json, write_text
from quantus_ext.flags import Flag
from quantus_ext.shown import short
from quantus_ext.spaces import Fit

if TYPE_CHECKING:
    from quantus_ext.evaluation.drift import Drift
    from quantus_ext.protocols import MetricAgreement


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
    space : numpy.ndarray, shape (e, m, at most 1000, 4)
        What maps of the samples that were scored first leave unexplained in each space of outputs;
        see :meth:`spaces`.
    scored : mapping of str to str
        The space that a metric reads, of those that read one.
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
    classes : numpy.ndarray of int, shape (n, k), or None
        The explained classes, if each sample has several (``targets``). Then ``scores`` are the
        means over these, and ``standard_errors`` upper bounds.
    class_scores, class_errors : numpy.ndarray, float64, shape (e, m, n, k), or None
        Scores of each class, and their standard errors.

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
    space: NDArray[np.float64]
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
    scored: Mapping[str, Space] = field(default_factory=dict)
    classes: NDArray[np.int64] | None = None
    class_scores: NDArray[np.float64] | None = None
    class_errors: NDArray[np.float64] | None = None

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
            space=np.empty((*values.shape[:2], 0, len(SPACES))),
            n_evaluations=np.zeros(values.shape[:2], dtype=np.int64),
            seconds=np.zeros(values.shape[:2]),
            confidence=confidence,
            columns=tuple((metric, "") for metric in metrics),
        )

    def __repr__(self) -> str:
        failed = f", failed_cells={len(self.failed_cells())}" if self.failures else ""
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

    def spaces(self) -> pd.DataFrame:
        """Return in which space of outputs each explainer's maps explain the model.

        Returns
        -------
        pandas.DataFrame
            A row for each explainer and metric that know one: the columns explainer, metric, space
            (None where maps fit none well), a column for each space with the share of the outputs'
            change that maps leave unexplained, the median over the first 1,000 samples, scored (the
            space that the metric reads), and warning, whether maps fit another space clearly
            better than that.

        Examples
        --------
        >>> import numpy as np, torch, quantus_ext
        >>> model = torch.nn.Linear(4, 2, bias=False, dtype=torch.float64).eval()
        >>> x = np.random.default_rng(0).normal(size=(6, 4))
        >>> evaluation = quantus_ext.evaluate(
        ...     {"MoRF": quantus_ext.MoRF(4)},
        ...     {"input×gradient": x * model.weight[0].detach().numpy()},
        ...     model,
        ...     x,
        ...     np.zeros(6, dtype=int),
        ...     output="logit",
        ... )
        >>> evaluation.spaces()[["explainer", "metric", "space", "scored", "warning"]].values
        array([['input×gradient', 'MoRF', 'logit', 'logit', False]], dtype=object)
        """
        rows = []
        for e, explainer in enumerate(self.explainers):
            for m, metric in enumerate(self.metrics):
                fit, scored = Fit.of(self.space[e, m]), self.scored.get(metric)
                if fit.n:
                    shares = [fit.unexplained.get(space, np.nan) for space in SPACES]
                    warns = scored is not None and fit.better_than(scored)
                    rows.append((explainer, metric, fit.space, *shares, scored, warns))
        columns = ["explainer", "metric", "space", *SPACES, "scored", "warning"]
        # Of objects first: otherwise None becomes NaN.
        found = pd.DataFrame(rows, columns=columns, dtype=object)
        kinds: dict[str, type] = {**dict.fromkeys(SPACES, float), "warning": bool}
        return found.astype(kinds)

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

    def by_class(self, *, n_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """Return mean scores class by class, where several of each sample are explained.

        Parameters
        ----------
        n_resamples : int, default 2000
            Of the bootstrap of samples.
        seed : int, default 0

        Returns
        -------
        pandas.DataFrame
            A row for each class, metric and explainer: the columns class, metric, explainer, n (the
            samples of which the class is explained and that have a score), mean, low and high (NaN
            for fewer than two samples).

        Raises
        ------
        ValueError
            If one class of each sample is explained.

        Examples
        --------
        >>> import numpy as np, torch, quantus_ext
        >>> x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> maps = x[:, None] * model.weight.detach().numpy()
        >>> evaluation = quantus_ext.evaluate(
        ...     {"MoRF": quantus_ext.MoRF(4)},
        ...     {"exact": maps, "wrong": -maps},
        ...     model,
        ...     x,
        ...     targets="all",
        ... )
        >>> evaluation.by_class().iloc[:2, :4].values.tolist()
        [[0, 'MoRF', 'exact', 6], [0, 'MoRF', 'wrong', 6]]
        """
        n_resamples = checks.positive_integer("n_resamples", n_resamples)
        seed = checks.fixed_seed("seed", seed)
        return by_class(self, n_resamples=n_resamples, seed=seed)

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy table: sample, explainer, metric, score, standard_error.

        Where several classes of each sample are explained, a row has one of them, ``class``.
        """
        if self.classes is not None:
            return class_frame(self)
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
        return rank(self, n_resamples=n_resamples, seed=seed)

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
        return compare(self, a, b, n_resamples=n_resamples, seed=seed)

    def agreement(self) -> MetricAgreement:
        """Correlate the metrics' mean scores over the explainers.

        Returns
        -------
        MetricAgreement
            See :func:`quantus_ext.protocols.metric_agreement`; the one model is that evaluated.
        """
        from quantus_ext.protocols import metric_agreement

        means = self.means() if self.stopping is None else self._means_of_shared()
        for explainer, metric in self.failed_cells():
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
        text = sealed_json(to_plain(self), nan=False)
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
            return cls(**of_plain(unsealed_json(text, format=FORMAT)))
        except OtherFormatError as error:
            raise ValueError(f"{what} {error}: write it anew with this one") from error
        except DamagedError as error:
            raise ValueError(
                f"{what} is damaged or something else: {error}. Take a copy of it, or evaluate "
                "again and write it anew"
            ) from error


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
