"""Does a transformed metric rank explanations as the metric does (Eiras-Franco et al., §4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from quantus_ext import checks
from quantus_ext.protocols.ranks import ranks


@dataclass(frozen=True)
class OrderPreservation:
    """How well the order of explanations survives a transformation of their quality.

    Attributes
    ----------
    tau : float
        Kendall's rank correlation of the two (τ-b): the share of pairs in the same order less the
        share in the opposite one, ties aside. NaN where one of the two is constant.
    rho : float
        Spearman's rank correlation.
    tau_by_stratum, rho_by_stratum : numpy.ndarray, shape (n_strata,)
        The same among explanations of about equal quality, worst stratum first; NaN where ties
        leave a stratum without two explanations that differ.
    edges : numpy.ndarray, shape (n_strata + 1,)
        The qualities between which the strata lie; one on an edge belongs to the stratum above.
    """

    tau: float
    rho: float
    tau_by_stratum: NDArray[np.float64]
    rho_by_stratum: NDArray[np.float64]
    edges: NDArray[np.float64]


def order_preservation(
    q: ArrayLike | Tensor, transformed: ArrayLike | Tensor, *, n_strata: int = 10
) -> OrderPreservation:
    """Compare the order of explanations before and after a transformation such as QGE.

    Parameters
    ----------
    q : array, shape (explanations,)
        Quality of many explanations of one input, higher for better.
    transformed : array, shape (explanations,)
        What is made of it, higher for better.
    n_strata : int, default 10
        Strata of quality, of equal numbers of explanations to within one but for ties:
        explanations of equal quality are always in one stratum.

    Returns
    -------
    OrderPreservation

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite, or there are fewer than two explanations a
        stratum.

    Examples
    --------
    >>> from quantus_ext.protocols import order_preservation
    >>> result = order_preservation([1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 5, 7], n_strata=2)
    >>> round(result.tau, 3), result.tau_by_stratum.round(3).tolist()
    (0.867, [0.333, 1.0])
    """
    qualities = _finite("q", q)
    others = _finite("transformed", transformed)
    if qualities.shape != others.shape:
        raise ValueError(
            f"transformed must have q's shape {qualities.shape}, has shape {others.shape}"
        )
    n_strata = checks.positive_integer("n_strata", n_strata)
    if len(qualities) < 2 * n_strata:
        raise ValueError(
            f"n_strata must leave at least two explanations per stratum, is {n_strata} for "
            f"{len(qualities)} explanations"
        )
    ordered = np.sort(qualities)
    lowest = [part[0] for part in np.array_split(ordered, n_strata)]
    edges = np.array([*lowest, ordered[-1]])
    stratum = np.searchsorted(edges[1:-1], qualities, side="right")
    each = np.array(
        [_correlations(qualities[stratum == k], others[stratum == k]) for k in range(n_strata)]
    )
    tau, rho = _correlations(qualities, others)
    return OrderPreservation(tau, rho, each[:, 0], each[:, 1], edges)


def _finite(name: str, values: ArrayLike | Tensor) -> NDArray[np.float64]:
    array = checks.column(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (explanations,), has {array.shape}")
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, explanation {first} has {array[first]}")
    return array


def _correlations(q: NDArray[np.float64], transformed: NDArray[np.float64]) -> tuple[float, float]:
    first, second = ranks(q), ranks(transformed)
    if len(q) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan, np.nan
    return float(kendalltau(first, second)[0]), float(spearmanr(first, second)[0])
