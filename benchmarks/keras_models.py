"""Every metric that needs predictions only, on a Keras model through ``adapters.BlackBox``.

Two digits side by side, of which the left one is the label, so that what matters is known. The
same weights as a torch module must give the same scores, and ``quantus.PixelFlipping`` the same as
on the Keras model itself.

Needs an environment of its own, because Quantus asks for ``tensorflow<2.16`` (which has no release
for Python 3.12 or later) and ``numpy<2``; in it this package, these two and ``captum``. Run
``python -m benchmarks.keras_models`` in the repository's root.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import quantus
import torch
from captum.attr import Occlusion
from quantus.metrics.base import Metric
from sklearn.datasets import load_digits
from torch import nn

import quantus_ext
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext.adapters import BlackBox
from quantus_ext.finetune import MaskSampler

HEIGHT, WIDTH, CHANNELS, CLASSES = 8, 16, 3, 10
RELATIVE = 1e-5
"""Largest difference between frameworks, as a share of the largest score."""


def pairs(
    digits: np.ndarray, labels: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return n tinted pairs of digits, channels last as Keras has them, and the left labels."""
    left, right = rng.integers(0, len(digits), (2, n))
    grey = np.concatenate([digits[left], digits[right]], axis=2) / 16
    tints = rng.uniform(0.5, 1, (n, 1, 1, CHANNELS))
    return (grey[..., None] * tints).astype(np.float32), labels[left]


def compiled(network: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(3e-3), loss)
    return network


def trained(x: np.ndarray, y: np.ndarray, epochs: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.MaxPool2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(CLASSES),
    ]
    network = compiled(keras.Sequential([keras.Input((HEIGHT, WIDTH, CHANNELS)), *layers]))
    network.fit(x, y, epochs=epochs, verbose=0)
    return network


def black_box(network: keras.Model) -> BlackBox:
    def predict(rows: np.ndarray) -> np.ndarray:
        return network(np.moveaxis(rows, 1, -1), training=False).numpy()

    return BlackBox(predict, CLASSES)


def as_torch(network: keras.Model) -> nn.Module:
    """Return the same weights as a torch module."""
    kernel, bias, dense, dense_bias = map(torch.from_numpy, network.get_weights())
    # Keras flattens height, width, channels, torch channels, height, width.
    by_place = dense.reshape(HEIGHT // 2, WIDTH // 2, -1, CLASSES).permute(3, 2, 0, 1)
    convolution = nn.Conv2d(CHANNELS, len(bias), 3, padding=1)
    linear = nn.Linear(len(dense), CLASSES)
    with torch.no_grad():
        convolution.weight.copy_(kernel.permute(3, 2, 0, 1))
        convolution.bias.copy_(bias)
        linear.weight.copy_(by_place.flatten(1))
        linear.bias.copy_(dense_bias)
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear).eval()


