"""Arguments of plot functions as checked arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quantus.metrics.base import Metric

Called = Metric[Any] | Mapping[str, Any]
"""A metric that has been called, or its ``details``."""


def details_of(metric: Called, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return some of the details of a metric that has been called, or of a mapping of them."""
    details = metric if isinstance(metric, Mapping) else getattr(metric, "details", {})
    missing = [name for name in names if name not in details]
    if missing:
        raise ValueError(
            f"metric must have been called and have {', '.join(missing)} in its details; has "
            f"{list(details)}"
        )
    return {name: np.asarray(details[name], dtype=np.float64) for name in names}


def by_explainer(metric: Called | Mapping[str, Called]) -> dict[str, Called]:
    """Return what to draw, by its name in the legend: one metric, or one for each explainer."""
    if isinstance(metric, Mapping):
        several = {str(n): v for n, v in metric.items() if isinstance(v, (Metric, Mapping))}
        if several and len(several) == len(metric):
            return several
        return {"mean": metric}
    return {getattr(metric, "name", "mean"): metric}


def without_nan(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows of (n, m) values that have no NaN, at least one."""
    known = values[~np.isnan(values).any(1)]
    if len(known) == 0:
        raise ValueError(f"{name} must have a sample without NaN; all {len(values)} have NaN")
    return known
