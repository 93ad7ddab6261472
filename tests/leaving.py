"""Explainers that leave something behind: everything that one could think of, each by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.harness import gradients

LEAVE: dict[str, Callable[[nn.Module], object]] = {}
"""By name, what is done to a model, or to the process, and not undone."""

WEIGHTS = ("weights in place", "weights by .data", "data of another tensor", "weights, halved type")
"""After these the values of parameters are others."""


class Net(nn.Module):
    """With batch norm, dropout, and layers to put hooks on."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def network(seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Net().eval()
        model.features[1].running_mean.normal_()
        model.features[1].running_var.uniform_(0.5, 2)
    return model


def leaves(name: str) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
    def add(leave: Callable[[Any], object]) -> Callable[[Any], object]:
        LEAVE[name] = leave
        return leave

    return add


leaves("training mode")(lambda model: model.train())
leaves("training mode of dropout")(lambda model: model.features[3].train())
leaves("training mode of batch norm")(lambda model: model.features[1].train())


@leaves("buffers by running it in training mode")
def _(model: Net) -> None:
    model.train()
    model(torch.randn(8, 1, 6, 6))
    model.eval()


leaves("a buffer in place")(lambda model: model.features[1].running_mean.add_(1.0))
leaves("a buffer by .data")(lambda model: model.features[1].running_var.data.mul_(3.0))


@leaves("another buffer object")
def _(model: Net) -> None:
    model.features[1].running_mean = torch.ones(4)


@leaves("weights in place")
def _(model: Net) -> None:
    with torch.no_grad():
        model.head.weight.mul_(-0.5)


leaves("weights by .data")(lambda model: model.head.weight.data.mul_(-0.5))


@leaves("data of another tensor")
def _(model: Net) -> None:
    model.head.weight.data = -model.head.weight.data


@leaves("weights, halved type")
def _(model: Net) -> None:
    model.head.half().float()
    model.head.weight.data.round_(decimals=2)


@leaves("another parameter object")
def _(model: Net) -> None:
    model.head.weight = nn.Parameter(-model.head.weight.detach())


@leaves("another module")
def _(model: Net) -> None:
    model.features[2] = nn.Sigmoid()


@leaves("an attribute that hides a parameter")
def _(model: Net) -> None:
    vars(model.head)["weight"] = torch.zeros(3, 4 * 36)


@leaves("a module of another class")
def _(model: Net) -> None:
    model.features[2].__class__ = nn.Sigmoid


@leaves("parts that are missing")
def _(model: Net) -> None:
    del model.head, model.features[1]


@leaves("a forward of the instance's own")
def _(model: Net) -> None:
    model.forward = lambda x: -Net.forward(model, x)


@leaves("a setting of a layer")
def _(model: Net) -> None:
    model.features[1].eps = 10.0


leaves("a forward hook")(
    lambda model: model.features[2].register_forward_hook(lambda module, args, out: out * 0.1)
)
leaves("a forward pre-hook")(
    lambda model: model.head.register_forward_pre_hook(lambda module, args: (args[0] * -1,))
)
leaves("a full backward hook")(
    lambda model: model.features[2].register_full_backward_hook(
        lambda module, into, out: (into[0] * -1,)
    )
)
leaves("a hook of a parameter")(lambda model: model.head.weight.register_hook(torch.neg))
leaves("a hook of all modules")(
    lambda model: nn.modules.module.register_module_forward_hook(
        lambda module, args, out: out * 0.5 if isinstance(module, nn.Conv2d) else None
    )
)
leaves("requires_grad flags")(lambda model: model.requires_grad_(False))


@leaves("gradients")
def _(model: Net) -> None:
    with torch.enable_grad():
        model(torch.ones(1, 1, 6, 6)).sum().backward()


leaves("default dtype")(lambda model: torch.set_default_dtype(torch.float64))
leaves("grad mode")(lambda model: torch.set_grad_enabled(False))
leaves("threads")(lambda model: torch.set_num_threads(2))
leaves("deterministic algorithms")(
    lambda model: torch.use_deterministic_algorithms(True, warn_only=True)
)
leaves("numpy's errors")(lambda model: np.seterr(all="raise"))
leaves("a device")(lambda model: torch.set_default_device("meta"))


@leaves("cudnn flags")
def _(model: Net) -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True


@leaves("generators")
def _(model: Net) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)


class Leaving:
    """Explains by gradients, and then leaves something; or raises in the middle of it."""

    def __init__(self, name: str | None, *, raises: bool = False) -> None:
        self.name = name
        self.raises = raises

    def __call__(self, model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        made = gradients(model, inputs, targets)
        inputs[:], targets[:] = 0, 0
        if self.name is not None:
            LEAVE[self.name](model)
        if self.raises:
            raise RuntimeError("in the middle")
        return made


def input_x_gradient(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    return gradients(model, inputs, targets) * inputs


def noise(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """Draw from every global random state."""
    drawn = np.random.normal(size=inputs.shape)  # noqa: NPY002
    return (drawn + torch.randn(inputs.shape).numpy() + random.random()).astype(np.float32)


harmless = partial(Leaving, None)


def data(n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    return generator.normal(size=(n, 1, 6, 6)).astype(np.float32), generator.integers(0, 3, n)
