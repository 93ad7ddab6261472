"""MoRF, LeRF and ABPC (M4) and Deletion and Insertion (RISE), one state at a time."""

from __future__ import annotations

import numpy as np
from scipy.integrate import trapezoid

from tests.harness import Predict
from tests.reference.fidelity import element_scores, floor, positions


def curve(
    predict: Predict,
    sample: np.ndarray,
    label: int,
    phi: np.ndarray,
    fractions: list[float],
    *,
    most_relevant_first: bool = True,
    restore: bool = False,
    baseline: float = 0.0,
) -> np.ndarray:
    """Return the output for the label at each fraction."""
    elements = positions(sample.shape, "position", None, None)
    order = np.argsort(-element_scores(phi, elements, "position"))
    if not most_relevant_first:
        order = order[::-1]
    outputs = []
    for fraction in fractions:
        row = np.full_like(sample, baseline) if restore else sample.copy()
        for element in order[: floor(fraction, len(elements))]:
            for value in elements[element]:
                row[value] = sample[value] if restore else baseline
        outputs.append(float(predict(row[None])[0, label]))
    return np.array(outputs)


def removal_score(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    name: str,
    fractions: list[float],
    baseline: float = 0.0,
) -> np.ndarray:
    """Return one score a sample."""
    scores = []
    for sample, label, phi in zip(x, y, a, strict=True):
        setting = {"baseline": baseline}
        morf, lerf, restored = (
            curve(predict, sample, int(label), phi, fractions, **which, **setting)
            for which in ({}, {"most_relevant_first": False}, {"restore": True})
        )
        mean_drop = [
            np.mean([outputs[0] - output for output in outputs]) for outputs in (morf, lerf)
        ]
        scores.append(
            {
                "morf": mean_drop[0],
                "lerf": mean_drop[1],
                "abpc": mean_drop[0] - mean_drop[1],
                "deletion": trapezoid(morf, fractions),
                "insertion": trapezoid(restored, fractions),
            }[name]
        )
    return np.array(scores)
