"""Which metric ranks explanations of time series and of tables right (Tables 3 and 6).

A convolutional network and an LSTM read GunPoint (aeon, 150 time steps) and BasicMotions (100 of
six channels), a multilayer perceptron the breast cancer table (30 features); Integrated Gradients
and, for the first of each, SmoothGrad-squared are degraded as in ``benchmarks.fidelity_mnist``. Run
``python -m benchmarks.fidelity_series_tables`` in the repository's root; ``--quick`` takes some
minutes and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from aeon.datasets import load_basic_motions, load_gunpoint
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from benchmarks.fidelity_common import (
    Scored,
    comparison,
    integrated_gradients,
    robustness,
    smoothgrad_squared,
    train,
)
from benchmarks.page import Page, options, parser
from quantus_ext import FineTuner
from quantus_ext.adapters import Series

Split = tuple[Tensor, Tensor, Tensor, Tensor]
EXPLAINERS = {
    "Integrated Gradients": integrated_gradients,
    "SmoothGrad-squared": smoothgrad_squared,
}
MASKED = (0.0, 0.05, 0.1, 0.2)


def series(load: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Split:
    """Return series as they are split, standardised channel by channel, with their labels."""
    (x_train, y_train), (x_test, y_test) = (load(split=s) for s in ("train", "test"))
    classes = sorted(set(y_train))
    middle, scale = x_train.mean((0, 2), keepdims=True), x_train.std((0, 2), keepdims=True)
    first, second = (
        torch.as_tensor((x - middle) / scale, dtype=torch.float32) for x in (x_train, x_test)
    )
    labels = [torch.tensor([classes.index(each) for each in y]) for y in (y_train, y_test)]
    return first, labels[0], second, labels[1]


def convolutions(channels: int, classes: int) -> nn.Module:
    """Return three convolutions over time, averaged."""
    layers: list[nn.Module] = []
    for inputs, outputs, width in ((channels, 16, 7), (16, 32, 5), (32, 32, 3)):
        convolution = nn.Conv1d(inputs, outputs, width, padding=width // 2)
        layers += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, classes))


class Recurrent(nn.Module):
    """An LSTM over (n, T, C), its states averaged over time."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, 32, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states.mean(1))


def recurrent(channels: int, classes: int) -> nn.Module:
    """Return it as metrics take it."""
    return Series(Recurrent(channels, classes), time_first=True)


def breast_cancer() -> Split:
    """Return the table, standardised: 400 rows to train on, 169 others."""
    table = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(table.target))
    x, y = table.data[order], torch.as_tensor(table.target[order])
    x = torch.as_tensor((x - x[:400].mean(0)) / x[:400].std(0), dtype=torch.float32)
    return x[:400], y[:400], x[400:], y[400:]


def perceptron(features: int, classes: int) -> nn.Module:
    """Return two hidden layers."""
    layers = [nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, classes))


STUDIES: list[tuple[str, Callable[[], Split], Callable[[int, int], nn.Module], int]] = [
    ("GunPoint, convolutions", partial(series, load_gunpoint), convolutions, 200),
    ("GunPoint, LSTM", partial(series, load_gunpoint), recurrent, 200),
    ("BasicMotions, convolutions", partial(series, load_basic_motions), convolutions, 60),
    ("BasicMotions, LSTM", partial(series, load_basic_motions), recurrent, 100),
    ("Breast cancer", breast_cancer, perceptron, 60),
]


def main() -> None:
    quick = options(parser("fidelity_series_tables", __doc__)).quick
    n, n_samples, epochs = (20, 2, 5) if quick else (None, 15, 60)
    page = Page("fidelity_series_tables", ("aeon", "scikit-learn"), quick=quick)
    for name, load, make, passes in STUDIES:
        x_train, y_train, x_test, y_test = load()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = make(x_train.shape[1], int(y_train.max()) + 1)
        train(model, x_train, y_train, epochs=passes, batch_size=16)
        tuner, trainer = (
            FineTuner(
                x_train,
                y_train,
                epochs=epochs,
                batch_size=16,
                patience=10,
                display_progressbar=False,
            )
            for _ in range(2)
        )
        robustness(
            page, f"{name}: robustness to random masks", model, tuner, x_test, y_test, MASKED
        )
        scored = Scored(model, x_test[:n], y_test[:n])
        for explainer, explain in EXPLAINERS.items():
            if make is recurrent and explain is not integrated_gradients:
                continue
            title = f"{name}, {explainer}"
            comparison(page, title, explain, scored, tuner, trainer, n_samples)


if __name__ == "__main__":
    main()
