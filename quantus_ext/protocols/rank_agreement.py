"""Whether metrics rank explanations by their known quality (Zheng et al., ICLR 2025, §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor

from quantus_ext import checks
from quantus_ext.evaluation.tables import plain
from quantus_ext.protocols.ranks import ranks

PAIRS = ("plus vs truth", "minus vs truth", "plus vs minus")
"""What is correlated: Fid⁺ with the noise (best −1), Fid⁻ with it (+1), both signs (−1)."""

_BEST = np.array([-1.0, 1.0, -1.0])

_DIGITS = 9
"""Decimals of correlations that count where metrics are ranked by them."""


@dataclass(frozen=True)
class RankAgreement:
    """Spearman correlations of metrics with the truth, in the order of ``PAIRS``.

    Attributes
    ----------
    names : tuple of str
        The metrics, m of them.
    macro : numpy.ndarray, shape (m, 3)
        Correlations of the areas over sparsity; NaN if undefined.
    by_sparsity : numpy.ndarray, shape (m, 3, S)
        Correlations at each distinct sparsity; NaN if undefined, as when all levels score the same.
    micro, spread : numpy.ndarray, shape (m, 3)
        Mean and standard deviation of the defined ones, NaN if there are none.
    undefined : numpy.ndarray of int, shape (m, 3)
        The number of sparsities whose correlation is undefined.
    mean_rank, rank_spread : numpy.ndarray, shape (m, 3)
        Mean and standard deviation over sparsities of a metric's rank among the metrics; 1 is best.
        Ties share the best rank; undefined correlations rank last.
    """

    names: tuple[str, ...]
    macro: NDArray[np.float64]
    by_sparsity: NDArray[np.float64]
    micro: NDArray[np.float64]
    spread: NDArray[np.float64]
    undefined: NDArray[np.int64]
    mean_rank: NDArray[np.float64]
    rank_spread: NDArray[np.float64]

    def to_markdown(self) -> str:
        """Return the table of the paper: correlations, ranks, and how many are undefined."""
        lines = [
            f"| | {' | '.join(map(plain, self.names))} |",
            f"| --- |{' ---: |' * len(self.names)}",
        ]
        for pair, name in enumerate(PAIRS):
            row = [
                "undefined" if np.isnan(value) else f"{value:.2f}" for value in self.macro[:, pair]
            ]
            lines.append(f"| macro, {name} | {' | '.join(row)} |")
        for pair, name in enumerate(PAIRS):
            row = [self._micro(metric, pair) for metric in range(len(self.names))]
            lines.append(f"| micro, {name} | {' | '.join(row)} |")
        for pair, name in enumerate(PAIRS):
            row = [
                f"{mean:.2f} ± {spread:.2f}"
                for mean, spread in zip(
                    self.mean_rank[:, pair], self.rank_spread[:, pair], strict=True
                )
            ]
            lines.append(f"| mean rank, {name} | {' | '.join(row)} |")
        return "\n".join(lines)

    def _micro(self, metric: int, pair: int) -> str:
        count = self.undefined[metric, pair]
        if count == self.by_sparsity.shape[2]:
            return f"undefined ({count})"
        shown = f"{self.micro[metric, pair]:.2f} ± {self.spread[metric, pair]:.2f}"
        return f"{shown} ({count} undefined)" if count else shown


def rank_agreement(
    metrics: Mapping[str, tuple[ArrayLike, ArrayLike]],
    truth: ArrayLike,
    *,
    sparsity: Sequence[float] | None = None,
) -> RankAgreement:
    """Correlate metrics' scores of explanations of known quality with that quality.

    Parameters
    ----------
    metrics : mapping of str to (array, array), each of shape (levels, S)
        Fid⁺ and Fid⁻ of each metric, by explanation and sparsity.
    truth : array, shape (levels,)
        The noise in each explanation: larger is worse.
    sparsity : sequence of float, optional
        The increasing sparsities of the S columns, for the areas; by default evenly spaced.
        Preferably those actually removed, ``details["size"]`` over the number of elements: of
        columns with the same size, only the first counts.

    Returns
    -------
    RankAgreement

    Raises
    ------
    ValueError
        If shapes do not fit, or a score is not finite.

    Examples
    --------
    >>> from quantus_ext.protocols import rank_agreement
    >>> agreement = rank_agreement(
    ...     {
    ...         "right": (
    ...             [[0.9, 0.8], [0.5, 0.6], [0.1, 0.2]],
    ...             [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]],
    ...         ),
    ...         "blind": ([[0.5, 0.5]] * 3, [[0.1, 0.1], [0.3, 0.2], [0.2, 0.3]]),
    ...     },
    ...     truth=[0.0, 0.5, 1.0],
    ... )
    >>> agreement.macro.round(2).tolist()
    [[-1.0, 1.0, -1.0], [nan, 0.87, nan]]
    >>> agreement.micro.round(2).tolist(), agreement.undefined.tolist()
    ([[-1.0, 1.0, -1.0], [nan, 0.75, nan]], [[0, 0, 0], [2, 0, 2]])
    """
    noise = checks.column("truth", truth)
    if noise.ndim != 1 or len(noise) < 2 or not np.isfinite(noise).all():
        raise ValueError(
            "truth must hold a finite number for each of two or more levels, is "
            f"{checks.shown(truth)}"
        )
    scores = {}
    for name, pair in checks.mapping("metrics", metrics).items():
        if not isinstance(pair, (Sequence, np.ndarray, Tensor)) or len(pair) != 2:
            raise TypeError(
                f"metrics[{name!r}] must hold two arrays, Fid⁺ and Fid⁻, is {checks.shown(pair)}"
            )
        plus, minus = (_checked(name, each, len(noise)) for each in pair)
        scores[name] = (plus, minus)
    if not scores:
        raise ValueError("metrics must hold at least one metric, is empty")
    shapes = {part.shape for pair in scores.values() for part in pair}
    if len(shapes) > 1:
        raise ValueError(f"metrics must all have one shape (levels, sparsities), have {shapes}")
    columns = shapes.pop()[1]
    places = np.arange(columns, dtype=float)
    if sparsity is not None:
        places = np.array(checks.numbers("sparsity", sparsity))
    if places.shape != (columns,) or (np.diff(places) < 0).any():
        raise ValueError(f"sparsity must hold {columns} increasing numbers, is {sparsity}")
    places, first = np.unique(places, return_index=True)
    scores = {name: (p[:, first], m[:, first]) for name, (p, m) in scores.items()}
    columns = len(places)
    macro = np.array(
        [_correlations(_area(p, places), _area(m, places), noise) for p, m in scores.values()]
    )
    by_sparsity = np.array(
        [
            np.stack([_correlations(p[:, s], m[:, s], noise) for s in range(columns)], -1)
            for p, m in scores.values()
        ]
    )
    defined = ~np.isnan(by_sparsity)
    count = defined.sum(-1)
    with np.errstate(invalid="ignore"):
        micro = np.where(defined, by_sparsity, 0).sum(-1) / count
        deviations = np.where(defined, by_sparsity - micro[..., None], 0)
        spread = np.sqrt((deviations**2).sum(-1) / count)
    # Distance from the best value: 0 for a perfect correlation, 2 for the opposite.
    distance = np.abs(by_sparsity - _BEST[:, None]).round(_DIGITS)
    places_of = rankdata(np.where(defined, distance, np.inf), method="min", axis=0)
    return RankAgreement(
        tuple(scores),
        macro,
        by_sparsity,
        micro,
        spread,
        (~defined).sum(-1),
        places_of.mean(-1),
        places_of.std(-1),
    )


def _checked(name: str, values: ArrayLike, levels: int) -> NDArray[np.float64]:
    array = checks.float64(f"metrics[{name!r}]", values)
    if array.ndim != 2 or len(array) != levels or array.shape[1] == 0:
        raise ValueError(
            f"scores of {name!r} must have shape ({levels}, sparsities), as truth has {levels} "
            f"levels, have {array.shape}"
        )
    if not np.isfinite(array).all():
        level = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
        raise ValueError(f"scores of {name!r} must be finite, level {level} is not")
    return array


def _area(curves: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area under each row by trapezoids, or the value itself at a single sparsity."""
    if len(places) == 1:
        return curves[:, 0]
    steps = np.diff(places)
    area: NDArray[np.float64] = ((curves[:, 1:] + curves[:, :-1]) / 2 * steps).sum(1)
    return area


def _correlations(
    plus: NDArray[np.float64], minus: NDArray[np.float64], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.array([_spearman(plus, noise), _spearman(minus, noise), _spearman(plus, minus)])


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the correlation of ranks, NaN if all of either are equal."""
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / scale, -1, 1)) if scale else float("nan")
