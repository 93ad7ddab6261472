"""The three questions of the M4 benchmark: do metrics agree, which method is best, where it counts.

All of them are asked of one table: for each metric its mean scores, models × explainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from quantus.helpers.enums import ScoreDirection
from scipy.stats import spearmanr

from quantus_ext import checks
from quantus_ext.evaluation.tables import markdown, plain
from quantus_ext.protocols.ranks import ROUNDING, ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from quantus_ext.plotting.figures import Place

M4_METRICS = ("MoRF", "ABPC", "PScore", "INFD", "SynScore")
"""What M4's overall score adds, INFD with a minus."""

_UNDEFINED = "–"


@dataclass(frozen=True)
class MetricAgreement:
    """Spearman correlations between metrics, all turned so that higher is better.

    Attributes
    ----------
    names : tuple of str
        The metrics, k of them.
    correlation : numpy.ndarray, shape (k, k)
        Over all pairs of model and explainer; NaN where one of the two metrics is constant.
    within : numpy.ndarray, shape (k, k)
        Correlation over the explainers of a model, averaged over the models where it is defined;
        NaN where it is defined for none. What models differ in does not count here.
    pairs : numpy.ndarray of int, shape (k, k)
        Pairs of model and explainer that ``correlation`` is over.
    undefined : numpy.ndarray of int, shape (k, k)
        Models that ``within`` leaves out.
    """

    names: tuple[str, ...]
    correlation: NDArray[np.float64]
    within: NDArray[np.float64]
    pairs: NDArray[np.int64]
    undefined: NDArray[np.int64]

    def to_markdown(self) -> str:
        """Return a table, pooled above the diagonal and within models below it."""
        shown = np.where(np.tri(len(self.names), dtype=bool), self.within, self.correlation)
        rows = []
        for row, name in enumerate(self.names):
            cells = [_UNDEFINED if np.isnan(value) else f"{value:.2f}" for value in shown[row]]
            cells[row] = ""
            rows.append([plain(name), *cells])
        return markdown(["above: pooled, below: within models", *map(plain, self.names)], rows)

    def plot(self, ax: Place | None = None) -> Axes:
        """Draw ``correlation``; see :func:`quantus_ext.plotting.plot_agreement`."""
        from quantus_ext.plotting import plot_agreement

        return plot_agreement(self, ax=ax)


@dataclass(frozen=True)
class BestMethod:
    """The explainers with the highest overall score; more than one name where several share it.

    Attributes
    ----------
    by_model : tuple of tuple of str
        For each model, among the explainers that have a score there; empty where none has.
    overall : tuple of str
        By the mean over models, among the explainers that have a score for every model.
    """

    by_model: tuple[tuple[str, ...], ...]
    overall: tuple[str, ...]


def metric_agreement(
    scores: Mapping[str, ArrayLike],
    *,
    directions: Mapping[str, Literal["higher", "lower"] | ScoreDirection] | None = None,
    nan_policy: Literal["raise", "omit"] = "raise",
) -> MetricAgreement:
    """Correlate metrics over explainers and models: M4's first question.

    Parameters
    ----------
    scores : mapping of str to array, shape (models, explainers)
        For each metric its mean scores, all with the same models and explainers.
    directions : mapping of str to {"higher", "lower"} or ScoreDirection, optional
        Which is better; "higher" for metrics that it does not name. Scores of the others are
        turned, so that a positive correlation always means agreement.
    nan_policy : {"raise", "omit"}, default "raise"
        What NaN does: an error, or each correlation is over the models and explainers for which
        both metrics have a score.

    Returns
    -------
    MetricAgreement

    Raises
    ------
    ValueError
        If shapes differ, a score is infinite or NaN and may not be, or a direction is unknown.

    Examples
    --------
    >>> from quantus_ext.protocols import metric_agreement
    >>> agreement = metric_agreement(
    ...     {
    ...         "MoRF": [[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]],
    ...         "LeRF": [[0.6, 0.5, 0.4], [0.9, 0.8, 0.7]],
    ...     },
    ...     directions={"LeRF": "lower"},
    ... )
    >>> float(agreement.correlation[0, 1].round(2)), float(agreement.within[0, 1].round(2))
    (-0.54, 1.0)
    >>> print(agreement.to_markdown())
    | above: pooled, below: within models | MoRF | LeRF |
    | --- | ---: | ---: |
    | MoRF |  | -0.54 |
    | LeRF | 1.00 |  |
    """
    checks.one_of("nan_policy", nan_policy, ("raise", "omit"))
    table = _table("scores", scores)
    lower = _lower(tuple(table), checks.optional(checks.mapping, "directions", directions) or {})
    for name, values in table.items():
        allowed = ~np.isinf(values) if nan_policy == "omit" else np.isfinite(values)
        if not allowed.all():
            model, explainer = np.argwhere(~allowed)[0]
            hint = ", or nan_policy 'omit'" if np.isnan(values[model, explainer]) else ""
            raise ValueError(
                f"scores of {name!r} must be finite{hint}, that of model {model} and explainer "
                f"{explainer} is {values[model, explainer]}"
            )
    turned = [-values if name in lower else values for name, values in table.items()]
    shape = (len(turned), len(turned))
    correlation, within = np.full(shape, np.nan), np.full(shape, np.nan)
    pairs, undefined = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, first in enumerate(turned):
        for j, second in enumerate(turned):
            pairs[i, j] = (~np.isnan(first) & ~np.isnan(second)).sum()
            correlation[i, j] = _spearman(first.ravel(), second.ravel())
            models = np.array([_spearman(a, b) for a, b in zip(first, second, strict=True)])
            defined = models[~np.isnan(models)]
            undefined[i, j] = len(models) - len(defined)
            if len(defined):
                within[i, j] = defined.mean()
    return MetricAgreement(tuple(table), correlation, within, pairs, undefined)


