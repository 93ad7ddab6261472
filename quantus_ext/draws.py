"""How many draws an answer needs, found from a pilot of a few samples.

A score is a mean over draws, and what is wanted is most often a mean over samples, or the
difference between two explainers. Samples differ much more than draws do, so few draws each are
enough. With ``b²`` the variance of true scores between samples, ``w²`` that of one draw, and d
draws, a mean over n samples has the variance ``(b² + w² / d) / n``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from quantus_ext import checks
from quantus_ext.shown import ShownByArguments

FEWEST = 2
"""Draws below which standard errors are not known, unless a metric knows them from less."""

_PILOT_SHARE = 10
"""A pilot's sets have one in so many of the most draws: enough where a few tell next to nothing."""

_DEAR = 20
"""Rows for the fewest draws from which on these are within 5 % of the best number for a ranking,
whatever samples say: with no difference between samples, ``(1 + r) / r`` of it."""

_FEWEST_SAMPLES = 8
"""Samples of a pilot below which it says nothing."""

_CONFIDENCE = 0.9
"""With which the pilot bounds how much draws differ, beside how much samples do."""

_RESAMPLES = 1000
"""Bootstrap samples of a pilot."""


@dataclass(frozen=True, repr=False)
class AutoDraws(ShownByArguments):
    """As many draws as a mean over samples needs, in place of a number of draws.

    The interval of the mean score of each map, and of each difference between two maps, is at most
    ``widening`` wider than infinitely many draws would make it. A pilot scores some samples twice,
    with independent draws, which tells how much draws differ and how much samples do.

    Parameters
    ----------
    widening : float, default 0.05
        Share by which intervals may be wider.
    n_pilot : int, default 32
        Samples of the pilot, at least 8, spread evenly over those of the call.
    at_most : int, optional
        Draws, at most; by default as many as the metric makes without this.
    goal : {"intervals", "ranking"}, default "intervals"
        ``"ranking"``: as many as make a ranking known from the fewest rows, where more samples can
        be scored in place of more draws. ``evaluate(until="ranked")`` uses it.

    Examples
    --------
    >>> from quantus_ext import AutoDraws, RFidelity
    >>> RFidelity(n_samples=AutoDraws(widening=0.1)).n_samples
    50
    """

    widening: float = 0.05
    n_pilot: int = 32
    at_most: int | None = None
    goal: Literal["intervals", "ranking"] = "intervals"

    def __post_init__(self) -> None:
        checks.positive_number("widening", self.widening)
        if checks.positive_integer("n_pilot", self.n_pilot) < _FEWEST_SAMPLES:
            raise ValueError(
                f"n_pilot must be at least {_FEWEST_SAMPLES} samples, is {self.n_pilot}"
            )
        if self.at_most is not None and checks.positive_integer("at_most", self.at_most) < FEWEST:
            raise ValueError(f"at_most must be at least {FEWEST} draws, is {self.at_most}")
        checks.one_of("goal", self.goal, ("intervals", "ranking"))

    def without_pilot(self, rows_a_draw: float | None, *, fewest: int = FEWEST) -> Draws | None:
        """Return the number of draws where no pilot is needed to know it.

        Parameters
        ----------
        rows_a_draw : float or None
            Rows through the model, where that is known.
        fewest : int
            Draws, at least.
        """
        if self.goal == "ranking" and rows_a_draw is not None and rows_a_draw * fewest >= _DEAR:
            return Draws(fewest, f"a ranking from few rows: each draw takes {rows_a_draw:.3g}")
        return None

    def decide(
        self,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        *,
        most: int,
        rows_a_draw: float,
        fewest: int = FEWEST,
    ) -> Draws:
        """Return how many draws the pilot's scores call for.

        Parameters
        ----------
        first, second : array, shape (m, n)
            Scores of m maps of n samples, from two independent sets of :func:`pilot_draws` draws.
            Samples with a NaN do not count.
        most : int
            Draws, at most.
        rows_a_draw : float
            Rows through the model.
        fewest : int
            Draws, at least.
        """
        known = np.isfinite(first).all(0) & np.isfinite(second).all(0)
        n = int(known.sum())
        if n < _FEWEST_SAMPLES:
            return Draws(most, f"{n} samples are too few for a pilot")
        first, second = first[:, known], second[:, known]
        if self.goal == "ranking":
            return draws_for_a_ranking(first, second, rows_a_draw, most, fewest)
        return draws_for_intervals(first, second, self.widening, most, fewest)


@dataclass(frozen=True)
class Draws:
    """How many draws there are to be, and why.

    Attributes
    ----------
    n : int
    reason : str
    """

    n: int
    reason: str


def read(name: str, value: int | str | AutoDraws, default: int) -> tuple[int, AutoDraws | None]:
    """Return the most draws that an argument allows, and how fewer are found.

    Parameters
    ----------
    name : str
    value : int, "auto" or AutoDraws
    default : int
        Draws without a number.

    Raises
    ------
    TypeError, ValueError
        If it is none of these.
    """
    if isinstance(value, str) and value == "auto":
        value = AutoDraws()
    if isinstance(value, AutoDraws):
        return value.at_most or default, value
    if isinstance(value, str):
        raise ValueError(f'{name} must be a number of draws, "auto" or AutoDraws, is {value!r}')
    return checks.positive_integer(name, value), None


