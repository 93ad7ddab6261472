"""What the studies of QGE share: rank correlations before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

Values = NDArray[np.float64]


class Order(NamedTuple):
    """How well q's order survives: rank correlations of q and what is made of it."""

    tau: float
    rho: float


class Gain(NamedTuple):
    """The order kept by QGE and by the comparison with one random explanation."""

    qge: Order
    random: Order

    @property
    def tau(self) -> float:
        return self.qge.tau - self.random.tau

    @property
    def rho(self) -> float:
        return self.qge.rho - self.random.rho


def order(q: Values, reference: Values) -> Order:
    """Return the order that is kept by ``q - reference``."""
    transformed = q - reference
    if np.ptp(q) == 0 or np.ptp(transformed) == 0:
        return Order(np.nan, np.nan)
    return Order(float(kendalltau(q, transformed)[0]), float(spearmanr(q, transformed)[0]))


def gain(q: Values, q_inverse: Values, q_random: Values) -> Gain:
    """Compare the two references of the same explanations, all for one input."""
    return Gain(order(q, q_inverse), order(q, q_random))


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean and the standard deviation over inputs."""
    kept = [value for value in values if not np.isnan(value)]
    text = f"{np.mean(kept):.{digits}f} ± {np.std(kept):.{digits}f}"
    return text if len(kept) == len(values) else f"{text} ({len(values) - len(kept)} undefined)"


def gain_cells(gains: Sequence[Gain]) -> list[str]:
    """Return τ of QGE, of one random reference, Δτ and Δρ over inputs."""
    return [
        mean_and_spread([g.qge.tau for g in gains]),
        mean_and_spread([g.random.tau for g in gains]),
        mean_and_spread([g.tau for g in gains]),
        mean_and_spread([g.rho for g in gains]),
    ]


GAIN_HEADER = ["τ(q, QGE)", "τ(q, one random)", "Δτ", "Δρ"]
