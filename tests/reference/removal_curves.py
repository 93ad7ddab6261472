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
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares that really go or come back, each once, and the outputs for the label."""
    elements = positions(sample.shape, "position", None, None)
    t = len(elements)
    order = np.argsort(-element_scores(phi, elements, "position"))
    if not most_relevant_first:
        order = order[::-1]
    counts = sorted({floor(fraction, t) for fraction in fractions})
    outputs = []
    for count in counts:
        row = np.full_like(sample, baseline) if restore else sample.copy()
        for element in order[:count]:
            for value in elements[element]:
                row[value] = sample[value] if restore else baseline
        outputs.append(float(predict(row[None])[0, label]))
    return np.array(counts) / t, np.array(outputs)


def mean(places: np.ndarray, values: np.ndarray) -> float:
    """Average over what is nearest to each place, the ends reaching half a mean step further."""
    beyond = (places[-1] - places[0]) / (len(places) - 1) / 2
    edges = [places[0] - beyond, *(places[1:] + places[:-1]) / 2, places[-1] + beyond]
    return float(np.average(values, weights=np.diff(edges)))


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
        (places, morf), (_, lerf), (_, restored) = (
            curve(predict, sample, int(label), phi, fractions, **which, **setting)
            for which in ({}, {"most_relevant_first": False}, {"restore": True})
        )
        mean_drop = [mean(places, outputs[0] - outputs) for outputs in (morf, lerf)]
        scores.append(
            {
                "morf": mean_drop[0],
                "lerf": mean_drop[1],
                "abpc": mean_drop[0] - mean_drop[1],
                "deletion": trapezoid(morf, places),
                "insertion": trapezoid(restored, places),
            }[name]
        )
    return np.array(scores)


def shares_of_the_original(
    predict: Predict,
    sample: np.ndarray,
    label: int,
    phi: np.ndarray,
    fractions: list[float],
    *,
    restore: bool,
) -> tuple[float, float]:
    """Return area and drop, or rise, of one sample as AutoTimm divides them."""
    places, outputs = curve(predict, sample, label, phi, fractions, restore=restore)
    original = float(predict(sample[None])[0, label])
    area = float(trapezoid(outputs, places)) / original
    if not restore:
        return area, (original - outputs[-1]) / original
    return area, (outputs[-1] - outputs[0]) / abs(original - outputs[0])
