"""Which metric ranks explanations of time series and of tables right (Tables 3 and 6).

A convolutional network reads GunPoint (aeon, 150 time steps), a multilayer perceptron the breast
cancer table (30 features); Integrated Gradients and SmoothGrad-squared are degraded as in
``benchmarks.fidelity_mnist``. Run ``python -m benchmarks.fidelity_series_tables`` in the
repository's root; ``--quick`` takes a minute and writes nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from aeon.datasets import load_gunpoint
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

Split = tuple[Tensor, Tensor, Tensor, Tensor]
EXPLAINERS = {
    "Integrated Gradients": integrated_gradients,
    "SmoothGrad-squared": smoothgrad_squared,
}
MASKED = (0.0, 0.05, 0.1, 0.2)


def gunpoint() -> tuple[nn.Module, Split]:
    """Return a convolutional network and GunPoint as it is split: 50 to train on, 150 others."""
    (x_train, y_train), (x_test, y_test) = (load_gunpoint(split=s) for s in ("train", "test"))
    layers: list[nn.Module] = []
    for inputs, outputs, width in ((1, 16, 7), (16, 32, 5), (32, 32, 3)):
        convolution = nn.Conv1d(inputs, outputs, width, padding=width // 2)
        layers += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 2))
    # Series are standardised already, each by itself.
    tensors = (torch.as_tensor(x, dtype=torch.float32) for x in (x_train, x_test))
    labels = (torch.as_tensor(y.astype(int) - 1) for y in (y_train, y_test))
    first, second = tensors
    return model, (first, next(labels), second, next(labels))


def breast_cancer() -> tuple[nn.Module, Split]:
    """Return a perceptron and the table, standardised: 400 rows to train on, 169 others."""
    table = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(table.target))
    x, y = table.data[order], torch.as_tensor(table.target[order])
    x = torch.as_tensor((x - x[:400].mean(0)) / x[:400].std(0), dtype=torch.float32)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    model.append(nn.Linear(32, 2))
    return model, (x[:400], y[:400], x[400:], y[400:])


def main() -> None:
    quick = options(parser("fidelity_series_tables", __doc__)).quick
    n, n_samples, epochs = (20, 2, 5) if quick else (None, 15, 60)
    page = Page("fidelity_series_tables", ("aeon", "scikit-learn"), quick=quick)
    for name, make, passes in (("GunPoint", gunpoint, 200), ("Breast cancer", breast_cancer, 60)):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model, (x_train, y_train, x_test, y_test) = make()
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
            title = f"{name}, {explainer}"
            comparison(page, title, explain, scored, tuner, trainer, n_samples)


if __name__ == "__main__":
    main()
