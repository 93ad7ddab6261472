"""Every metric in ``quantus.AVAILABLE_METRICS`` and how QGE handles it.

``python -m tests.metrics.quantus_metrics`` prints the table that stands in ``docs/qge.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import quantus
import torch
from quantus.metrics.base import Metric
from sklearn.datasets import load_digits
from torch import nn

from quantus_ext import QGE

N = 6
ONE = "a number"
CURVE = "a curve, averaged"
LAYERS = "a number per layer, averaged"


@dataclass(frozen=True)
class Entry:
    """How QGE handles a metric.

    Attributes
    ----------
    make : callable
        Makes the metric; takes ``abs`` and ``normalise``.
    gives : str
        What the metric gives for a sample.
    explains_again : bool
        Whether it calls ``explain_func`` of its own accord, so that those maps are inverted too.
    always_zero : str
        Why QGE is 0 whatever the explanation, empty where it isn't.
    error : str
        The error that QGE raises instead, empty where it scores.
    caution : str
        What numbers of it depend on that they should not, or what must be known of them.
    alone : bool
        Whether it is asked about one sample at a time.
    call : mapping
        Further arguments of the call.
    """

    make: Callable[..., Metric[Any]]
    gives: str = ONE
    explains_again: bool = False
    always_zero: str = ""
    error: str = ""
    caution: str = ""
    alone: bool = False
    call: Mapping[str, Any] = field(default_factory=dict)


BY_BATCH = "its draws depend on the batches"
ALL_BATCH = "compares the samples of a batch"
REPLACED = "the caller's array is changed in place: gets copies"
RESEEDED = "re-seeds global generators: they are put back"
VALUES_ONLY = "uses the values, not their positions"
SUM_ONLY = "uses the sum of the values; ±1 by chance if rounding changes it"
RANKS_OF_BOTH = "compares the ranks of two maps, both inverted; differs only by ties"
BOTH_MAPS = "tests whether two maps are equal, both inverted; differs only by ties"

_steps = {"features_in_step": 16}
_repeats = {"nr_samples": 3}
_patches = {"patch_size": 4}
_stable = {**_repeats, "return_nan_when_prediction_changes": False}

ENTRIES: dict[str, Entry] = {
    "Faithfulness Correlation": Entry(
        partial(quantus.FaithfulnessCorrelation, subset_size=32, nr_runs=20), caution=BY_BATCH
    ),
    "Faithfulness Estimate": Entry(partial(quantus.FaithfulnessEstimate, **_steps)),
    "Pixel-Flipping": Entry(
        partial(quantus.PixelFlipping, **_steps),
        CURVE,
        caution='**not with `perturb_baseline="mean"`**, the mean of what is left: a warning',
    ),
    "Region Segmentation": Entry(partial(quantus.RegionPerturbation, **_patches), CURVE),
    "Monotonicity-Arya": Entry(
        partial(quantus.Monotonicity, **_steps),
        caution="**True for every map** if the baseline is fixed, as by default: a warning",
    ),
    "Monotonicity-Nguyen": Entry(
        partial(quantus.MonotonicityCorrelation, **_steps, **_repeats), caution=BY_BATCH
    ),
    "Selectivity": Entry(partial(quantus.Selectivity, **_patches), CURVE),
    "SensitivityN": Entry(
        quantus.SensitivityN, error="metric must give one score per sample: SensitivityN correlates"
    ),
    "IROF": Entry(
        quantus.IROF,
        alone=True,
        caution="takes the baseline from the batch: is asked one sample at a time",
    ),
    "ROAD": Entry(
        partial(quantus.ROAD, percentages=[10, 30, 50]),
        CURVE,
        caution="keeps the size of the first images it saw: is made to forget it",
    ),
    "Infidelity": Entry(partial(quantus.Infidelity, perturb_patch_sizes=[8], n_perturb_samples=1)),
    "Sufficiency": Entry(quantus.Sufficiency, caution=ALL_BATCH),
    "Continuity Test": Entry(partial(quantus.Continuity, nr_steps=4), explains_again=True),
    "Local Lipschitz Estimate": Entry(
        partial(quantus.LocalLipschitzEstimate, **_repeats), explains_again=True, caution=BY_BATCH
    ),
    "Max-Sensitivity": Entry(
        partial(quantus.MaxSensitivity, **_repeats), explains_again=True, caution=BY_BATCH
    ),
    "Avg-Sensitivity": Entry(
        partial(quantus.AvgSensitivity, **_repeats), explains_again=True, caution=BY_BATCH
    ),
    "Consistency": Entry(quantus.Consistency, caution=ALL_BATCH),
    "Relative Input Stability": Entry(
        partial(quantus.RelativeInputStability, **_stable), explains_again=True, caution=BY_BATCH
    ),
    "Relative Output Stability": Entry(
        partial(quantus.RelativeOutputStability, **_stable), explains_again=True, caution=BY_BATCH
    ),
    "Relative Representation Stability": Entry(
        partial(quantus.RelativeRepresentationStability, **_stable),
        explains_again=True,
        caution=BY_BATCH,
    ),
    "Pointing Game": Entry(quantus.PointingGame),
    "Top-K Intersection": Entry(partial(quantus.TopKIntersection, k=30)),
    "Relevance Mass Accuracy": Entry(quantus.RelevanceMassAccuracy),
    "Relevance Rank Accuracy": Entry(quantus.RelevanceRankAccuracy),
    "Attribution Localisation ": Entry(
        quantus.AttributionLocalisation,
        caution="**not with `weighted=True`**, infinite for one or two samples: a warning",
    ),
    "AUC": Entry(quantus.AUC),
    "Focus": Entry(quantus.Focus, call={"custom_batch": [(1, 0, 0, 0), (0, 1, 1, 0)] * (N // 2)}),
    "Sparseness": Entry(quantus.Sparseness, always_zero=VALUES_ONLY, caution=REPLACED),
    "Complexity": Entry(quantus.Complexity, always_zero=VALUES_ONLY, caution=REPLACED),
    "Effective Complexity": Entry(quantus.EffectiveComplexity, always_zero=VALUES_ONLY),
    "MPRT": Entry(
        quantus.MPRT, LAYERS, explains_again=True, always_zero=RANKS_OF_BOTH, caution=RESEEDED
    ),
    "Smooth MPRT": Entry(
        partial(quantus.SmoothMPRT, **_repeats),
        LAYERS,
        explains_again=True,
        always_zero=RANKS_OF_BOTH,
        caution=f"{BY_BATCH}; {RESEEDED}",
    ),
    "Efficient MPRT": Entry(
        quantus.EfficientMPRT, explains_again=True, always_zero=VALUES_ONLY, caution=RESEEDED
    ),
    "Random Logit": Entry(
        partial(quantus.RandomLogit, num_classes=10),
        explains_again=True,
        caution=f"{BY_BATCH}; {RESEEDED}",
    ),
    "Completeness": Entry(
        quantus.Completeness,
        always_zero=SUM_ONLY,
        caution="**False** for nearly every map that it normalises, as by default: a warning",
    ),
    "NonSensitivity": Entry(quantus.NonSensitivity),
    "InputInvariance": Entry(quantus.InputInvariance, explains_again=True, always_zero=BOTH_MAPS),
}


@dataclass(frozen=True)
class Problem:
    """A trained network, digits it has not seen, gradients, and masks of the digits' ink."""

    model: nn.Module
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    s: np.ndarray

    def arguments(self, **others: Any) -> dict[str, Any]:
        given = {
            "model": self.model,
            "x_batch": self.x.copy(),
            "y_batch": self.y.copy(),
            "a_batch": self.a.copy(),
            "s_batch": self.s.copy(),
            "explain_func": gradients,
            "explain_func_kwargs": {},
        }
        return {**given, **others}


