"""Scores class by class, where several classes of each sample are explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from quantus_ext.evaluation.statistics import bounds_of, paired_means

if TYPE_CHECKING:
    from quantus_ext.evaluation.result import Evaluation


def by_class(evaluation: Evaluation, *, n_resamples: int, seed: int) -> pd.DataFrame:
    """Return means with intervals; see :meth:`quantus_ext.Evaluation.by_class`."""
    classes, scores = evaluation.classes, evaluation.class_scores
    if classes is None or scores is None:
        raise ValueError(
            "by_class needs several classes of each sample, this evaluation has one: evaluate with "
            "targets"
        )
    rows = []
    for label in np.unique(classes).tolist():
        samples, places = np.nonzero(classes == label)
        for m, metric in enumerate(evaluation.metrics):
            for e, explainer in enumerate(evaluation.explainers):
                own = scores[e, m, samples, places]
                own = own[np.isfinite(own)]
                ends = [np.nan] * 3
                if len(own) > 1:
                    bounds = bounds_of(own)
                    means = paired_means(
                        own[None],
                        confidence=evaluation.confidence,
                        n_resamples=n_resamples,
                        seed=seed,
                        bounds=bounds,
                    )
                    ends = [means.mean[0], means.low[0], means.high[0]]
                elif len(own):
                    ends[0] = own[0]
                rows.append((label, metric, explainer, len(own), *ends))
    return pd.DataFrame(rows, columns=["class", "metric", "explainer", "n", "mean", "low", "high"])


def class_frame(evaluation: Evaluation) -> pd.DataFrame:
    """Return a tidy table with a row for each class of each sample."""
    assert evaluation.classes is not None
    assert evaluation.class_scores is not None
    assert evaluation.class_errors is not None
    names = [evaluation.explainers, evaluation.metrics, range(evaluation.n)]
    levels = [*names, range(evaluation.classes.shape[1])]
    places = pd.MultiIndex.from_product(levels, names=["explainer", "metric", "sample", "place"])
    frame = places.to_frame(index=False).astype({"explainer": "category", "metric": "category"})
    return pd.DataFrame(
        {
            "sample": frame["sample"],
            "class": np.tile(evaluation.classes.ravel(), len(frame) // evaluation.classes.size),
            "explainer": frame["explainer"],
            "metric": frame["metric"],
            "score": evaluation.class_scores.ravel(),
            "standard_error": evaluation.class_errors.ravel(),
        }
    )
