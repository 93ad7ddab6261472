"""Infidelity, slowly, from equation 1 of Yeh et al. (2019): one draw of one sample at a time."""

from __future__ import annotations

import numpy as np

from quantus_ext.engine.sampling import Purpose
from tests.harness import Predict
from tests.reference import splitmix


def draws(x: np.ndarray, index: int, *, side: int, n_draws: int, seed: int) -> list[np.ndarray]:
    """Return the masks, of the sample's shape, of one sample's windows."""
    masks = []
    for draw in range(n_draws):
        key = splitmix.draw_key(seed, index, draw)
        if x.ndim == 1:
            mask = splitmix.subset(key, len(x), side, Purpose.SUBSET)
        else:
            purposes = Purpose.PATCH_SIZE, Purpose.PATCH_OFFSET
            mask = splitmix.window(key, x.shape[1:], [side], *purposes)
        masks.append(np.broadcast_to(mask, x.shape))
    return masks


def changes(
    predict: Predict,
    x: np.ndarray,
    label: int,
    phi: np.ndarray,
    masks: list[np.ndarray],
    *,
    baseline: float,
    multiply_by_inputs: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a = I·Φ and b = f(x) − f(x − I) for each draw."""
    predicted, happened = [], []
    for mask in masks:
        perturbation = np.where(mask, x - baseline, 0.0)
        factor = mask.astype(float) if multiply_by_inputs else perturbation
        predicted.append(sum(i * p for i, p in zip(factor.ravel(), phi.ravel(), strict=True)))
        outputs = predict(np.stack([x, x - perturbation]))[:, label]
        happened.append(outputs[0] - outputs[1])
    return np.array(predicted), np.array(happened)


def scores(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return everything that follows from the draws of one sample."""
    beta = np.mean(a * b) / np.mean(a**2) if np.any(a) else 0.0
    positive = max(beta, 0.0)
    return {
        "infidelity": float(np.mean((a - b) ** 2)),
        "rescaled_infidelity": float(np.mean((beta * a - b) ** 2)),
        "scale": float(beta),
        "faithfulness": float(1 - np.mean((positive * a - b) ** 2) / np.mean(b**2)),
        "correlation": float(np.corrcoef(a, b)[0, 1]),
    }


def infidelity(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    name: str = "infidelity",
    side: int = 3,
    n_draws: int = 30,
    seed: int = 0,
    baseline: float = 0.25,
    multiply_by_inputs: bool = False,
) -> np.ndarray:
    """Return one score a sample."""
    result = []
    for sample, label, phi, i in zip(x, y, a, index, strict=True):
        masks = draws(sample, int(i), side=side, n_draws=n_draws, seed=seed)
        pair = changes(
            predict,
            sample,
            int(label),
            phi,
            masks,
            baseline=baseline,
            multiply_by_inputs=multiply_by_inputs,
        )
        result.append(scores(*pair)[name])
    return np.array(result)
