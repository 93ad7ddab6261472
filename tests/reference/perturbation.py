"""Quantus's perturbation functions, called as its metrics call them: one sample, one draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from quantus.functions import perturb_func as quantus_functions

Arguments = dict[str, Any]


def flat(arr: np.ndarray, mask: np.ndarray) -> Arguments:
    """As Infidelity and Pixel-Flipping: a batch of flattened samples and indices of values."""
    chosen = np.broadcast_to(mask, arr.shape)
    return {"arr": arr.reshape(1, -1), "indices": np.flatnonzero(chosen)[None]}


def sample(arr: np.ndarray, mask: np.ndarray) -> Arguments:
    """As Region Perturbation: positions along the axes after the channels."""
    axes = list(range(min(1, arr.ndim - 1), arr.ndim))
    spatial = np.broadcast_to(mask, (1, *arr.shape[1:]) if arr.ndim > 1 else arr.shape)
    return {"arr": arr, "indices": np.flatnonzero(spatial).tolist(), "indexed_axes": axes}


def values(arr: np.ndarray, mask: np.ndarray) -> Arguments:
    """Each channel's value by itself: all axes are indexed."""
    return {
        "arr": arr,
        "indices": np.flatnonzero(mask).tolist(),
        "indexed_axes": list(range(arr.ndim)),
    }


def by_mask(arr: np.ndarray, mask: np.ndarray) -> Arguments:
    return {"arr": arr, "mask": np.broadcast_to(mask, arr.shape)}


def pixels(arr: np.ndarray, mask: np.ndarray) -> Arguments:
    """As ROAD: positions of pixels, all channels at once."""
    return {"arr": arr, "indices": np.flatnonzero(np.broadcast_to(mask, (1, *arr.shape[1:])))}


def whole(arr: np.ndarray, mask: np.ndarray) -> Arguments:
    return {"arr": arr}


def whole_batch(arr: np.ndarray, mask: np.ndarray) -> Arguments:
    return {"arr": arr[None]}


def window_mean(arr: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Mean over what of a window around each position is inside, weighted along each axis.

    An axis's window of k weights reaches k // 2 positions back.
    """
    axes = range(arr.ndim - len(weights), arr.ndim)
    result = np.empty(arr.shape)
    for place in np.ndindex(*arr.shape):
        total = weight = 0.0
        for steps in np.ndindex(*(len(each) for each in weights)):
            other, its = list(place), 1.0
            for axis, step, each in zip(axes, steps, weights, strict=True):
                other[axis] += step - len(each) // 2
                its *= each[step]
            if all(0 <= at < length for at, length in zip(other, arr.shape, strict=True)):
                total += its * arr[tuple(other)]
                weight += its
        result[place] = total / weight
    return result


CALLS: dict[str, Callable[[np.ndarray, np.ndarray], Arguments]] = {
    "baseline_replacement_by_indices": sample,
    "batch_baseline_replacement_by_indices": flat,
    "baseline_replacement_by_mask": by_mask,
    "baseline_replacement_by_shift": sample,
    "baseline_replacement_by_blur": sample,
    "gaussian_noise": sample,
    "batch_gaussian_noise": flat,
    "uniform_noise": sample,
    "batch_uniform_noise": flat,
    "noisy_linear_imputation": pixels,
    "rotation": whole,
    "translation_x_direction": whole,
    "translation_y_direction": whole,
    "batched_translation": whole_batch,
    "no_perturbation": whole,
}


def perturbed(name: str, arr: np.ndarray, mask: np.ndarray, **keywords: Any) -> np.ndarray:
    """Return what Quantus makes of ``arr`` (\\*sample) where ``mask``, of one channel or all."""
    call = CALLS[name]
    if call is sample and arr.ndim > 1 and mask.shape[0] == arr.shape[0] > 1:
        call = values
    result = getattr(quantus_functions, name)(**call(arr.copy(), mask), **keywords)
    return np.asarray(result).reshape(arr.shape)
