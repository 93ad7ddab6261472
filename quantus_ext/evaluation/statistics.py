"""What scores of the same samples, or of two sets of samples, say about each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_AT_ONCE = 4_000_000
"""Numbers in memory while resampling."""

ROUNDING = 1e-12
"""Differences below this share of what is compared are none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """Means of k rows over the same n samples, by one paired bootstrap.

    Attributes
    ----------
    mean, low, high : numpy.ndarray, shape (k,)
        Each interval by itself covers the true mean with the stated confidence.
    tied : numpy.ndarray of bool, shape (k, k)
        Pairs whose difference may be 0, by intervals that hold for all pairs at once.
    """

    mean: Floats
    low: Floats
    high: Floats
    tied: NDArray[np.bool_]


def paired_means(
    values: ArrayLike, *, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> Means:
    """Return means with intervals, and which of them the samples cannot tell apart.

    All rows are resampled alike, so that what makes a sample hard for all of them cancels in
    their differences. Intervals are of the percentile kind with its ends moved out as Student's
    distribution says, because that kind is too narrow for few samples (Hesterberg, 2015). The
    intervals of differences are as wide as the largest of all studentised ones requires, so that
    the chance that any pair is told apart wrongly is at most 1 - confidence.

    Parameters
    ----------
    values : array, shape (k, n)
        Finite, n at least 2.
    confidence : float, default 0.95
    n_resamples : int, default 2000
    seed : int, default 0

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
    k, n = values.shape
    resampled: Floats = stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=n_resamples,
        batch=max(1, _AT_ONCE // values.size),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution.reshape(k, n_resamples)
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=1)
    mean: Floats = values.mean(1)
    return Means(mean, low, high, _ties(mean, resampled, n, confidence))


def _ties(mean: Floats, resampled: Floats, n: int, confidence: float) -> NDArray[np.bool_]:
    difference = np.subtract.outer(mean, mean)
    first, second = np.triu_indices(len(mean), 1)
    if len(first) == 0:
        return np.ones_like(difference, dtype=bool)
    draws = resampled[first] - resampled[second]
    rounding = ROUNDING * np.abs(mean).max()
    spread = draws.std(1)
    spread[spread < rounding] = 0
    centred = np.abs(draws - difference[first, second][:, None])
    ratios = np.divide(
        centred, spread[:, None], out=np.zeros_like(centred), where=spread[:, None] > 0
    )
    largest = np.quantile(ratios.max(0), confidence)
    # From the normal to Student's distribution, for few samples.
    critical = stats.t.isf(stats.norm.sf(largest), n - 1) * np.sqrt(n / (n - 1))
    tied = np.eye(len(mean), dtype=bool)
    within = np.abs(difference[first, second]) <= critical * spread + rounding
    tied[first, second] = tied[second, first] = within
    return tied


def paired_test(difference: ArrayLike, *, n_resamples: int = 2000, seed: int = 0) -> float:
    """Return the two-sided p-value of paired differences having mean 0, by permutation.

    Within a sample the two scores are exchanged at random.

    Parameters
    ----------
    difference : array, shape (n,)
    n_resamples : int, default 2000
        All exchanges are made where there are fewer.
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
    """Return p-values corrected for their number by Holm's method; NaN stays and does not count.

    The chance of any false alarm among all of them is at most the level that they are compared
    with, however they depend on each other.

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
        Cliff's delta, from -1 to 1: the chance that a score of the second set is the larger one,
        less the chance that it is the smaller.
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
