"""What the studies of the fidelity family share: explainers, curves and tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel, Saliency
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.page import Page
from benchmarks.timing import markdown_table
from quantus_ext import ROAR, FFidelity, Fidelity, FineTuner, RFidelity
from quantus_ext.adapters.base import adapter_of
from quantus_ext.metrics.fidelity import SPARSITY
from quantus_ext.protocols import RankAgreement, degrade, mask_robustness, rank_agreement

NOISE = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of an explanation's values that change places: the ground truth of the ranking."""

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, inputs, classes) -> attributions."""


class Curves(NamedTuple):
    """Means over the samples, shape (noise levels, sparsities), and what they cost."""

    plus: NDArray[np.float64]
    minus: NDArray[np.float64]
    seconds: float
    evaluations: int


@dataclass(frozen=True)
class Scored:
    """A model and the samples on which explanations are scored."""

    model: nn.Module
    x: Tensor
    y: Tensor


def in_parts(explain: Explain, size: int = 500) -> Explain:
    """Explain a part at a time, so that memory does not grow with the data set."""

    def explain_all(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        parts = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([explain(model, *part).detach() for part in parts])

    return explain_all


@in_parts
def saliency(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Magnitudes of the gradient."""
    return Saliency(model).attribute(x.clone().requires_grad_(), target=y)


