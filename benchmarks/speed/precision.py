"""Scores in bfloat16 against those in float32, on explainers of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

from benchmarks.models import lenet_on_digits
from benchmarks.speed.results import Entry, Scale, Section
from quantus_ext import Deletion, Infidelity, RFidelity, demo
from quantus_ext.base import TorchMetric

LOWERED: Mapping[str, Any] = {"precision": "bfloat16"}

METRICS: Mapping[str, Callable[..., TorchMetric]] = {
    # Removal to the black background, which is also the explainers' own baseline.
    "Infidelity": lambda by_inputs, **settings: Infidelity(
        n_perturb_samples=100, perturb_baseline=0.0, multiply_by_inputs=by_inputs, **settings
    ),
    "R-Fidelity": lambda by_inputs, **settings: RFidelity(n_samples=demo.DRAWS, **settings),
    "Deletion": lambda by_inputs, **settings: Deletion(**settings),
}


def precision(scale: Scale) -> Section:
    """Compare scores digit by digit, and the order of the explainers by their means."""
    n = 8 if scale.quick else 100
    problem = _untrained(n) if scale.quick else demo.prepare(0)
    maps = demo.explain(problem, n)
    x, y = problem.x_test[:n], problem.y_test[:n]

    def scores(name: str, settings: Mapping[str, Any]) -> np.ndarray:
        found = [
            METRICS[name](demo.CARRY_INPUT[explainer], **settings)(problem.model, x, y, values)
            for explainer, values in maps.items()
        ]
        return np.array(found)

    entries = []
    for name in METRICS:
        full, lowered = scores(name, {}), scores(name, LOWERED)
        ranks = [rankdata(values.mean(1)).tolist() for values in (full, lowered)]
        deviation = np.abs(lowered - full)
        entries.append(
            Entry(
                f"{name} in bfloat16: rank correlation of explainers with float32",
                "",
                round(float(spearmanr(*ranks).statistic), 9),
                1,
                notes={
                    "largest deviation of a score": float(deviation.max()),
                    "mean deviation": float(deviation.mean()),
                    "of means over digits, largest": float(
                        np.abs(lowered.mean(1) - full.mean(1)).max()
                    ),
                    "mean size of a score": float(np.abs(full).mean()),
                    "closest two explainers' means": float(np.diff(np.sort(full.mean(1))).min()),
                },
            )
        )
    return Section(
        "Precision",
        f"The demo's CNN on MNIST digits, right on {problem.accuracy:.3f} of those unseen (NaN in "
        f"quick runs, which don't train); {', '.join(maps)}; {n} digits, the same draws.",
        entries,
    )


def _untrained(n: int) -> demo.Problem:
    """Return a problem that takes no training."""
    case = lenet_on_digits(n)
    x, y = torch.from_numpy(case.x), torch.from_numpy(case.y)
    return demo.Problem(case.model, x, y, x, y, float("nan"), 0.0, 0)
