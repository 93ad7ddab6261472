"""PScore, slowly, from M4's formula with each map scaled to unit length first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from tests.harness import Predict, gradients


def p_score(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    models: Sequence[nn.Module],
) -> np.ndarray:
    """Return one score a sample, by the explainer of the harness."""
    scores = []
    for n in range(len(x)):
        consensus = np.zeros(x[n].shape)
        for model in models:
            other = gradients(model, x[n : n + 1], y[n : n + 1])[0].astype(float)
            consensus += other / np.sqrt((other**2).sum())
        own = a[n].astype(float)
        scores.append(
            (consensus * own).sum() / np.sqrt((consensus**2).sum()) / np.sqrt((own**2).sum())
        )
    return np.array(scores)