def gradients(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    rows = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    labels = torch.as_tensor(np.asarray(targets)).long()
    chosen = model(rows).gather(1, labels[:, None]).sum()
    return torch.autograd.grad(chosen, rows)[0].sum(1, keepdim=True).numpy()


@lru_cache(maxsize=1)
def problem() -> Problem:
    """Train on 1,500 digits enlarged to 16×16; a tanh network has no ties in its gradients."""
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8).repeat(2, 2).repeat(2, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
        for _ in range(4):
            for rows in torch.randperm(1500).split(50):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
                optimiser.step()
        model.eval().requires_grad_(False)
        right = model(inputs[1500:]).argmax(1) == targets[1500:]
    assert right.double().mean() > 0.85
    chosen = slice(1500, 1500 + N)
    a = gradients(model, x[chosen], labels[chosen])
    return Problem(model, x[chosen], labels[chosen], a, x[chosen] > 0.3)


def names() -> list[str]:
    return [name for metrics in quantus.AVAILABLE_METRICS.values() for name in metrics]


def markdown_table() -> str:
    rows = [
        "| Quantus metric | Better | Score per sample | Maps it computes itself | QGE | To know |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in ENTRIES.items():
        if entry.error:
            rows.append(f"| {name.strip()} | – | – | – | `ValueError`: no score per sample | |")
            continue
        direction = QGE(entry.make()).direction.value
        again = "inverted too" if entry.explains_again else "none"
        note = f"0: {entry.always_zero}" if entry.always_zero else "the difference"
        rows.append(
            f"| {name.strip()} | {direction} | {entry.gives} | {again} | {note} | "
            f"{entry.caution or '–'} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown_table())  # noqa: T201
