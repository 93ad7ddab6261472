"""Infidelity, slowly, from equation 1 of Yeh et al. (2019): one draw of one sample at a time."""

from __future__ import annotations

import itertools

import numpy as np

from quantus_ext.engine.sampling import Purpose
from tests.harness import Predict
from tests.reference import splitmix


def draws(x: np.ndarray, index: int, *, side: int, n_draws: int, seed: int) -> list[np.ndarray]:
    """Return the masks, of the sample's shape, of one sample's windows.

    Where there are at most 1,024 windows, all of them in random order, without repetition.
    """
    windows = every_window(x.shape, side)
    if len(windows) <= 1024:
        key = splitmix.nth(splitmix.nth(seed, 0), index)
        order = splitmix.order(key, len(windows), Purpose.MASK_ORDER)
        return [np.broadcast_to(windows[place], x.shape) for place in order[:n_draws]]
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


def every_window(shape: tuple[int, ...], side: int) -> list[np.ndarray]:
    """List all windows of positions, and for a table, whose features have no order, all subsets."""
    if len(shape) == 1:
        subsets = itertools.combinations(range(shape[0]), side)
        return [np.isin(np.arange(shape[0]), subset) for subset in subsets]
    windows = []
    for first in np.ndindex(*(length - side + 1 for length in shape[1:])):
        mask = np.zeros(shape[1:], dtype=bool)
        mask[tuple(slice(place, place + side) for place in first)] = True
        windows.append(mask)
    return windows


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
