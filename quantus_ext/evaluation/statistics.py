"""Statistics of scores: of the same samples, and of two sets of samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from quantus.helpers.enums import ScoreDirection
from scipy import stats

_AT_ONCE = 4_000_000
"""Numbers in memory while resampling."""

_BOUNDED_DRAWS = 20_000
"""Of the distribution that intervals of bounded scores come from."""

ROUNDING = 1e-12
"""Differences below this share of what is compared are none."""

Floats = NDArray[np.float64]


Bounds = tuple[float, float]
"""Between which all scores lie, those not seen as well."""


@dataclass(frozen=True)
class Means:
    """Means of k rows over the same n samples.

    Attributes
    ----------
    mean, low, high : numpy.ndarray, shape (k,)
        Each interval by itself covers the true mean with the stated confidence; NaN for a row of
        n equal scores whose bounds are not known.
    tied : numpy.ndarray of bool, shape (k, k)
        Pairs whose difference may be 0, by a test that holds for all pairs at once.
    """

    mean: Floats
    low: Floats
    high: Floats
    tied: NDArray[np.bool_]


def paired_means(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Means:
    """Return means with intervals, and which of them the samples cannot tell apart.

    Intervals come from a percentile bootstrap of the samples. Its ends are moved outwards by
    Student's distribution, because percentile intervals are too narrow for few samples (Hesterberg,
    2015). If all scores of a row are equal, they do not show how far others may lie: such a row has
    no interval without ``bounds``. With ``bounds``, intervals are Gaffke's (2005), which allow for
    one more sample at the bound. They are wide enough for any number of samples, and for scores of
    0 and 1 they are those of Clopper and Pearson.

    A pair is told apart if two tests agree. Both use the largest studentised difference of all
    pairs. The first flips the signs of the samples' differences. If the differences are symmetric
    around 0, the probability that any pair is wrongly told apart is at most 1 - confidence, for any
    number of samples and rows, even if other pairs do differ. The second is a paired bootstrap of
    the samples, which keeps that probability approximately if the differences are skewed. With a
    confidence of 0.95, at least six samples that differ are needed to tell a pair apart. Pairs with
    fewer, which no data of that kind could tell apart, do not count among the others (Tarone,
    1990): resamples without these samples have no spread.

    Parameters
    ----------
    values : array, shape (k, n)
        Finite, n at least 2.
    confidence : float, default 0.95
    n_resamples : int, default 2000
        Resamples of each bootstrap, and number of sign flips; all sign flips if there are fewer.
    seed : int, default 0
    bounds : (float, float), optional
        See :func:`bounds_of`.

    Returns
    -------
    Means

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.evaluation.statistics import paired_means
    >>> hard = np.random.default_rng(0).normal(size=40)
    >>> noise = np.random.default_rng(1).normal(scale=0.1, size=(3, 40))
    >>> means = paired_means(hard + [[0.0], [0.0], [0.2]] + noise)
    >>> means.tied.tolist()
    [[True, True, False], [True, True, False], [False, False, True]]
    """
    values = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    if bounds is None:
        low, high = _bootstrapped(values, confidence, n_resamples, generator)
    else:
        ends = [_bounded(row, bounds, confidence, generator) for row in values]
        low, high = np.array(ends).T
    mean: Floats = values.mean(1)
    return Means(mean, low, high, tied_pairs(values, confidence, n_resamples, generator))


def bounds_of(values: ArrayLike) -> Bounds | None:
    """Return the bounds of scores that are counted answers, (0, 1) or (-1, 1); else None.

    Examples
    --------
    >>> from quantus_ext.evaluation.statistics import bounds_of
    >>> bounds_of([0.0, 0.0, 0.0]), bounds_of([1, -1, 0]), bounds_of([0.0, 0.5])
    ((0.0, 1.0), (-1.0, 1.0), None)
    """
    values = np.asarray(values)
    for low in (0.0, -1.0):
        if np.isin(values, [low, 0.0, 1.0]).all():
            return low, 1.0
    return None


def _bootstrapped(
    values: Floats, confidence: float, n_resamples: int, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    k, n = values.shape
    resampled: Floats = stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=n_resamples,
        batch=max(1, _AT_ONCE // values.size),
        method="percentile",
        rng=generator,
    ).bootstrap_distribution.reshape(k, n_resamples)
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=1)
    same = np.ptp(values, axis=1) <= ROUNDING * np.abs(values).max(1)
    return np.where(same, np.nan, low), np.where(same, np.nan, high)


def _bounded(
    row: Floats, bounds: Bounds, confidence: float, generator: np.random.Generator
) -> tuple[float, float]:
    """Return an interval of the mean of a few different values that lie within the bounds."""
    found, counts = np.unique(row, return_counts=True)
    # Spacings of n uniform numbers, added up value by value, the last one for the bound.
    weights = generator.standard_gamma([*counts, 1], size=(_BOUNDED_DRAWS, len(counts) + 1))
    weights /= weights.sum(1, keepdims=True)
    tail = (1 - confidence) / 2
    low, high = (weights @ np.append(found, bound) for bound in bounds)
    return float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail))


def tied_pairs(
    values: Floats, confidence: float, n_resamples: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which rows the samples cannot tell apart; see :func:`paired_means`."""
    # Equal differences have a spread of 0 and no mean but by rounding.
    level = (1 - confidence) * (1 + 1e-9)
    tied: NDArray[np.bool_] = _pair_p_values(values, n_resamples, generator, level) > level
    return tied


