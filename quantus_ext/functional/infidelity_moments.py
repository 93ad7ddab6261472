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
    a : Tensor, shape (n, m, d)
        Of m maps.
    b : Tensor, shape (n, d), or (n, m, d) for maps of different classes

    Returns
    -------
    Tensor, float64, shape (n, m, N_SUMS)
    """
    a, b = a.double(), b.double()
    if b.ndim == 2:
        b = b.unsqueeze(1)
    products = (_powers(a) @ _powers(b).transpose(2, 3)).flatten(2)
    squared = (a - b) ** 2
    return torch.cat([products, squared.sum(2, True), (squared**2).sum(2, True)], 2)


def _powers(values: Tensor) -> Tensor:
    """Return the powers 0 to 4 of values (n, m, d), shape (n, m, 5, d)."""
    square = values * values
    return torch.stack(
        [torch.ones_like(values), values, square, square * values, square * square], 2
    )


class Moments:
    """Means over draws, and the scores that follow from them.

    β is fitted to the draws, so the residual that is left of them is smaller, and the share of
    ``b`` that is predicted larger, than of perturbations in general, by about one draw's worth.
    What is expected of that is taken off again, to the first order in 1 / N. No degree of freedom
    is left of a single draw, so that what rests on β is then NaN.

    Parameters
    ----------
    sums : Tensor, shape (\\*maps, n, N_SUMS)
        From :func:`power_sums`.
    counts : Tensor, shape (\\*maps, n)
        Draws N.
    sizes : Tensor, shape (n,), optional
        Of how many perturbations C they are drawn without repetition; by default infinitely many.
        N = C draws are all there is, and need no correction.
    single : Tensor, bool, shape (n,), optional
        Where only one mask is possible, so that draws that are predicted alike are one.
    """

    def __init__(
        self,
        sums: Tensor,
        counts: Tensor,
        sizes: Tensor | None = None,
        single: Tensor | None = None,
    ) -> None:
        self.counts = counts
        means = sums / counts.unsqueeze(-1)
        self._products = means[..., :-2].unflatten(-1, (_ORDERS, _ORDERS))
        self._residual = means[..., -2], means[..., -1]
        share = 0.0 if sizes is None else counts / sizes
        several = counts > 1
        if single is not None:
            # Repeating one perturbation changes ``a`` not at all, and ``b`` by rounding only.
            several = several & ~(single & self._variance(1, 0).isnan())
        # The factor from the variance over draws to the variance of their mean.
        self._sampling = torch.where(several, (1 - share) / (counts - 1), torch.nan)

    def product(self, p: int, q: int) -> Tensor:
        """Return ``E[aᵖ bᵠ]``."""
        mean: Tensor = self._products[..., p, q]
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
        to first order: it is the variance of ``(βa - b)²`` at the estimated β. Its mean is
        ``E[(βa - b)²] + V·E[a²(βa - b)²] / E[a²]``, with V = ``(1 - N/C) / (N - 1)``.
        """
        second, fourth = self.scaled_residual(self.scale()) if rescale else self._residual
        unbiased = self.counts / (self.counts - 1)
        variance = (fourth - second**2).clamp(min=0) * unbiased
        return (second + self._fitted_residual() if rescale else second), variance

    def _fitted_residual(self) -> Tensor:
        """Return by how much fitting β is expected to lower the residual of the draws."""
        m, beta, energy = self.product, self.scale(), self.product(2, 0)
        weighted = (m(2, 2) - 2 * beta * m(3, 1) + beta**2 * m(4, 0)).clamp(min=0)
        return torch.where(energy == 0, 0.0, self._sampling * weighted / energy)

    def faithfulness(self) -> Tensor:
        """Return ``1 - E[(max(β, 0) a - b)²] / E[b²]``, in [0, 1]; NaN where b is always 0.

        Where β is above 0 that is ``E[ab]² / (E[a²] E[b²])``. The mean of such a ratio over draws
        is off by half its second derivatives times the covariances of its three means.
        """
        m, energy, effect = self.product, self.product(2, 0), self.product(0, 2)
        both = energy * effect
        positive = m(1, 1).clamp(min=0)
        raw = positive**2 / both
        excess = (
            m(2, 2) / both * (1 + raw)
            + raw * (m(4, 0) / energy**2 + m(0, 4) / effect**2)
            - 2 * positive / both * (m(3, 1) / energy + m(1, 3) / effect)
        )
        # Clipped at 0, whatever the draws.
        excess = torch.where(positive == 0, 0.0 * self._sampling, self._sampling * excess)
        faithful = (raw - excess).clamp(0, 1)
        return torch.where((energy == 0) & (effect != 0), 0.0, faithful)

    def correlation(self) -> Tensor:
        """Return the correlation of a and b, NaN where one of them is constant."""
        m = self.product
        covariance = m(1, 1) - m(1, 0) * m(0, 1)
        a, b = self._variance(1, 0), self._variance(0, 1)
        return (covariance / (a * b).sqrt()).clamp(-1, 1)

    def _variance(self, p: int, q: int) -> Tensor:
        """Return the variance of ``aᵖ bᵠ`` over draws, of orders below 3, NaN where it is 0."""
        square = self.product(2 * p, 2 * q)
        variance = square - self.product(p, q) ** 2
        # The remainder of a constant is rounding, not variance.
        return torch.where(variance <= 1e-14 * square, torch.nan, variance)

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
