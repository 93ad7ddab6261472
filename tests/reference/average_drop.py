"""Average drop, increase and gain (Grad-CAM++, Opti-CAM), one sample at a time."""

from __future__ import annotations

import numpy as np

from tests.harness import Predict
from tests.reference.fidelity import element_scores, positions


def masked(sample: np.ndarray, phi: np.ndarray, baseline: float = 0.0) -> np.ndarray:
    """Return the sample with what its map, scaled to [0, 1], leaves of each position."""
    elements = positions(sample.shape, "position", None, None)
    scores = element_scores(phi, elements, "position")
    low, high = min(scores), max(scores)
    row = sample.copy()
    for element, score in zip(elements, scores, strict=True):
        share = 0.0 if high == low else (score - low) / (high - low)
        for value in element:
            row[value] = share * sample[value] + (1 - share) * baseline
    return row


def average_drop(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    name: str,
    baseline: float = 0.0,
) -> np.ndarray:
    """Return one score a sample."""
    scores = []
    for sample, label, phi in zip(x, y, a, strict=True):
        before, after = (
            float(predict(row[None])[0, int(label)])
            for row in (sample, masked(sample, phi, baseline))
        )
        scores.append(
            {
                "drop": max(before - after, 0) / before,
                "increase": float(after > before),
                "gain": max(after - before, 0) / (1 - before),
            }[name]
        )
    return np.array(scores)
