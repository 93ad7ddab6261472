"""Ranks in which numbers that differ by rounding alone are equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

ROUNDING = 1e-12
"""Differences below this share of the largest number are none."""


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of finite numbers, from 1; equal ones share the mean of theirs.

    Whatever the numbers' scale: those that differ by less than 1e-12 of the largest are equal.

    Parameters
    ----------
    values : array, shape (n,)

    Returns
    -------
    array, shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.protocols.ranks import ranks
    >>> values = np.array([0.3, 0.1 + 0.2, 0.1, 0.4])
    >>> ranks(values).tolist(), ranks(1e-30 * values).tolist()
    ([2.5, 2.5, 1.0, 4.0], [2.5, 2.5, 1.0, 4.0])
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    with np.errstate(over="ignore"):
        larger = np.diff(ordered) > ROUNDING * np.abs(values).max(initial=0)
    found = np.empty_like(values)
    found[order] = rankdata(np.concatenate([[0], larger.cumsum()])[: len(values)])
    return found
