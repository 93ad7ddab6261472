"""Small networks that were trained, and what they get right, for whole pipelines."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from quantus.metrics.base import Metric
from torch import nn

import quantus_ext
from quantus_ext import metrics
from tests.harness import MODALITIES, gradients, planted


class Problem:
    """A trained network of a modality and samples that it gets right."""

    def __init__(self, modality: str, n: int = 6) -> None:
        build, shape = MODALITIES[modality]
        generator = np.random.default_rng(3)
        y = np.arange(240) % 4
        # Each class has a quarter of the values raised.
        raised = np.arange(np.prod(shape)) * 4 // np.prod(shape) == y[:, None]
        x = generator.normal(size=(240, *shape)) + 2.0 * raised.reshape(240, *shape)
        self.x_train, self.y_train = torch.from_numpy(x).float(), torch.from_numpy(y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.model = build()
            optimiser = torch.optim.Adam(self.model.parameters(), lr=0.02)
            for _ in range(60):
                optimiser.zero_grad()
                nn.functional.cross_entropy(self.model(self.x_train), self.y_train).backward()
                optimiser.step()
        self.model.eval()
        with torch.no_grad():
            right = (self.model(self.x_train).argmax(1) == self.y_train).numpy()
        assert right.mean() > 0.9
        self.x, self.y = self.x_train.numpy()[right][:n], y[right][:n]

    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "x_batch": self.x,
            "y_batch": self.y,
            "s_batch": planted(self.x),
            "softmax": True,
        }


_problems: dict[str, Problem] = {}


def problem(modality: str) -> Problem:
    if modality not in _problems:
        _problems[modality] = Problem(modality)
    return _problems[modality]


def by_gradient(
    model: nn.Module, inputs: np.ndarray, targets: np.ndarray, method: str, **_: object
) -> np.ndarray:
    """Explain inputs of any shape, by each of two methods."""
    found = gradients(model, inputs, targets)
    return found * inputs if method == "input×gradient" else found


def other_networks() -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [MODALITIES["image"][0]().eval() for _ in range(2)]


def tuner(**settings: Any) -> quantus_ext.FineTuner:
    given = problem("image")
    return quantus_ext.FineTuner(
        given.x_train, given.y_train, epochs=1, display_progressbar=False, **settings
    )


FEWER = {"steps": 4, "sparsity": [0.1, 0.3], "n_samples": 2, "n_perturb_samples": 8}
"""Arguments that make a metric quick, of those that have one of these names."""


def needed(
    name: str, trainer: quantus_ext.FineTuner, models: list[nn.Module], a_train: Any
) -> dict[str, Any]:
    """Return what a metric cannot be made without, by its class.

    ``a_train`` are maps of the trainer's data, and ``models`` others than the one to be scored.
    """
    given = {
        "FFidelity": {"fine_tune": trainer},
        "PScore": {"models": models},
        "QGE": {"metric": quantus_ext.Infidelity(n_perturb_samples=8)},
        "ROAR": {"trainer": trainer, "a_train": a_train},
    }
    return given.get(name, {})


def small_metrics() -> dict[str, Metric[Any]]:
    """Make one of each class, small enough to be quick."""
    return {name: made(name, **fewer(name)) for name in metrics.__all__}


def made(name: str, **settings: Any) -> Metric[Any]:
    """Make a metric for the images by its class, with what it needs."""
    given = needed(name, tuner(), other_networks(), problem("image").x_train)
    return getattr(metrics, name)(**given, **settings)


def fewer(name: str) -> dict[str, Any]:
    taken = inspect.signature(getattr(metrics, name)).parameters
    # One draw is as few as can be.
    return {k: v for k, v in FEWER.items() if k in taken and taken[k].default != 1}
