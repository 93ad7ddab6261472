"""What explainers do that their names do not say: told where it is so, and only there."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import captum.attr
import numpy as np
import pytest
import quantus
import torch
from torch import nn

import quantus_ext
from quantus_ext.evaluation.explainers import surprises
from quantus_ext.flags import Flag

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = np.zeros(6, dtype=int)


def linear() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(5, 3).eval()


def network(activation: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = 4 if isinstance(activation, nn.GLU) else 8
        return nn.Sequential(nn.Linear(5, 8), activation, nn.Linear(width, 3)).eval()


def said_of(method: str, model: nn.Module, **keywords: Any) -> list[str]:
    return list(surprises(quantus.explain, {"method": method, **keywords}, model))


def evaluated(methods: dict[str, Any], model: nn.Module) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantus_ext.evaluate({"MoRF": quantus_ext.MoRF(5)}, methods, model, X, Y, output="logit")
    # Not captum's own.
    return [str(each.message) for each in caught if each.filename == __file__]


def test_integrated_gradients_of_quantus_is_nine_tenths_of_it_and_that_is_said():
    model = linear()
    made = quantus.explain(model, X, Y, method="IntegratedGradients")
    exact = (model.weight[0] * torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(made, 0.9 * exact, rtol=1e-5)
    (said,) = evaluated({"IntegratedGradients": {}}, model)
    assert said.startswith("xai_methods['IntegratedGradients']: quantus.explain takes 10 steps")


def test_the_way_out_is_exact_and_nothing_is_said_of_it():
    model = linear()

    def integrated(model: nn.Module, inputs: Any, targets: Any) -> np.ndarray:
        inputs, targets = torch.as_tensor(inputs), torch.as_tensor(targets)
        explainer = captum.attr.IntegratedGradients(model)
        made = explainer.attribute(inputs, target=targets, n_steps=50, method="gausslegendre")
        return made.detach().numpy()

    exact = (model.weight[0] * torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(integrated(model, X, Y), exact, rtol=1e-5, atol=1e-7)
    assert evaluated({"IntegratedGradients": integrated}, model) == []
    assert said_of("IntegratedGradients", model, xai_lib="zennit") == []
    assert said_of("Gradient", model) == []


ACTIVATIONS = [
    kind
    for kind in vars(nn.modules.activation).values()
    if isinstance(kind, type)
    and issubclass(kind, nn.Module)
    and kind.__module__ == nn.ReLU.__module__
    and kind not in (nn.MultiheadAttention, nn.Softmax2d)
]
NEEDED: dict[type, tuple[Any, ...]] = {nn.Threshold: (0.1, 0.0)}
DIMENSION = (nn.Softmax, nn.LogSoftmax, nn.Softmin)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_deep_lift_without_a_rule_is_said_of_every_activation_where_it_is_so(kind):
    activation = kind(-1) if kind in DIMENSION else kind(*NEEDED.get(kind, ()))
    model, x, y = network(activation), torch.from_numpy(X), torch.from_numpy(Y)
    lift = captum.attr.DeepLift(model).attribute(x, target=y)
    product = captum.attr.InputXGradient(model).attribute(x.requires_grad_(), target=y)
    is_product = torch.allclose(lift, product, atol=1e-6)
    assert is_product == (said_of("DeepLift", model) != [])
    if is_product:
        (said,) = said_of("DeepLiftShap", model)
        assert f"no rule for {kind.__name__} and takes gradients" in said


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(1, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.embed(x[..., None])
        return self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))


def test_deep_lift_has_no_rule_for_attention_either():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Attends().eval()
    x, y = torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)
    lift = captum.attr.DeepLift(model).attribute(x, target=y)
    torch.testing.assert_close(lift, captum.attr.InputXGradient(model).attribute(x, target=y))
    (said,) = said_of("DeepLift", model)
    assert "no rule for MultiheadAttention" in said


def test_deep_lift_of_captum_itself_is_known_and_partials_of_it():
    model = network(nn.GELU())
    explainer = captum.attr.DeepLift(model)
    for function in (explainer.attribute, functools.partial(explainer.attribute, target=1)):
        (said,) = surprises(function, {}, linear())
        assert "no rule for GELU" in said
    assert not list(surprises(captum.attr.Saliency(model).attribute, {}, model))
    (said,) = evaluated({"DeepLift": {}}, model)
    assert said.startswith("xai_methods['DeepLift']: captum's DeepLift has no rule for GELU")


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_maps_are_said_with_their_explainer(value):
    maps = {"none": X * 1, "some": X * 1, "all": np.full_like(X, value)}
    maps["some"][[1, 4]] = value
    some, all_of_them = evaluated(maps, linear())
    assert some.startswith("maps of some have the same value everywhere for 2 of 6 samples")
    assert all_of_them.startswith("maps of all have the same value everywhere for 6 of 6 samples")


def test_why_lime_gives_zeros_is_said_and_the_way_out_is_one():
    from captum._utils.models.linear_model import SkLearnLasso

    model = linear()
    with torch.no_grad():
        model.weight.mul_(0.01)
    (said,) = evaluated({"Lime": {}}, model)
    assert "maps of Lime have the same value everywhere for 6 of 6" in said
    assert "captum's Lime has a penalty" in said
    lower = {"interpretable_model": SkLearnLasso(alpha=1e-5)}
    assert evaluated({"Lime": {"xai_lib_kwargs": lower}}, model) == []


def test_constant_maps_are_those_that_are_flagged():
    with pytest.warns(UserWarning, match="maps of zeros have the same value"):
        found = quantus_ext.evaluate(
            {"MoRF": quantus_ext.MoRF(5)}, {"zeros": X * 0}, linear(), X, Y
        ).flagged()
    assert Flag.ZERO_MAP.name in set(found["flag"])