def overall_score(scores: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Return M4's overall score, ``MoRF + ABPC + PScore - INFD + SynScore``.

    It adds numbers as they come: an infidelity far from the scale of the others decides alone.

    Parameters
    ----------
    scores : mapping of str to array, shape (models, explainers)
        With the names in :data:`M4_METRICS`; further ones are not looked at.

    Returns
    -------
    numpy.ndarray, shape (models, explainers)
        NaN where a part is NaN.

    Raises
    ------
    ValueError
        If a metric is missing, or shapes differ.

    Examples
    --------
    >>> from quantus_ext.protocols import overall_score
    >>> scores = {"MoRF": 0.5, "ABPC": 0.3, "PScore": 0.9, "INFD": 0.1, "SynScore": 0.8}
    >>> overall_score({name: [[value]] for name, value in scores.items()}).round(2).tolist()
    [[2.4]]
    """
    scores = checks.mapping("scores", scores)
    missing = [name for name in M4_METRICS if name not in scores]
    if missing:
        raise ValueError(
            f"scores must hold {', '.join(M4_METRICS)}, {', '.join(missing)} missing: "
            f"holds {', '.join(scores) or 'nothing'}"
        )
    table = _table("scores", {name: scores[name] for name in M4_METRICS})
    total = np.zeros_like(table["MoRF"])
    for name, values in table.items():
        total += -values if name == "INFD" else values
    return total


def best_method(overall: ArrayLike, explainers: Sequence[str]) -> BestMethod:
    """Name the best explainer, for each model and over all: M4's second question.

    Parameters
    ----------
    overall : array, shape (models, explainers)
        Scores, higher for better; NaN for none.
    explainers : sequence of str
        Their names.

    Returns
    -------
    BestMethod

    Raises
    ------
    ValueError
        If shapes do not fit, or a score is infinite.

    Examples
    --------
    >>> from quantus_ext.protocols import best_method
    >>> best_method([[0.9, 0.5], [0.1, 0.6]], ["Saliency", "GradCAM"])
    BestMethod(by_model=(('Saliency',), ('GradCAM',)), overall=('GradCAM',))
    """
    values = _two_dimensional("overall", overall)
    if np.isinf(values).any():
        raise ValueError("overall must not be infinite; NaN stands for a score that is missing")
    names = [checks.text("explainers", each) for each in checks.items("explainers", explainers)]
    if len(names) != values.shape[1]:
        raise ValueError(
            f"explainers must have one name for each of {values.shape[1]} columns of overall, "
            f"has {len(names)}"
        )
    return BestMethod(
        tuple(_highest(row, names) for row in values), _highest(values.mean(0), names)
    )


def method_sensitivity(overall: ArrayLike) -> NDArray[np.float64]:
    """Return how much a model's score depends on the explainer: M4's third question.

    That is the standard deviation of the overall score over the explainers, which are all that
    are compared and no sample of others: the sum of squares is divided by their number.

    Parameters
    ----------
    overall : array, shape (models, explainers)
        Scores; at least two explainers.

    Returns
    -------
    numpy.ndarray, shape (models,)
        In the unit of the score; NaN for a model of which a score is NaN, as spreads over
        different explainers can't be compared.

    Raises
    ------
    ValueError
        If the shape does not fit, or a score is infinite.

    Examples
    --------
    >>> from quantus_ext.protocols import method_sensitivity
    >>> method_sensitivity([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]).round(3).tolist()
    [0.0, 0.816]
    """
    values = _two_dimensional("overall", overall)
    if values.shape[1] < 2:
        raise ValueError(f"overall must have two or more explainers, has shape {values.shape}")
    if np.isinf(values).any():
        raise ValueError("overall must not be infinite; NaN stands for a score that is missing")
    spread: NDArray[np.float64] = values.std(1)
    return spread


def _table(name: str, scores: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    table = {
        metric: _two_dimensional(f"{name} of {metric!r}", values)
        for metric, values in checks.mapping(name, scores).items()
    }
    if not table:
        raise ValueError(f"{name} must hold at least one metric, is empty")
    shapes = {metric: values.shape for metric, values in table.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{name} must all have one shape (models, explainers), have {shapes}")
    return table


def _two_dimensional(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = checks.float64(name, values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (models, explainers), has {array.shape}")
    return array


def _lower(
    names: tuple[str, ...], directions: Mapping[str, Literal["higher", "lower"] | ScoreDirection]
) -> set[str]:
    lower = set()
    for name, direction in directions.items():
        checks.one_of("metrics in directions", name, names)
        value = direction.value if isinstance(direction, ScoreDirection) else direction
        checks.one_of(f"directions[{name!r}]", value, [known.value for known in ScoreDirection])
        if value == ScoreDirection.LOWER.value:
            lower.add(name)
    return lower


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the correlation of ranks where both have a score, NaN if all of either are equal."""
    both = ~np.isnan(first) & ~np.isnan(second)
    a, b = ranks(first[both]), ranks(second[both])
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(spearmanr(a, b)[0])


def _highest(scores: NDArray[np.float64], names: Sequence[str]) -> tuple[str, ...]:
    known = scores[~np.isnan(scores)]
    if not len(known):
        return ()
    best = known.max() - ROUNDING * np.abs(known).max()
    return tuple(name for name, score in zip(names, scores, strict=True) if score >= best)
