"""Measures of other libraries, from their own formulas, one sample at a time."""

from __future__ import annotations

import itertools

import numpy as np

from tests.harness import Predict
from tests.reference.fidelity import element_scores, positions


def without(sample: np.ndarray, gone: list[int], baseline: float = 0.0) -> np.ndarray:
    """Return the sample without some of its positions."""
    elements = positions(sample.shape, "position", None, None)
    row = sample.copy()
    for element in gone:
        for value in elements[element]:
            row[value] = baseline
    return row


def most_relevant_first(sample: np.ndarray, phi: np.ndarray) -> list[int]:
    elements = positions(sample.shape, "position", None, None)
    return np.argsort(-np.array(element_scores(phi, elements, "position"))).tolist()


def road_combined(
    predict: Predict, sample: np.ndarray, label: int, phi: np.ndarray, percentiles: list[int]
) -> float:
    """Half the mean difference between least and most relevant first (pytorch-grad-cam)."""
    order = most_relevant_first(sample, phi)
    differences = []
    for percentile in percentiles:
        # Whatever reaches the percentile goes.
        count = len(order) * (100 - percentile) // 100
        least, most = (
            float(predict(without(sample, gone)[None])[0, label])
            for gone in (order[len(order) - count :], order[:count])
        )
        differences.append(least - most)
    return float(np.mean(differences)) / 2


def aopc(
    predict: Predict, sample: np.ndarray, label: int, phi: np.ndarray, shares: list[float]
) -> tuple[float, float]:
    """Comprehensiveness and sufficiency, averaged over the rationales that differ (ferret)."""
    order = most_relevant_first(sample, phi)
    original = float(predict(sample[None])[0, label])
    drops: dict[int, tuple[float, float]] = {}
    for share in shares:
        size = int(share * len(order) + 1e-9)
        if size and size not in drops:
            removed, kept = order[:size], order[size:]
            drops[size] = (
                original - float(predict(without(sample, removed)[None])[0, label]),
                original - float(predict(without(sample, kept)[None])[0, label]),
            )
    comprehensiveness, sufficiency = np.mean(list(drops.values()), 0)
    return float(comprehensiveness), float(sufficiency)


def mu_fidelity(
    predict: Predict, sample: np.ndarray, label: int, phi: np.ndarray, size: int
) -> float:
    """Correlate sums of attributions with drops, over all subsets of a size (Bhatt et al.)."""
    elements = positions(sample.shape, "position", None, None)
    scores = element_scores(phi, elements, "position")
    original = float(predict(sample[None])[0, label])
    sums, drops = [], []
    for subset in itertools.combinations(range(len(elements)), size):
        sums.append(sum(scores[element] for element in subset))
        drops.append(original - float(predict(without(sample, list(subset))[None])[0, label]))
    return float(np.corrcoef(sums, drops)[0, 1])
