"""What every metric returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scores(NamedTuple):
    """Scores of n samples.

    Attributes
    ----------
    score : Tensor, float64, shape (n,)
    standard_error : Tensor, float64, shape (n,)
        Monte-Carlo standard error of each score: 0 where nothing is random, NaN where it cannot
        be known.
    details : dict of Tensor, each of n rows
        What else the same evaluations gave.
    """

    score: Tensor
    standard_error: Tensor
    details: dict[str, Tensor]
