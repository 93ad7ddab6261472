"""Confidence sequences: intervals of a mean that hold after every number of samples at once.

An ordinary interval keeps its confidence at one number of samples, fixed beforehand. If you look
after every shard and stop when it excludes 0, you are wrong far more often: in a fifth to two
fifths of the runs of ``benchmarks/stopping_errors.py``, in place of 5 %. With a confidence
sequence, the chance that the true mean is ever outside is at most alpha.

Values with known bounds: exact for any distribution, by the hedged capital process of Waudby-Smith
and Ramdas (2024, "Estimating means of bounded random variables by betting"). One bets against each
candidate for the mean. With fair bets, a stake grows to 1 / alpha times its size with a chance of
at most alpha (Ville's inequality), so a candidate is excluded for good once so much has been won
against it.

Values without bounds: no method is exact. The mixture of t statistics of Lindon, Ham, Tingley and
Bojinov (2022, "Anytime-Valid Linear Models and Regression Adjusted Causal Inference in Randomized
Experiments") is exact for normal values and asymptotic for others. It says nothing before 200
values of which 20 differ from the most frequent one.

Values must come in random order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantus_ext.evaluation.statistics import Bounds, Floats

_TRUNCATION = 0.75
"""Share of the capital that is bet at most."""

_GRID = 1000
"""Steps between the bounds in which the ends of an interval are found."""

_AT_ONCE = 2_000_000
"""Numbers in memory."""

_STAKED_FOR = 0.05
"""The alpha that bets of a p-value are sized for; it holds for any other too."""

_FEWEST, _FEWEST_DIFFERENT = 200, 20
"""Values, and those that are not the most frequent one, below which t statistics say nothing."""

_TUNED_FOR = 300
"""Values for which the mixture of t statistics is narrowest."""

SLACK = 1e-6
"""Of the width of the bounds, by which values may miss them for rounding."""


def sides(
    values: ArrayLike, candidates: ArrayLike, alpha: float, bounds: Bounds | None
) -> NDArray[np.int64]:
    """Say of each candidate on which side of it the mean is known to lie.

    Parameters
    ----------
    values : array, shape (n,)
        In random order.
    candidates : array, shape (k,)
        For values with bounds, inside these.
    alpha : float
        The chance that any answer, for any candidates and after any number of values, is wrong.
    bounds : (float, float) or None
        Between which all values lie.

    Returns
    -------
    numpy.ndarray of int, shape (k,)
        1 where the mean is larger, -1 where it is smaller, 0 where that is not known yet. What is
        known stays known.

    Raises
    ------
    ValueError
        If a value is outside the bounds.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.evaluation.sequences import sides
    >>> values = np.random.default_rng(0).uniform(0, 0.5, size=100)
    >>> sides(values, [0.1, 0.25, 0.5], alpha=0.05, bounds=(0, 1)).tolist()
    [1, 0, -1]
    """
    values, candidates = _array(values), _array(candidates)
    if len(values) == 0:
        return np.zeros(len(candidates), dtype=np.int64)
    if bounds is not None:
        up, down = _capital(*_scaled(values, candidates, bounds), alpha)
        excluded = np.logaddexp(up, down) - np.log(2) >= -np.log(alpha)
        return _first(excluded, np.where(up > down, 1, -1))
    mean, half = _t_intervals(values, alpha)
    distance = mean - candidates[:, None]
    return _first(np.abs(distance) > half, np.sign(distance).astype(np.int64))


def interval(values: ArrayLike, alpha: float, bounds: Bounds | None) -> tuple[float, float]:
    """Return the interval in which the mean lies, whatever made that no more values were taken.

    Parameters
    ----------
    values : array, shape (n,)
        In random order.
    alpha : float
        The chance that the mean is outside, after any number of values.
    bounds : (float, float) or None
        Between which all values lie.

    Returns
    -------
    (float, float)
        Infinite while nothing is known of values without bounds.

    Raises
    ------
    ValueError
        If a value is outside the bounds.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.evaluation.sequences import interval
    >>> values = np.random.default_rng(0).uniform(size=1000)
    >>> [round(end, 2) for end in interval(values, 0.05, (0, 1))]
    [0.48, 0.56]
    """
    values = _array(values)
    if bounds is None:
        if len(values) == 0:
            return -np.inf, np.inf
        mean, half = _t_intervals(values, alpha)
        return float(mean[-1] - half[-1]), float(mean[-1] + half[-1])
    grid = np.linspace(*bounds, _GRID + 1)
    step = max(1, _AT_ONCE // max(len(values), 1))
    parts = (grid[at : at + step] for at in range(0, len(grid), step))
    left = np.concatenate([sides(values, part, alpha, bounds) == 0 for part in parts])
    if not left.any():
        # Only where values are not in random order.
        return np.nan, np.nan
    # One step further out, because the ends lie between two.
    kept = np.flatnonzero(left)
    first, last = max(kept[0] - 1, 0), min(kept[-1] + 1, _GRID)
    return float(grid[first]), float(grid[last])


def p_value(values: ArrayLike, bounds: Bounds | None) -> float:
    """Return a p-value of the mean being 0 that holds whenever one stops.

    Parameters
    ----------
    values : array, shape (n,)
        In random order.
    bounds : (float, float) or None
        Between which all values lie, 0 inside.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.evaluation.sequences import p_value
    >>> p_value(np.zeros(100), (-1, 1)), p_value(np.full(100, 0.5), (-1, 1)) < 1e-6
    (1.0, True)
    """
    values = _array(values)
    if len(values) == 0:
        return 1.0
    if bounds is not None:
        up, down = _capital(*_scaled(values, np.zeros(1), bounds), _STAKED_FOR)
        return float(min(1.0, np.exp(np.log(2) - np.logaddexp(up, down).max())))
    counts, mean, variance, enough = _moments(values)
    mixture = _mixture(_STAKED_FOR)
    weight = mixture / (mixture + counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = counts * mean**2 / (variance * (counts - 1))
        share = (1 + squared * weight) / (1 + squared)
        logs = (counts * np.log(share) - np.log(weight)) / 2
    known = enough & np.isfinite(logs)
    return float(min(1.0, np.exp(logs[known].min()))) if known.any() else 1.0


def _array(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _first(excluded: NDArray[np.bool_], side: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the side at the first exclusion, 0 where there is none."""
    at = excluded.argmax(1)[:, None]
    found = np.take_along_axis(side, at, 1) * np.take_along_axis(excluded, at, 1)
    return found[:, 0]