def pair_p_values(values: Floats, n_resamples: int, generator: np.random.Generator) -> Floats:
    """Return the p-value of each pair of rows having equal means, uncorrected, shape (k, k).

    It is the larger one of the two tests of :func:`paired_means`.

    Parameters
    ----------
    values : array, shape (k, n)
    n_resamples : int
    generator : numpy.random.Generator
    """
    return _pair_p_values(values, n_resamples, generator)


def _pair_p_values(
    values: Floats, n_resamples: int, generator: np.random.Generator, level: float | None = None
) -> Floats:
    """Return p-values of pairs, each by itself, or with a level of all that could reach it."""
    k = len(values)
    pairs = np.stack(np.triu_indices(k, 1))
    p = np.ones((k, k))
    if pairs.size == 0:
        return p
    turned, differing = _turned(values, pairs, n_resamples, generator)
    # A sample without a difference has no sign that could be flipped.
    counted = differing > 0 if level is None else 2.0 ** (1 - differing) <= level
    if not counted.any():
        return p
    turned, pairs = turned[:, counted], pairs[:, counted]
    resampled = _resampled(values, pairs, n_resamples, generator)
    shares = [
        _shares_of_first(sizes) if level is None else _share_at_least(sizes[0], sizes.max(1))
        for sizes in (turned, resampled)
    ]
    p[pairs[0], pairs[1]] = p[pairs[1], pairs[0]] = np.maximum(*shares)
    return p


