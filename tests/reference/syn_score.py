"""SynScore, slowly: pairs for the AUROC, thresholds for the average precision."""

from __future__ import annotations

import numpy as np

from tests.harness import Predict, planted


def syn_score(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    measure: str = "auroc",
) -> np.ndarray:
    """Return one score a sample against what the harness planted."""
    scores = []
    for phi, truth in zip(a, planted(x), strict=True):
        values = (phi if phi.ndim == 1 else phi.sum(0)).ravel()
        score = {"auroc": auroc, "ap": average_precision}[measure]
        scores.append(score(values, truth.ravel()))
    return np.array(scores)


def auroc(values: np.ndarray, truth: np.ndarray) -> float:
    """The share of pairs ordered rightly, ties one half."""
    pairs = [(v > w) + (v == w) / 2 for v in values[truth] for w in values[~truth]]
    return float(np.mean(pairs))


def average_precision(values: np.ndarray, truth: np.ndarray) -> float:
    """``Σ_n (R_n - R_{n-1}) P_n`` over the distinct values as thresholds, from the highest."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(values.tolist()), reverse=True):
        found = truth[values >= threshold]
        total += (found.sum() / truth.sum() - recall) * found.mean()
        recall = found.sum() / truth.sum()
    return total
