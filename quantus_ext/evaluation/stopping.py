"""Decide, pair by pair, when the ranking of explainers is known and no more samples are needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantus_ext.evaluation import sequences
from quantus_ext.evaluation.statistics import Bounds, Floats, pair_p_values, paired_difference

_GROWTH = 4
"""The share of all shards so far that is added between two looks is one in so many."""

_LEAST_RESAMPLES = 2000

_BEYOND = 10
"""Resamples that are expected beyond the level of the last test."""


class Verdict(IntEnum):
    """The verdict on the first explainer of a pair compared with the second."""

    WORSE = -1
    OPEN = 0
    BETTER = 1
    CLOSE = 2
    """They differ by less than the smallest difference that matters."""


@dataclass(frozen=True)
class StoppingRule:
    """The rule that decides when a pair of explainers is settled.

    Half of the error probability is spent on repeated looks, by confidence sequences; the other
    half on one final test of the pairs that are still open when all samples have been scored. Each
    half is divided equally among all pairs of all metrics. So the probability of any wrong verdict
    in the whole evaluation is at most ``1 - confidence``.

    Attributes
    ----------
    confidence : float
    n_pairs : int
        Number of pairs of all metrics.
    smallest_difference : mapping of str to float
        By metric; a metric that is not named has none.
    bounds : mapping of str to (float, float)
        The range of the scores, by metric. Without it, verdicts hold for many samples only.
    max_difference : mapping of str to float
        The largest possible difference of two scores of one sample, for metrics with bounds.
    """

    confidence: float
    n_pairs: int
    smallest_difference: Mapping[str, float]
    bounds: Mapping[str, Bounds]
    max_difference: Mapping[str, float]

    @property
    def level(self) -> float:
        """The error probability of each half for one pair."""
        return (1 - self.confidence) / 2 / self.n_pairs

    def reach(self, metric: str) -> Bounds | None:
        """Return the range of the differences between scores of one sample."""
        if metric not in self.bounds:
            return None
        return -self.max_difference[metric], self.max_difference[metric]

    def verdict(self, metric: str, first: Floats, second: Floats, *, sign: int) -> Verdict:
        """Say which of two explainers is better, from samples in random order.

        Parameters
        ----------
        metric : str
        first, second : array, shape (n,)
            Scores of the same samples. Samples with a NaN are left out.
        sign : int
            1 where higher scores are better, -1 where lower ones are.
        """
        difference = _difference(first, second)
        smallest = self.smallest_difference.get(metric)
        candidates = [0.0] if smallest is None else [0.0, smallest, -smallest]
        reach = self.reach(metric)
        if reach is not None:
            # Further apart than bounds allow nothing can be.
            candidates = [min(max(each, reach[0]), reach[1]) for each in candidates]
        order, *near = sequences.sides(difference, candidates, self.level, reach)
        if order:
            return Verdict(int(sign * order))
        return Verdict.CLOSE if near == [-1, 1] else Verdict.OPEN

    def last_verdicts(
        self, scores: Floats, pairs: Sequence[tuple[int, int]], *, sign: int
    ) -> dict[tuple[int, int], Verdict]:
        """Return verdicts on pairs from all samples, by a test that may be made only once.

        Parameters
        ----------
        scores : array, shape (k, n)
            Samples with a NaN in one of a pair are left out.
        pairs : sequence of (int, int)
        sign : int
        """
        known = np.isfinite(scores)
        # All at once where they are of the same samples, which is nearly always.
        groups: dict[bytes, list[tuple[int, int]]] = {}
        for i, j in pairs:
            groups.setdefault((known[i] & known[j]).tobytes(), []).append((i, j))
        n_resamples = max(_LEAST_RESAMPLES, math.ceil(_BEYOND / self.level))
        found = dict.fromkeys(pairs, Verdict.OPEN)
        for mask, some in groups.items():
            shared = np.frombuffer(mask, dtype=bool)
            places = sorted({place for pair in some for place in pair})
            values = scores[places][:, shared]
            if values.shape[1] < 2:
                continue
            p = pair_p_values(values, n_resamples, np.random.default_rng(0))
            means = dict(zip(places, values.mean(1), strict=True))
            for i, j in some:
                if p[places.index(i), places.index(j)] <= self.level:
                    found[i, j] = Verdict(int(np.sign(sign * (means[i] - means[j]))))
        return found

    def check(self, metric: str, explainer: str, scores: Floats) -> None:
        """Raise ValueError for a score outside its bounds, with which no verdict would be exact."""
        low, high = self.bounds.get(metric, (-np.inf, np.inf))
        slack = sequences.SLACK * (high - low) if metric in self.bounds else 0.0
        outside = np.flatnonzero((scores < low - slack) | (scores > high + slack))
        if len(outside):
            raise ValueError(
                f"scores of {metric} must be between {low:g} and {high:g}, {explainer} has "
                f"{scores[outside[0]]:g}: give score_bounds that hold for every sample, or none. "
                "What a store holds is kept"
            )


def _difference(first: Floats, second: Floats) -> Floats:
    both = np.isfinite(first) & np.isfinite(second)
    return paired_difference(first[both], second[both])


@dataclass(frozen=True)
class Stopping:
    """Where an evaluation stopped because its ranking was known.

    Attributes
    ----------
    order : numpy.ndarray of int, shape (n,)
        The samples in the random order in which they were scored.
    counts : numpy.ndarray of int, shape (e, m)
        How many of them were scored, by explainer and metric.
    verdicts : numpy.ndarray of int, shape (m, e, e)
        A :class:`Verdict` on each pair by each metric.
    rule : StoppingRule
    """

    order: NDArray[np.int64]
    counts: NDArray[np.int64]
    verdicts: NDArray[np.int8]
    rule: StoppingRule

    def to_plain(self) -> dict[str, Any]:
        """Return it as what JSON holds."""
        return {
            "order": self.order.tolist(),
            "counts": self.counts.tolist(),
            "verdicts": self.verdicts.tolist(),
            "rule": asdict(self.rule),
        }

    @classmethod
    def of_plain(cls, content: Mapping[str, Any]) -> Stopping:
        """Return what :meth:`to_plain` was made of."""
        rule = dict(content["rule"])
        rule["bounds"] = {name: (low, high) for name, (low, high) in rule["bounds"].items()}
        return cls(
            np.array(content["order"], dtype=np.int64),
            np.array(content["counts"], dtype=np.int64),
            np.array(content["verdicts"], dtype=np.int8),
            StoppingRule(**rule),
        )

    def fits(self, explainers: int, metrics: int, n: int) -> bool:
        """Whether it can belong to these numbers of explainers, metrics and samples."""
        return (
            sorted(self.order.tolist()) == list(range(n))
            and self.counts.shape == (explainers, metrics)
            and self.verdicts.shape == (metrics, explainers, explainers)
            and bool(np.isin(self.verdicts, list(Verdict)).all())
        )


class Looks:
    """The verdicts so far, updated as samples are scored.

    Parameters
    ----------
    rule : StoppingRule
    order : array of int, shape (n,)
    explainers, metrics : sequence of str
    signs : sequence of int
        Of each metric, 1 where higher scores are better.
    """

    def __init__(
        self,
        rule: StoppingRule,
        order: NDArray[np.int64],
        explainers: Sequence[str],
        metrics: Sequence[str],
        signs: Sequence[int],
    ) -> None:
        self._explainers, self._metrics, self._signs = explainers, metrics, signs
        shape = (len(explainers), len(metrics))
        self._needed = np.ones(shape, dtype=bool)
        self.found = Stopping(
            order,
            np.zeros(shape, dtype=np.int64),
            np.zeros((len(metrics), *shape[:1] * 2), dtype=np.int8),
            rule,
        )

    def look(self, scores: Floats, scored: int, failed: NDArray[np.bool_]) -> None:
        """Take account of the samples that have been scored since the last look.

        Parameters
        ----------
        scores : array, shape (e, m, n)
            Of the samples in their own order.
        scored : int
            How many samples of the random order have been scored, for the cells that needed them.
        failed : array of bool, shape (e, m)
            Cells that failed: they have no rank, and no more samples can give them one.
        """
        found, rule = self.found, self.found.rule
        for place, explainer in enumerate(self._explainers):
            for column, name in enumerate(self._metrics):
                rule.check(name, explainer, scores[place, column])
        found.counts[self._needed] = scored
        self._needed[:] = False
        for metric in range(len(self._metrics)):
            for first, second in self._open(metric, failed):
                n = found.counts[[first, second], metric].min()
                values = scores[[first, second], metric][:, found.order[:n]]
                verdict = rule.verdict(self._metrics[metric], *values, sign=self._signs[metric])
                self._settle(metric, first, second, verdict)
            if scored == len(found.order):
                self._last_look(scores[:, metric], metric, failed)
            for pair in self._open(metric, failed):
                self._needed[list(pair), metric] = True

    def _last_look(self, scores: Floats, metric: int, failed: NDArray[np.bool_]) -> None:
        """Test the pairs that are still open, of which all samples have been scored."""
        pairs = list(self._open(metric, failed))
        if not pairs:
            return
        verdicts = self.found.rule.last_verdicts(scores, pairs, sign=self._signs[metric])
        for pair, verdict in verdicts.items():
            self._settle(metric, *pair, verdict)

    def _settle(self, metric: int, first: int, second: int, verdict: Verdict) -> None:
        self.found.verdicts[metric, first, second] = verdict
        self.found.verdicts[metric, second, first] = opposite(verdict)

    def _open(self, metric: int, failed: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Yield the pairs that are not settled and can be."""
        verdicts = self.found.verdicts[metric]
        for first, second in itertools.combinations(range(len(verdicts)), 2):
            if (
                verdicts[first, second] == Verdict.OPEN
                and not failed[[first, second], metric].any()
            ):
                yield first, second

    def wanted(self) -> dict[int, tuple[str, ...]]:
        """Return the metrics that need more samples, by the indices of the explainers."""
        named = {
            explainer: tuple(name for name, more in zip(self._metrics, needed, strict=True) if more)
            for explainer, needed in enumerate(self._needed)
        }
        return {explainer: names for explainer, names in named.items() if names}


def opposite(verdict: Verdict) -> Verdict:
    """Return the verdict on the same pair with the two exchanged."""
    return verdict if verdict is Verdict.CLOSE else Verdict(-verdict)


def rounds(n_shards: int) -> Iterator[slice]:
    """Yield the shards between one look and the next, the same for any number of workers.

    Examples
    --------
    >>> from quantus_ext.evaluation.stopping import rounds
    >>> [(each.start, each.stop) for each in rounds(12)]
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 10), (10, 12)]
    """
    done = 0
    while done < n_shards:
        start, done = done, min(n_shards, done + max(1, done // _GROWTH))
        yield slice(start, done)
