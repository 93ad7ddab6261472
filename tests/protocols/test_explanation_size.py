"""Explanation size: Theorem 1 on a model whose tiers are known, and rankings that say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext.finetune import MaskSampler
from quantus_ext.protocols import explanation_size
from quantus_ext.protocols.explanation_size import GRID, size_from_curves

FEATURES, SAMPLES = 200, 25


class ReadsSome(nn.Module):
    """Its probability of class 1 rises with the mean of each sample's marked features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Marked features are 2, others 1, removed ones 0.
        share = (x == 2).sum(1) / 50
        return torch.stack([-4 * share, 4 * share - 2], 1)


def marked(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs with ``size`` marked features in random places, and an ideal ranking."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(SAMPLES, FEATURES, generator=generator).argsort(1)
    x = 1 + (places < size).float()
    return x, x + 0.5 * torch.rand(x.shape, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.25])
def test_recovers_the_size_of_the_first_tier(share):
    model = ReadsSome().eval()
    x, a = marked(round(share * FEATURES))
    y = torch.ones(SAMPLES, dtype=torch.int64)
    found = explanation_size(
        model, x, y, a, fine_tune=model, alphas=[0.5, 0.9], betas=[0.05, 0.1, 0.2], n_samples=4
    )
    assert found.sparsity == pytest.approx(share, rel=0.1)
    assert all(beta / alpha < found.sparsity for alpha, beta in found.kept)


def test_one_pair_alone_gives_the_cap_and_the_sweep_does_not_count_it():
    model = ReadsSome().eval()
    x, a = marked(20)
    y = torch.ones(SAMPLES, dtype=torch.int64)
    found = explanation_size(
        model, x, y, a, fine_tune=model, alphas=[0.5], betas=[0.02, 0.2], n_samples=4
    )
    assert found.ends[0.5, 0.2] >= 0.38
    assert found.kept == ((0.5, 0.02),)


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_ranking_gives_none(seed):
    model = ReadsSome().eval()
    x, _ = marked(40)
    a = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    y = torch.ones(SAMPLES, dtype=torch.int64)
    found = explanation_size(
        model, x, y, a, fine_tune=model, alphas=[0.5, 0.9], betas=[0.05, 0.2], n_samples=4
    )
    assert found.sparsity is None


@pytest.mark.parametrize("size", [6, 7, 8])
def test_of_few_elements_the_size_is_one_of_them(size):
    # A hundredth of 30 is none, and .2 to .23 of them are the same six.
    model = ReadsSome().eval()
    x = torch.ones(SAMPLES, 30)
    x[:, :size] = 2
    a, y = torch.arange(30.0).flip(0).expand(SAMPLES, -1), torch.ones(SAMPLES, dtype=torch.int64)
    asked: list[int] = []
    model.register_forward_hook(lambda _, given, __: asked.append(len(given[0])))
    settings = {"alphas": [0.9], "n_samples": 300, "fine_tune": model}
    found = explanation_size(model, x, y, a, betas=[0.05, 0.06], **settings)
    assert found.sparsity == pytest.approx(size / 30, rel=1e-12)
    assert found.kept == ((0.9, 0.05),), "one element each: the pairs are one"
    assert found.ends[0.9, 0.05] == found.ends[0.9, 0.06]
    evaluations = sum(asked)
    asked.clear()
    explanation_size(model, x, y, a, betas=[0.05], **settings)
    assert evaluations == sum(asked)
    # 1 of 30 is removed, not .02 of them: the level part may begin at 1/30/.9.
    assert explanation_size(model, x, y, a, betas=[0.02], **settings).sparsity == found.sparsity


def test_rounding_is_no_fall():
    curve = np.full((10, 3), 0.3)
    curve[:, 2] = 0.1 + 0.2 - 1e-16
    assert size_from_curves({(0.9, 0.1): curve}, [0.1, 0.5, 1.0]).ends == {(0.9, 0.1): None}


def test_a_peak_without_a_plateau_gives_none():
    places = np.array(GRID)
    noise = 0.001 * np.random.default_rng(0).normal(size=(50, len(places)))
    curves = {
        (0.5, beta): 0.3 - np.abs(places - 2 * beta) * 0.2 + noise for beta in (0.05, 0.1, 0.2)
    }
    found = size_from_curves(curves, GRID)
    assert found.sparsity is None
    assert found.ends[0.5, 0.1] == pytest.approx(0.2, abs=0.02)


def test_bad_input():
    with pytest.raises(ValueError, match="sparsity must increase"):
        size_from_curves({}, [0.2, 0.1])
    with pytest.raises(ValueError, match="curves must have shape"):
        size_from_curves({(0.5, 0.1): np.ones((3, 4))}, [0.1, 0.2])
    x, a = marked(20)
    y, model = torch.ones(SAMPLES).long(), ReadsSome().eval()
    trained: list[nn.Module] = []

    def fine_tune(model: nn.Module, masks: MaskSampler) -> nn.Module:
        trained.append(model)
        return model

    for change, message in (
        ({"betas": [0]}, "betas must be above 0"),
        ({"betas": [0.5, 0.9], "alphas": 0.5}, "betas must hold one below an alpha"),
        ({"y_batch": y + 1}, "labels in y_batch must be below 2"),
        ({"x_batch": x * torch.nan}, "x_batch must be finite"),
    ):
        arguments = {"x_batch": x, "y_batch": y, "a_batch": a, "fine_tune": fine_tune, **change}
        with pytest.raises(ValueError, match=message):
            explanation_size(model, **arguments)
    assert trained == []


def test_arrays_in_double_precision_and_single_numbers():
    x, a = marked(20)
    y, model = torch.ones(SAMPLES).long(), nn.Linear(FEATURES, 2).eval()
    seeds: list[int] = []

    def fine_tune(model: nn.Module, masks: MaskSampler) -> nn.Module:
        seeds.append(masks.seed)
        return model

    settings = {"fine_tune": fine_tune, "sparsity": [0.1, 0.5, 1.0], "n_samples": 2, "seed": 3}
    found = explanation_size(
        model, x.double().numpy(), y.numpy(), a.double().numpy(), alphas=0.5, betas=0.1, **settings
    )
    expected = explanation_size(model, x, y, a, alphas=[0.5], betas=[0.1], **settings)
    assert found == expected
    assert seeds == [0, 0], "the seed of the draws is not that of the training"