def refuse_both(name: str, auto: AutoDraws | None, tolerance: float | None) -> None:
    """Raise ValueError where draws are found by a pilot and by a tolerance."""
    if auto is not None and tolerance is not None:
        raise ValueError(
            f"{name} must be a number where tolerance is given, is automatic: a pilot finds draws "
            "for means over samples, a tolerance for each sample"
        )


def pilot_draws(most: int) -> int:
    """Return the draws of each of a pilot's two sets."""
    return max(FEWEST, most // _PILOT_SHARE)


def pilot_samples(n_pilot: int, n: int) -> NDArray[np.int64]:
    """Return the places of a pilot's samples among n, spread evenly."""
    places: NDArray[np.int64] = np.linspace(0, n - 1, min(n, n_pilot)).round().astype(np.int64)
    return places


def draws_for_intervals(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    widening: float,
    most: int,
    fewest: int = FEWEST,
) -> Draws:
    """Return how many draws keep the intervals of all means and differences as narrow as said.

    The one-way analysis of variance bounds, with 90 % confidence, how large ``w² / b²`` may be:
    ``F = MSB / MSW`` divided by that quantile of its distribution. That is for normal scores; where
    a few samples have far larger scores than others, as by Infidelity, it says too little, and the
    same quantile over bootstrap samples says more. The larger counts. An interval is wider by
    ``sqrt(1 + w² / (d b²))``.

    Parameters
    ----------
    first, second : array, shape (m, n)
        Finite scores of m maps of n samples, from two sets of :func:`pilot_draws` draws each.
    widening : float
        See :class:`AutoDraws`.
    most, fewest : int
        Draws, at most and at least.
    """
    n = first.shape[1]
    drawn = np.random.default_rng(0).integers(n, size=(_RESAMPLES, n))

    def needed(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        between, within = _mean_squares(one, other)
        if within == 0:
            return 0
        of_normal = between / within / stats.f.ppf(_CONFIDENCE, len(one) - 1, len(one))
        between, within = _mean_squares(one[drawn], other[drawn])
        # Samples that are one and the same differ by nothing.
        known = np.divide(within, between, out=np.full_like(within, np.inf), where=between > 0)
        bound = min(of_normal, 1 / float(np.quantile(known, _CONFIDENCE)))
        share = (bound - 1) / 2
        return math.inf if share <= 0 else pilot_draws(most) / share / ((1 + widening) ** 2 - 1)

    needs = {places: needed(*values) for places, *values in _items(first, second, single=True)}
    places, need = max(needs.items(), key=lambda item: item[1])
    of = f"map {places[0]}" if len(places) == 1 else f"maps {places[0]} and {places[1]}"
    asked = "more than any number" if math.isinf(need) else f"{need:.3g}"
    return Draws(
        most if need >= most else max(fewest, math.ceil(need)),
        f"intervals at most {widening:.0%} wider than with infinitely many: {of} of {len(first)} "
        f"need {asked}, from {n} samples",
    )


def draws_for_a_ranking(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    rows_a_draw: float,
    most: int,
    fewest: int = FEWEST,
) -> Draws:
    """Return how many draws tell explainers apart from the fewest rows, where samples can be added.

    With one row for the clean sample and c for a draw, a mean of a given variance costs rows in
    proportion to ``(b² + w² / d) (1 + c d)``, least with ``d = sqrt(w² / b² / c)``, the textbook's
    two-stage allocation (Cochran, 1977, "Sampling Techniques"). One number of draws serves all
    pairs: that with which none costs many more rows than it must.

    Parameters
    ----------
    first, second : array, shape (m, n)
        See :func:`draws_for_intervals`.
    rows_a_draw : float
    most, fewest : int
        Draws, at most and at least.
    """
    counts = np.arange(fewest, most + 1)

    def excess(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        between, within = _mean_squares(one, other)
        samples = max(float(between - within), 0.0) / 2
        draws = pilot_draws(most) * within
        least = (math.sqrt(samples) + math.sqrt(draws * rows_a_draw)) ** 2
        if least == 0:
            return np.ones(len(counts))
        return (samples + draws / counts) * (1 + rows_a_draw * counts) / least

    costs = {places: excess(*values) for places, *values in _items(first, second, single=False)}
    worst = np.max(list(costs.values()), axis=0)
    best = int(worst.argmin())
    return Draws(
        int(counts[best]),
        f"a ranking from few rows: no pair of {len(first)} maps needs more than {worst[best]:.3g} "
        f"times as many as it must, from {first.shape[1]} samples",
    )


def _mean_squares(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean squares between and within samples, the last axis, of two values each."""
    within = np.square(one - other).mean(-1) / 2
    between = 2 * ((one + other) / 2).var(-1, ddof=1)
    return between, within


def _items(
    first: NDArray[np.float64], second: NDArray[np.float64], *, single: bool
) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.float64]]]:
    """Yield maps and pairs of maps by their places, with scores or their differences."""
    if single or len(first) == 1:
        for i in range(len(first)):
            yield (i,), first[i], second[i]
    for i, j in itertools.combinations(range(len(first)), 2):
        yield (i, j), first[i] - first[j], second[i] - second[j]
