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


def interpretation(
    x: np.ndarray, perturbed: np.ndarray, mask: np.ndarray, *, inputs_baseline: np.ndarray | float
) -> np.ndarray:
    """Return I of maps φ = g·(x − baseline), value by value, so that I·φ is g·(x − x̃).

    Where a value is replaced by the map's own baseline, I is 1 whatever the value was; where it was
    the baseline and becomes another, the map has nothing to say.
    """
    result = np.zeros(x.shape)
    bases = np.broadcast_to(np.asarray(inputs_baseline, dtype=x.dtype), x.shape)
    for place in np.ndindex(*x.shape):
        before, after, base = (float(values[place]) for values in (x, perturbed, bases))
        if mask[place]:
            if after == base:
                result[place] = 1.0
            elif before != base:
                result[place] = (before - after) / (before - base)
    return result


def changes(
    predict: Predict,
    x: np.ndarray,
    label: int,
    phi: np.ndarray,
    masks: list[np.ndarray],
    *,
    baseline: np.ndarray | float,
    multiply_by_inputs: bool = False,
    inputs_baseline: np.ndarray | float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a = I·Φ and b = f(x) − f(x − I) for each draw.

    Without an ``inputs_baseline`` it is ``baseline``.
    """
    base = baseline if inputs_baseline is None else inputs_baseline
    predicted, happened = [], []
    for mask in masks:
        perturbed = np.where(mask, baseline, x)
        factor = x - perturbed
        if multiply_by_inputs:
            factor = interpretation(x, perturbed, mask, inputs_baseline=base)
        predicted.append(sum(i * p for i, p in zip(factor.ravel(), phi.ravel(), strict=True)))
        outputs = predict(np.stack([x, perturbed]))[:, label]
        happened.append(outputs[0] - outputs[1])
    return np.array(predicted), np.array(happened)


def scores(a: np.ndarray, b: np.ndarray, total: float = np.inf) -> dict[str, float]:
    """Return everything that follows from N draws of one sample, of ``total`` different ones.

    β is fitted to the draws. What that is expected to do to a function of means over draws is, to
    first order, half the sum of its second derivatives times the means' covariances, which without
    repetition are smaller by the share of what is drawn.
    """
    n = len(a)
    beta = np.mean(a * b) / np.mean(a**2) if np.any(a) else 0.0
    u = np.stack([a * b, a**2, b**2])
    p, q, r = u.mean(1)
    of_means = np.cov(u) / n * (1 - n / total) if n > 1 else np.full((3, 3), np.nan)
    # Of r − p²/q, and, where β is above 0, of p²/(q r).
    of_residual = np.array(
        [[-2 / q, 2 * p / q**2, 0], [2 * p / q**2, -2 * p**2 / q**3, 0], [0] * 3]
    )
    of_faithfulness = np.array(
        [
            [2 / (q * r), -2 * p / (q**2 * r), -2 * p / (q * r**2)],
            [-2 * p / (q**2 * r), 2 * p**2 / (q**3 * r), p**2 / (q**2 * r**2)],
            [-2 * p / (q * r**2), p**2 / (q**2 * r**2), 2 * p**2 / (q * r**3)],
        ]
    )
    faithfulness = p**2 / (q * r) - np.sum(of_faithfulness * of_means) / 2 if beta > 0 else 0.0
    return {
        "infidelity": float(np.mean((a - b) ** 2)),
        "rescaled_infidelity": float(
            np.mean((beta * a - b) ** 2) - np.sum(of_residual * of_means) / 2
        ),
        "scale": float(beta),
        "faithfulness": float(np.clip(faithfulness, 0, 1)),
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
    inputs_baseline: float | None = None,
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
            inputs_baseline=inputs_baseline,
        )
        total = len(every_window(sample.shape, side))
        result.append(scores(*pair, total if total <= 1024 else np.inf)[name])
    return np.array(result)