class Tuning:
    """A ``fine_tune`` that goes on training a Keras model, on masked copies of its data."""

    def __init__(self, network: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
        self.network, self.x, self.y, self.epochs = network, x, y, epochs
        self.tuned: keras.Model | None = None

    def __call__(self, model: nn.Module, masks: MaskSampler) -> BlackBox:
        if self.tuned is None:
            self.tuned = compiled(keras.models.clone_model(self.network))
            self.tuned.set_weights(self.network.get_weights())
            inputs = torch.from_numpy(np.moveaxis(self.x, -1, 1).copy())
            for epoch in range(self.epochs):
                masked = masks(inputs, epoch).movedim(1, -1).numpy()
                self.tuned.fit(masked, self.y, verbose=0)
        return black_box(self.tuned)


def occlusion(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """Each pixel's effect on the output when it turns black."""
    maps = Occlusion(model).attribute(
        torch.as_tensor(inputs),
        (CHANNELS, 1, 1),
        target=torch.as_tensor(targets),
        perturbations_per_eval=HEIGHT * WIDTH,
    )
    # The window spans the channels, which therefore all have the same map.
    return maps[:, 0].detach().numpy()


def metrics(fine_tune: Any, others: list[nn.Module]) -> dict[str, Metric[Any]]:
    # Occlusion is the change itself: it carries the input as a factor.
    infidelity = quantus_ext.Infidelity(multiply_by_inputs=True, perturb_baseline=0.0)
    return {
        "Infidelity": infidelity,
        "Fidelity, Fid⁺": quantus_ext.Fidelity(),
        "R-Fidelity, Fid⁺": quantus_ext.RFidelity(),
        "F-Fidelity, Fid⁺": quantus_ext.FFidelity(fine_tune=fine_tune),
        "MoRF": quantus_ext.MoRF(),
        "LeRF": quantus_ext.LeRF(),
        "ABPC": quantus_ext.ABPC(),
        "Deletion": quantus_ext.Deletion(),
        "Insertion": quantus_ext.Insertion(),
        "PScore": quantus_ext.PScore(others),
        "SynScore": quantus_ext.SynScore(abs=True),
        "QGE of Infidelity": quantus_ext.QGE(infidelity),
        "QGE of `quantus.PixelFlipping`": quantus_ext.QGE(pixel_flipping()),
    }


def pixel_flipping() -> Metric[Any]:
    return quantus.PixelFlipping(
        features_in_step=8,
        perturb_baseline=0.0,
        normalise=False,
        return_auc_per_sample=True,
        disable_warnings=True,
    )


def difference(found: list[float], expected: list[float]) -> float:
    """Return the largest difference as a share of the largest score.

    Raises
    ------
    AssertionError
        If it is above ``RELATIVE``.
    """
    share = float(np.abs(np.subtract(found, expected)).max() / np.abs(expected).max())
    if not share <= RELATIVE:
        raise AssertionError(f"scores must agree within {RELATIVE}, differ by {share:.1e}")
    return share


def main() -> None:
    chosen = options(parser("keras_models", __doc__))
    page = Page("keras_models", ("tensorflow", "keras", "captum"), quick=chosen.quick)
    n_train, epochs, n = (500, 2, 4) if chosen.quick else (4000, 15, 32)
    rng = np.random.default_rng(0)
    digits, labels = load_digits(return_X_y=True)
    digits = digits.reshape(-1, 8, 8)
    x_train, y_train = pairs(digits[:1400], labels[:1400], n_train, rng)
    x_test, y_test = pairs(digits[1400:], labels[1400:], 1000, rng)
    networks = [trained(x_train, y_train, epochs, seed) for seed in range(3)]
    accuracy = np.mean(networks[0].predict_on_batch(x_test).argmax(1) == y_test)
    boxes, modules = list(map(black_box, networks)), list(map(as_torch, networks))
    tuning = Tuning(networks[0], x_train, y_train, max(epochs // 3, 1))
    of_keras = metrics(tuning, boxes[1:])
    # Scored after Keras, when the tuned copy is there.
    of_torch = metrics(lambda model, masks: as_torch(tuning.tuned), modules[1:])

    x_last, y = x_test[:n], y_test[:n]
    x = np.moveaxis(x_last, -1, 1).copy()
    left_digit = x.any(1) & (np.arange(WIDTH) < WIDTH // 2)
    explained = occlusion(boxes[0], x, y)
    shuffled = rng.permuted(explained.reshape(n, -1), axis=1).reshape(explained.shape)
    maps = {"occlusion": explained, "random": shuffled}
    call = {"s_batch": left_digit, "explain_func": occlusion}

    rows = []
    for name, metric in of_keras.items():
        cells, apart = [], []
        for a in maps.values():
            scores = metric(boxes[0], x_last, y, a, channel_first=False, **call)
            expected = of_torch[name](modules[0], x, y, a, channel_first=True, **call)
            apart.append(difference(scores, expected))
            cells.append(f"{np.mean(scores):.3f} ± {np.std(scores) / n**0.5:.3f}")
        title = f"{name} ({metric.score_direction.value})"
        rows.append([title, *cells, f"{metric.n_evaluations:,}", f"{max(apart):.1g}"])
    page.text(
        f"A convolution, a pooling and a dense layer in Keras, trained on {n_train:,} pairs of 8×8 "
        f"digits in colour; right on {accuracy:.1%} of 1,000 held-out pairs. Mean over {n} of them "
        "± standard error. Random: the values of occlusion in random order. Evaluations: rows "
        "sent through the scored model for one explainer. Torch: the largest difference from the "
        "scores of a torch module with the same weights, as a share of the largest score."
    )
    page.text(markdown_table(["", *maps, "evaluations", "torch"], rows))

    flipping = pixel_flipping()
    rows = []
    for name, a in maps.items():
        native = flipping(networks[0], x_last, y, a, channel_first=False)
        boxed = flipping(boxes[0], x, y, a, channel_first=True)
        means = [f"{np.mean(scores):.3f}" for scores in (native, boxed)]
        rows.append([name, *means, f"{difference(boxed, native):.1g}"])
    page.add(
        "`quantus.PixelFlipping` (lower)",
        "On the Keras model, channels last, by Quantus's own wrapper, and on the black box, "
        "channels first.",
        markdown_table(["", "Keras model", "black box", "differ by"], rows),
    )


if __name__ == "__main__":
    main()
