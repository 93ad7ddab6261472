"""How long ``dry_run`` says that an evaluation will take, and how long it takes.

Run ``python -m benchmarks.estimates`` in the repository's root.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import quantus
import torch
from torch import nn

from benchmarks import page
from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    Evaluation,
    Infidelity,
    Insertion,
    RFidelity,
    demo,
    evaluate,
)
from quantus_ext.evaluation.estimate import Estimate
from quantus_ext.evaluation.tables import markdown


def saliency(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Explain by the gradient of the explained output."""
    x = torch.from_numpy(np.array(inputs)).requires_grad_()
    outputs = model(x).gather(1, torch.from_numpy(np.array(targets))[:, None])
    return torch.autograd.grad(outputs.sum(), x)[0].numpy()


def noise(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.random.default_rng(len(inputs)).normal(size=np.shape(inputs))


EXPLAINERS = {"Saliency": saliency, "noise": noise}


def digits(n: int) -> dict[str, Any]:
    """Return a digit reader, four explainers, curves and random metrics."""
    problem = demo.prepare(0)
    return {
        "metrics": {
            "Infidelity": Infidelity(n_perturb_samples=50, perturb_baseline=0.0),
            "R-Fidelity": RFidelity(n_samples=5),
            "ABPC": ABPC(10, patch_size=4),
            "Deletion": Deletion(10),
            "Insertion": Insertion(10),
        },
        "xai_methods": demo.explain(problem, n),
        "model": problem.model,
        "x_batch": problem.x_test[:n],
        "y_batch": problem.y_test[:n],
    }


def table(n: int) -> dict[str, Any]:
    """Return a small network, for which all that stands beside the model counts."""
    correlation = quantus.FaithfulnessCorrelation(
        nr_runs=20, subset_size=5, perturb_baseline="black", disable_warnings=True
    )
    return {
        "metrics": {
            "Deletion": Deletion(10),
            "QGE": QGE(Deletion(10)),
            "Infidelity": Infidelity(n_perturb_samples=100, scheme="subset", perturb_baseline=0.0),
            "Correlation": correlation,
        },
        "xai_methods": EXPLAINERS,
        "model": nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 3)).eval(),
        "x_batch": np.random.default_rng(0).normal(size=(n, 30)).astype(np.float32),
        "y_batch": np.arange(n) % 3,
    }


def images(n: int) -> dict[str, Any]:
    """Return a network in which nearly all the time goes by, and blurred patches."""
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2)]
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)]
    return {
        "metrics": {
            "ABPC": ABPC(8, patch_size=8, perturb_baseline="mean"),
            "Fidelity": RFidelity(n_samples=3, patch_size=8),
        },
        "xai_methods": EXPLAINERS,
        "model": nn.Sequential(*layers, *head).eval(),
        "x_batch": np.random.default_rng(0).normal(size=(n, 3, 64, 64)).astype(np.float32),
        "y_batch": np.arange(n) % 10,
    }


def compared(make: Callable[[], dict[str, Any]]) -> list[str]:
    """Return what was announced and what it took."""
    torch.manual_seed(0)
    arguments = make()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        start = time.perf_counter()
        cost: Estimate = evaluate(**arguments, dry_run=True)
        asked = time.perf_counter() - start
    start = time.perf_counter()
    found: Evaluation = evaluate(**arguments)
    took = time.perf_counter() - start
    seconds = [f"{value:.1f} s" for value in (asked, cost.seconds, took)]
    counts = [f"{cost.n_evaluations:,}", f"{found.n_rows:,}"]
    return [*seconds, f"{cost.seconds / took:.2f}", *counts]


def main() -> None:
    chosen = page.options(page.parser("estimates", __doc__))
    found = page.Page("estimates", (), quick=chosen.quick)
    few = 10 if chosen.quick else 1
    problems = {
        "digits, 300": partial(digits, 300 // few),
        "digits, 30": partial(digits, 30),
        "table, 2,000": partial(table, 2000 // few),
        "images, 200": partial(images, 200 // few),
    }
    rows = [[name, *compared(make)] for name, make in problems.items()]
    header = ["problem, samples", "the estimate took", "announced", "took", "ratio"]
    found.text(markdown([*header, "rows announced", "rows sent"], rows))


if __name__ == "__main__":
    main()
