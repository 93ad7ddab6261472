"""What draws of Infidelity leave: sums of powers, and the scores that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor

_ORDERS = 5
"""Powers 0 to 4 of a and of b: products up to the fourth order give the standard errors."""
N_SUMS = _ORDERS**2 + 2
"""Numbers that :func:`power_sums` gives of a sample."""


def power_sums(a: Tensor, b: Tensor) -> Tensor:
    """Sum over draws, in float64, the products ``aᵖ bᵠ`` and the residual's 2nd and 4th power.

    The residual's own sums are kept beside the products, from which they follow, because a
    perfect explanation leaves only what rounding makes of the difference of large sums.

    Parameters
    ----------
    a, b : Tensor, shape (n, d)

    Returns
    -------
    Tensor, float64, shape (n, N_SUMS)
    """
    a, b = a.double(), b.double()
    products = torch.einsum("npd,nqd->npq", _powers(a), _powers(b)).flatten(1)
    squared = (a - b) ** 2
    return torch.cat([products, squared.sum(1, True), (squared**2).sum(1, True)], 1)


def _powers(values: Tensor) -> Tensor:
    """Return the powers 0 to 4 of values (n, d), shape (n, 5, d)."""
    square = values * values
    return torch.stack(
        [torch.ones_like(values), values, square, square * values, square * square], 1
    )


class Moments:
    """Means over draws, and the scores that follow from them.

    Parameters
    ----------
    sums : Tensor, shape (n, N_SUMS)
        From :func:`power_sums`.
    counts : Tensor, shape (n,)
        Draws.
    """

    def __init__(self, sums: Tensor, counts: Tensor) -> None:
        self.counts = counts
        means = sums / counts.unsqueeze(1)
        self._products = means[:, :-2].unflatten(1, (_ORDERS, _ORDERS))
        self._residual = means[:, -2], means[:, -1]

    def product(self, p: int, q: int) -> Tensor:
        """Return ``E[aᵖ bᵠ]``."""
        mean: Tensor = self._products[:, p, q]
        return mean

    def scale(self) -> Tensor:
        """Return ``β = E[ab] / E[a²]``, 0 where a is always 0."""
        energy = self.product(2, 0)
        return torch.where(energy == 0, 0.0, self.product(1, 1) / energy)

    def scaled_residual(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``E[(βa - b)²]`` and ``E[(βa - b)⁴]``."""
        m = self.product
        second = beta**2 * m(2, 0) - 2 * beta * m(1, 1) + m(0, 2)
        fourth = (
            beta**4 * m(4, 0)
            - 4 * beta**3 * m(3, 1)
            + 6 * beta**2 * m(2, 2)
            - 4 * beta * m(1, 3)
            + m(0, 4)
        )
        return second.clamp(min=0), fourth

    def loss(self, rescale: bool) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the variance of one draw's loss.

        Rescaled infidelity is minimal in β, so that estimating β adds nothing to its variance
        to first order: it is the variance of ``(βa - b)²`` at the estimated β.
        """
        second, fourth = self.scaled_residual(self.scale()) if rescale else self._residual
        unbiased = self.counts / (self.counts - 1)
        return second, (fourth - second**2).clamp(min=0) * unbiased

    def faithfulness(self) -> Tensor:
        """Return ``1 - E[(max(β, 0) a - b)²] / E[b²]``, NaN where b is always 0."""
        second, _ = self.scaled_residual(self.scale().clamp(min=0))
        return (1 - second / self.product(0, 2)).clamp(min=0)

    def correlation(self) -> Tensor:
        """Return the correlation of a and b, NaN where one of them is constant."""
        m = self.product
        covariance = m(1, 1) - m(1, 0) * m(0, 1)
        variances = []
        for square, mean in ((m(2, 0), m(1, 0)), (m(0, 2), m(0, 1))):
            variance = square - mean**2
            # What is left of a constant is rounding, not variance.
            constant = variance <= 1e-14 * square
            variances.append(torch.where(constant, torch.nan, variance))
        return (covariance / (variances[0] * variances[1]).sqrt()).clamp(-1, 1)

    def details(self) -> dict[str, Tensor]:
        """Return all scores of the same draws, and how many these were."""
        return {
            "infidelity": self.loss(False)[0],
            "rescaled_infidelity": self.loss(True)[0],
            "scale": self.scale(),
            "faithfulness": self.faithfulness(),
            "correlation": self.correlation(),
            "n_draws": self.counts,
        }