def _turned(
    values: Floats, pairs: NDArray[np.intp], n_resamples: int, generator: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the size of each pair's difference for each turn of signs, that of no turn first.

    And on how many samples each pair differs.
    """
    n = values.shape[1]
    # Turning all samples changes no size.
    every = 2 ** (n - 1) if n <= 32 else np.inf
    count = int(min(every, n_resamples))
    sums, squares = np.zeros((count, pairs.shape[1])), np.zeros(pairs.shape[1])
    differing = np.zeros(pairs.shape[1], dtype=np.int64)
    for places in _parts(n, max(sums.shape)):
        difference = paired_difference(*values[:, places][pairs])
        if every <= n_resamples:
            signs = 1.0 - 2 * ((np.arange(count)[:, None] >> places) & 1)
        else:
            signs = 1.0 - 2 * generator.integers(0, 2, (count, len(places)))
            signs[0] = 1
        sums += signs @ difference.T
        squares += np.square(difference).sum(1)
        differing += np.count_nonzero(difference, axis=1)
    # A t statistic grows with the size of the sum over the root of the sum of squares, which no
    # turn changes.
    return _ratio(np.abs(sums), np.sqrt(n * squares)), differing


def _resampled(
    values: Floats, pairs: NDArray[np.intp], n_resamples: int, generator: np.random.Generator
) -> Floats:
    """Return each pair's studentised size, as found first, then of each resample around it."""
    n = values.shape[1]
    mean = values.mean(1)[pairs[0]] - values.mean(1)[pairs[1]]
    left = np.full(n_resamples, n)
    drawn, drawn_squares = np.zeros((2, n_resamples, pairs.shape[1]))
    variance = np.zeros(pairs.shape[1])
    for places in _parts(n, max(drawn.shape)):
        # How often a resample of n has each of these samples.
        here = generator.binomial(left, len(places) / (n - places[0]))
        left -= here
        times = generator.multinomial(here, np.full(len(places), 1 / len(places))) / n
        centred = paired_difference(*values[:, places][pairs]) - mean[:, None]
        drawn += times @ centred.T
        drawn_squares += times @ np.square(centred).T
        variance += np.square(centred).sum(1) / n
    spread = np.sqrt(np.maximum(drawn_squares - np.square(drawn), 0))
    found = _ratio(np.abs(mean), np.sqrt(variance))
    return np.vstack([found, _ratio(np.abs(drawn), spread)])


def _parts(n: int, width: int) -> Iterator[NDArray[np.intp]]:
    """Yield consecutive places of n that, times the width, are not too many at once."""
    step = max(1, _AT_ONCE // width)
    for start in range(0, n, step):
        yield np.arange(start, min(start + step, n))


def _shares_of_first(sizes: Floats) -> Floats:
    """Return, column by column, which share is as large as the first."""
    return np.array([float(_share_at_least(column[0], column)) for column in sizes.T])


def _ratio(first: Floats, second: Floats) -> Floats:
    """Return ``first / second``, of which 0 / 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(first / second, nan=0.0, posinf=np.inf)


def _share_at_least(found: Floats, largest: Floats) -> Floats:
    """Return of each number which share of ``largest`` is as large; rounding makes none smaller."""
    ordered = np.sort(largest)
    # Discrete scores often make equal sizes, which rounding must not order.
    below = np.searchsorted(ordered, found * (1 - 1e-9))
    share: Floats = 1 - below / len(ordered)
    return share


def sign_of(direction: ScoreDirection) -> int:
    """Return 1 if higher scores are better, -1 if lower ones are."""
    return -1 if direction is ScoreDirection.LOWER else 1


def paired_difference(first: Floats, second: Floats) -> Floats:
    """Return ``first - second``, set to 0 where it is no more than rounding."""
    difference: Floats = first - second
    scale = np.maximum(np.abs(first), np.abs(second))
    difference[np.abs(difference) < ROUNDING * scale] = 0.0
    return difference


def paired_test(difference: ArrayLike, *, n_resamples: int = 2000, seed: int = 0) -> float:
    """Return the two-sided p-value of a permutation test that paired differences have mean 0.

    The two scores of a sample are exchanged at random.

    Parameters
    ----------
    difference : array, shape (n,)
    n_resamples : int, default 2000
        Number of random exchanges; all of them if there are fewer.
    seed : int, default 0

    Examples
    --------
    >>> from quantus_ext.evaluation.statistics import paired_test
    >>> paired_test([0.1, 0.2, 0.3, 0.1, 0.2])
    0.0625
    """
    values = np.asarray(difference, dtype=np.float64)

    def mean(first: Floats, second: Floats, axis: int) -> Floats:
        result: Floats = np.mean(first - second, axis=axis)
        return result

    result = stats.permutation_test(
        (values, np.zeros_like(values)),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, _AT_ONCE // len(values)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: ArrayLike) -> Floats:
    """Return p-values corrected by Holm's method; NaN stays and is not counted.

    The probability of any false alarm is at most the level that the corrected values are compared
    with, for any dependence between the tests.

    Examples
    --------
    >>> from quantus_ext.evaluation.statistics import holm
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p[order]
    corrected = np.full_like(p, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


@dataclass(frozen=True)
class Shift:
    """How two sets of scores differ.

    Attributes
    ----------
    level : float
        P-value of the Mann-Whitney test: are scores of one set larger?
    shape : float
        P-value of the two-sample Kolmogorov-Smirnov test: do the distributions differ at all?
    effect : float
        Cliff's delta, from -1 to 1: the probability that a score of the second set is larger,
        minus the probability that it is smaller.
    distance : float
        The largest difference between the distribution functions, from 0 to 1.
    """

    level: float
    shape: float
    effect: float
    distance: float


def shift(first: ArrayLike, second: ArrayLike) -> Shift:
    """Compare two sets of scores.

    Parameters
    ----------
    first, second : array, shapes (n,) and (m,)
        Finite, at least one each.

    Examples
    --------
    >>> from quantus_ext.evaluation.statistics import shift
    >>> shift([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]).effect
    1.0
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if np.ptp(np.concatenate([a, b])) == 0:
        return Shift(1.0, 1.0, 0.0, 0.0)
    level = stats.mannwhitneyu(b, a, alternative="two-sided")
    shape = stats.ks_2samp(a, b)
    return Shift(
        float(level.pvalue),
        float(shape.pvalue),
        float(2 * level.statistic / (len(a) * len(b)) - 1),
        float(shape.statistic),
    )