def _scaled(values: Floats, candidates: Floats, bounds: Bounds) -> tuple[Floats, Floats]:
    """Return values and candidates of their mean with the bounds moved to 0 and 1."""
    low, high = bounds
    scaled, wanted = ((each - low) / (high - low) for each in (values, candidates))
    if scaled.min() < -SLACK or scaled.max() > 1 + SLACK:
        wrong = values[np.abs(scaled - 0.5).argmax()]
        raise ValueError(f"values must be between {low} and {high}, one is {wrong}")
    # Against a mean at a bound nothing else can be bet.
    tiny = np.finfo(np.float64).tiny
    return scaled.clip(0, 1), wanted.clip(tiny, 1 - np.finfo(np.float64).epsneg)


def _capital(values: Floats, candidates: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the logarithms of what was won by bets on a larger mean, and on a smaller, (k, n)."""
    count = np.arange(1, len(values) + 1)
    # As if there had been one value of 1/2 before, with a variance of 1/4.
    mean = (0.5 + values.cumsum()) / (count + 1)
    squares = 0.25 + np.square(values - mean).cumsum()
    before = np.concatenate([[0.25], squares[:-1]])
    stake = np.sqrt(2 * np.log(2 / alpha) / (before * np.log1p(count)))
    candidates = candidates[:, None]
    gain = values - candidates
    up = np.log1p(np.minimum(stake, _TRUNCATION / candidates) * gain).cumsum(1)
    down = np.log1p(-np.minimum(stake, _TRUNCATION / (1 - candidates)) * gain).cumsum(1)
    return up, down


def _t_intervals(values: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the middle and half the width of the interval after each number of values."""
    counts, mean, variance, enough = _moments(values)
    weight = _mixture(alpha) / (_mixture(alpha) + counts)
    bound = (alpha**2 * weight) ** (1 / counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.sqrt(variance / counts * (counts - 1) * (1 - bound) / (bound - weight))
    return mean, np.where(enough & (bound > weight), half, np.inf)


def _mixture(alpha: float) -> float:
    return _TUNED_FOR / (-2 * math.log(alpha) + math.log1p(-2 * math.log(alpha)))


def _moments(values: Floats) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Return how many there were, their means and variances, and whether that is enough."""
    counts: Floats = np.arange(1, len(values) + 1, dtype=np.float64)
    centred = values - values[0]
    mean = centred.cumsum() / counts
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (np.square(centred).cumsum() - counts * mean**2) / (counts - 1)
    different = counts - _most_frequent(values)
    enough = (counts >= _FEWEST) & (different >= _FEWEST_DIFFERENT)
    return counts, mean + values[0], np.maximum(variance, 0), enough


def _most_frequent(values: Floats) -> NDArray[np.int64]:
    """Return how often the most frequent value has come so far; 0 while each came once."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    places = np.arange(len(values))
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    before = places - np.maximum.accumulate(np.where(starts, places, 0))
    times = np.empty_like(before)
    times[order] = before + 1
    most = np.maximum.accumulate(times)
    return np.where(most > 1, most, 0)