@in_parts
def smoothgrad_squared(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared gradient over 25 noisy copies of each input."""
    with torch.random.fork_rng(devices=[]):
        # The tunnel draws from the global generator.
        torch.default_generator.manual_seed(0)
        return NoiseTunnel(Saliency(model)).attribute(
            x.clone().requires_grad_(),
            nt_type="smoothgrad_sq",
            nt_samples=25,
            nt_samples_batch_size=5,
            stdevs=0.15 * float(x.max() - x.min()),
            target=y,
        )


@in_parts
def integrated_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Integrated Gradients from 0, which is also what removed elements become."""
    return IntegratedGradients(model).attribute(x, target=y, n_steps=32, internal_batch_size=2048)


def gradcam(layer_of: Callable[[nn.Module], nn.Module]) -> Explain:
    """GradCAM of a layer, in the size of the input."""

    @in_parts
    def explain(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        coarse = LayerGradCam(model, layer_of(model)).attribute(
            x.clone().requires_grad_(), target=y, relu_attributions=True
        )
        mode = "bilinear" if x.ndim == 4 else "linear"
        return LayerAttribution.interpolate(coarse, tuple(x.shape[2:]), mode)

    return explain


def per_position(a: Tensor) -> Tensor:
    """Sum over the channels, as positions are the elements."""
    return a.sum(1, keepdim=True) if a.ndim > 2 else a


def curves(metric: Fidelity | Sequence[Fidelity], scored: Scored, levels: list[Tensor]) -> Curves:
    """Score explanations of every noise level, each by a metric of its own if there are many."""
    metrics = [metric] * len(levels) if isinstance(metric, Fidelity) else metric
    plus, minus, evaluations = [], [], 0
    start = time.perf_counter()
    for each, level in zip(metrics, levels, strict=True):
        each(
            model=scored.model,
            x_batch=scored.x,
            y_batch=scored.y,
            a_batch=level,
            batch_size=len(scored.x),
        )
        plus.append(each.details["curve_plus"].mean(0))
        minus.append(each.details["curve_minus"].mean(0))
        evaluations += each.n_evaluations
    return Curves(np.stack(plus), np.stack(minus), time.perf_counter() - start, evaluations)


def by_metric(
    scored: Scored,
    levels: list[Tensor],
    training_levels: list[Tensor],
    tuner: FineTuner,
    trainer: FineTuner | None,
    n_samples: int,
) -> dict[str, Curves]:
    """Score every level by the paper's metrics; ROAR, with a trainer, trains one for each level."""
    roar = {}
    if trainer is not None:
        roar["ROAR"] = curves([ROAR(trainer, a) for a in training_levels], scored, levels)
    return {
        "Fidelity": curves(Fidelity(), scored, levels),
        **roar,
        "R-Fidelity": curves(RFidelity(n_samples=n_samples), scored, levels),
        "F-Fidelity": curves(FFidelity(fine_tune=tuner, n_samples=n_samples), scored, levels),
    }


def comparison(
    page: Page,
    name: str,
    explain: Explain,
    scored: Scored,
    tuner: FineTuner,
    trainer: FineTuner | None,
    n_samples: int,
) -> None:
    """Add the comparison of the metrics on one explainer to the page; without a trainer no ROAR."""
    model, x, training_levels = scored.model, scored.x, []
    levels = levels_of(model, x, explain(model, x, scored.y))
    if trainer is not None:
        train_x = trainer.data.x
        training = explain(model, train_x, trainer.data.y)
        training_levels = levels_of(model, train_x, training, seed=1)
    results = by_metric(scored, levels, training_levels, tuner, trainer, n_samples)
    page.add(
        f"{name}, noise {', '.join(f'{r:g}' for r in NOISE)}",
        f"{len(scored.x)} samples, {accuracy(scored.model, scored.x, scored.y):.3f} of them "
        f"predicted correctly; N = {n_samples}, {len(SPARSITY)} sparsities."
        + (f" ROAR's seconds include {len(NOISE)} trainings from scratch." if trainer else ""),
        agreement_table(results),
        areas_table(results),
        cost_table(results),
    )


def robustness(
    page: Page,
    title: str,
    model: nn.Module,
    tuner: FineTuner,
    x: Tensor,
    y: Tensor,
    masked: Sequence[float],
) -> None:
    """Add the accuracy of both models under random masks to the page."""
    tuned = tuner.fine_tune(model)
    result = mask_robustness(model, x, y, masked, tuned=tuned, n_draws=4)
    page.add(
        title,
        f"{len(x):,} held-out samples, 4 masks each; tuned with β = 0.1: "
        f"{tuner.report.epochs} epochs, weights of epoch {tuner.report.kept_epoch} kept, "
        f"{tuner.report.seconds:.0f} s.",
        result.to_markdown(),
        f"The plain metric would do: {'yes' if result.plain_would_do() else 'no'}.",
    )


def levels_of(model: nn.Module, x: Tensor, a: Tensor, seed: int = 0) -> list[Tensor]:
    """Return the explanations with each share of noise, among what may be removed."""
    mask = adapter_of(model).feature_mask
    among = None if mask is None else mask(x) >= 0
    return list(degrade(per_position(a), NOISE, seed=seed, among=among))


def agreement(results: Mapping[str, Curves]) -> RankAgreement:
    """Return the rank correlations with the noise."""
    pairs = {name: (result.plus, result.minus) for name, result in results.items()}
    return rank_agreement(pairs, NOISE, sparsity=SPARSITY)


def agreement_table(results: Mapping[str, Curves]) -> str:
    """Return the paper's table of rank correlations."""
    return agreement(results).to_markdown()


def areas_table(results: Mapping[str, Curves]) -> str:
    """Return the mean over sparsities of both signs at each noise level, and the cost."""
    rows = []
    for name, result in results.items():
        for sign, curve in (("Fid⁺", result.plus), ("Fid⁻", result.minus)):
            rows.append([f"{name} {sign}", *(f"{value:.3f}" for value in curve.mean(1))])
    return markdown_table(["mean over sparsities, by noise", *(f"{r:g}" for r in NOISE)], rows)


def cost_table(results: Mapping[str, Curves]) -> str:
    """Return rows through the model and seconds."""
    return markdown_table(
        ["", *results],
        [
            ["evaluations", *(f"{result.evaluations:,}" for result in results.values())],
            ["seconds", *(f"{result.seconds:.0f}" for result in results.values())],
        ],
    )


def train(
    model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float = 1e-2, batch_size: int = 64
) -> nn.Module:
    """Train a network from its own initial weights, under a one-cycle schedule."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        optimiser = torch.optim.AdamW(model.parameters(), lr)
        steps = epochs * -(-len(x) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                optimiser.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
                schedule.step()
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of right answers."""
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())
