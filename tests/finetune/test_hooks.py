"""Hooks that change what a copy of the model would learn, as those of explainers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantus_ext import ROAR, FFidelity, FineTuner
from quantus_ext.finetune.known import identify
from tests.finetune.problem import masks

X = np.random.default_rng(0).normal(size=(24, 6))
Y = np.arange(24) % 3


class Bent(torch.autograd.Function):
    """The identity, whose gradient is another's."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient.clamp(min=0)


def network(normed: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Linear(6, 8)
    if normed:
        first = nn.utils.weight_norm(first)
    return nn.Sequential(first, nn.ReLU(), nn.Linear(8, 3)).double().eval()


BENDING: dict[str, Callable[[nn.Module], Any]] = {
    "outputs": lambda m: m[1].register_forward_hook(lambda *args: Bent.apply(args[2])),
    "inputs": lambda m: m[1].register_forward_pre_hook(lambda *args: Bent.apply(args[1][0])),
    "backward": lambda m: m[1].register_full_backward_hook(
        lambda *args: tuple(2 * each for each in args[1])
    ),
    "before": lambda m: m[2].register_full_backward_pre_hook(
        lambda *args: tuple(2 * each for each in args[1])
    ),
}
HARMLESS: dict[str, Callable[[nn.Module], Any]] = {
    "none": lambda m: None,
    "keeps": lambda m: m[1].register_forward_hook(lambda *args: None),
    "answers change": lambda m: m[1].register_forward_hook(lambda *args: 3 * Bent.apply(args[2])),
    "cannot run without": lambda m: m[0].register_forward_pre_hook(
        lambda *args: args[1][0].reshape(-1, 6)
    ),
}
TRAINED: dict[str, Callable[[nn.Module], Any]] = {
    "FineTuner": lambda m: FineTuner(X, Y, epochs=1)(m, masks()),
    "FFidelity": lambda m: FFidelity([0.5], n_samples=2, fine_tune=FineTuner(X, Y, epochs=1))(
        m, X, Y, X
    ),
    "its own data": lambda m: FFidelity([0.5], n_samples=2)(m, X, Y, X),
    "a function": lambda m: FFidelity([0.5], n_samples=2, fine_tune=lambda copy, masks: copy)(
        m, X, Y, X
    ),
    "ROAR": lambda m: ROAR(FineTuner(X, Y, epochs=1), X, [0.5])(m, X, Y, X),
}


@pytest.mark.filterwarnings("ignore:fine_tune is None")
@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("hook", BENDING)
def test_no_copy_learns_by_gradients_of_an_explainer(hook, trained):
    model = network()
    handle = BENDING[hook](model)
    with pytest.raises(ValueError, match="hooks that change its gradients and not its outputs"):
        TRAINED[trained](model)
    handle.remove()
    TRAINED[trained](model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", ["FineTuner", "a function"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("hook", HARMLESS)
def test_other_hooks_are_let_be(hook, normed, trained):
    model = network(normed)
    HARMLESS[hook](model)
    TRAINED[trained](model)


@pytest.mark.parametrize("hook", BENDING)
def test_what_explains_by_other_gradients_is_another_model(hook):
    model = network()
    x, device = torch.from_numpy(X), torch.device("cpu")
    before = identify(model, x, device, is_trained=True)
    handle = BENDING[hook](model)
    assert identify(model, x, device, is_trained=True).content.key != before.content.key
    assert all(weight.grad is None for weight in model.parameters())
    handle.remove()
    assert identify(model, x, device, is_trained=True).content.key == before.content.key
