"""M4's three questions of the metrics of this package, on MNIST and on electricity demand.

Do metrics agree, which method of explanation is best, and for which model does it matter most?
Five networks of different kinds, six explainers. Run ``python -m benchmarks.m4`` in the
repository's root.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from aeon.datasets import load_italy_power_demand
from captum.attr import InputXGradient, Occlusion
from torch import Tensor, nn

from benchmarks.fidelity_common import (
    accuracy,
    integrated_gradients,
    per_position,
    saliency,
    smoothgrad_squared,
    train,
)
from benchmarks.fidelity_digits import Transformer, convolutions, digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    PScore,
    RFidelity,
    SynScore,
)
from quantus_ext.base import TorchMetric
from quantus_ext.plotting import save_figure
from quantus_ext.protocols import (
    best_method,
    method_sensitivity,
    metric_agreement,
    overall_score,
    plant_shortcut,
)

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]

CARRY_INPUTS = ("Input×Gradient", "Integrated Gradients", "Occlusion")
"""Explainers whose maps have the input as a factor, as Infidelity must know."""


@dataclass(frozen=True)
class Data:
    """Training data and others, and the networks to be trained."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    networks: dict[str, Callable[[], nn.Module]]
    window: tuple[int, ...]
    kind: Literal["patch", "pattern"]
    planted: int


def mnist() -> Data:
    data = digits()
    plain: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32)):
        plain += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    networks = {
        "batch norm": convolutions,
        "max pooling": lambda: nn.Sequential(*plain, nn.Flatten(), nn.Linear(32 * 49, 10)),
        "tanh": lambda: nn.Sequential(
            *(nn.Conv2d(1, 8, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 5), nn.Tanh()),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 10)),
        ),
        "perceptron": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)
        ),
        "transformer": Transformer,
    }
    return Data(
        "MNIST",
        data.x_train,
        data.y_train,
        data.x_test,
        data.y_test,
        networks,
        (1, 4, 4),
        "pattern",
        12,
    )


def electricity() -> Data:
    """Days of electricity demand, in summer or winter, 24 hours each."""
    parts = [load_italy_power_demand(split=split) for split in ("train", "test")]
    x = torch.as_tensor(np.concatenate([part[0] for part in parts]), dtype=torch.float32)
    y = torch.as_tensor(np.concatenate([part[1] for part in parts]).astype(int) - 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]

    def convolution(*last: nn.Module, norm: bool, width: int) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32)):
            layers.append(nn.Conv1d(inputs, outputs, width, padding=width // 2))
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()] if norm else [nn.ReLU()]
        return nn.Sequential(*layers, *last)

    ends = (nn.Flatten(), nn.Linear(32 * 24, 2))
    networks = {
        "batch norm": lambda: convolution(*copy.deepcopy(ends), norm=True, width=3),
        "plain": lambda: convolution(*copy.deepcopy(ends), norm=False, width=3),
        "wide": lambda: convolution(*copy.deepcopy(ends), norm=False, width=7),
        "perceptron": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 2)
        ),
        "deep perceptron": lambda: nn.Sequential(
            *(nn.Flatten(), nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()),
            nn.Linear(32, 2),
        ),
    }
    return Data(
        "Electricity demand", x[:700], y[:700], x[700:], y[700:], networks, (1, 3), "patch", 6
    )


def explainers(window: tuple[int, ...]) -> dict[str, Explain]:
    def input_x_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return InputXGradient(model).attribute(x.clone().requires_grad_(), target=y).detach()

    def occlusion(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        strides = (1, *(max(side // 2, 1) for side in window[1:]))
        return Occlusion(model).attribute(x, window, strides=strides, target=y).detach()

    def random(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        # Maps of the same inputs by different models must not be the same.
        seed = int(next(model.parameters()).detach().flatten()[0].view(torch.int32))
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed % 2**31))

    return {
        "Saliency": saliency,
        "SmoothGrad-squared": smoothgrad_squared,
        "Input×Gradient": input_x_gradient,
        "Integrated Gradients": integrated_gradients,
        "Occlusion": occlusion,
        "random": random,
    }


def as_quantus(explain: Explain) -> Callable[..., np.ndarray]:
    """Return an explanation function as Quantus calls it."""

    def explain_func(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        maps = explain(model, torch.from_numpy(inputs.copy()), torch.from_numpy(targets.copy()))
        return per_position(maps).detach().numpy()

    return explain_func


def metrics(
    tuner: FineTuner, models: list[nn.Module], explainer: str, draws: int
) -> dict[str, TorchMetric]:
    carries = explainer in CARRY_INPUTS
    return {
        "MoRF": MoRF(),
        "LeRF": LeRF(),
        "ABPC": ABPC(),
        "Deletion": Deletion(),
        "Insertion": Insertion(),
        "INFD": Infidelity(
            rescale=True,
            multiply_by_inputs=carries,
            n_perturb_samples=20 * draws,
            perturb_baseline=0.0,
        ),
        "Fidelity": Fidelity(score="gap"),
        "R-Fidelity": RFidelity(score="gap", n_samples=draws),
        "F-Fidelity": FFidelity(score="gap", n_samples=draws, fine_tune=tuner),
        "QGE of Deletion": QGE(Deletion()),
        "PScore": PScore(models),
    }


DIRECTIONS = {"LeRF": "lower", "Deletion": "lower", "INFD": "lower"}


def scores_of(
    data: Data, n: int, draws: int, epochs: int, most: int
) -> tuple[dict[str, np.ndarray], list[list[str]]]:
    """Return mean scores, metric -> (models, explainers), and what was trained, as rows."""
    models, facts = [], []
    for name, build in data.networks.items():
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(len(models))
            network = build()
        x, y = data.x_train[:most], data.y_train[:most]
        models.append(train(network, x, y, epochs=epochs, lr=3e-3))
        facts.append([name, f"{accuracy(models[-1], data.x_test, data.y_test):.3f}"])
    tuner = FineTuner(
        data.x_train[:most], data.y_train[:most], epochs=10, display_progressbar=False
    )
    x, y = data.x_test[:n], data.y_test[:n]
    found: dict[str, list[list[float]]] = {}
    for number, model in enumerate(models):
        half = min(most, 2000)
        planted = plant_shortcut(
            model,
            data.x_train[:half],
            data.y_train[:half],
            kind=data.kind,
            size=data.planted,
            epochs=2 * epochs,
        )
        facts[number] += [f"{planted.accuracy:.3f}", f"{planted.accuracy_without:.3f}"]
        rows: dict[str, list[float]] = {}
        for name, explain in explainers(data.window).items():
            print(f"{data.name}, {facts[number][0]}, {name} …", file=sys.stderr, flush=True)
            explain_func = as_quantus(explain)
            for metric_name, metric in metrics(tuner, models, name, draws).items():
                scores = metric(model, x, y, explain_func=explain_func, batch_size=n)
                rows.setdefault(metric_name, []).append(float(np.nanmean(scores)))
            found_truth = SynScore(abs=True)(
                planted.model,
                planted.x[:n],
                planted.y[:n],
                s_batch=planted.masks[:n],
                explain_func=explain_func,
            )
            rows.setdefault("SynScore", []).append(float(np.mean(found_truth)))
        for metric_name, values in rows.items():
            found.setdefault(metric_name, []).append(values)
    return {name: np.array(values) for name, values in found.items()}, facts


def section(data: Data, *, quick: bool) -> str:
    n, draws, epochs, most = (10, 2, 2, 300) if quick else (100, 5, 15, 4000)
    scores, facts = scores_of(data, n, draws, epochs, most)
    names = list(explainers(data.window))
    agreement = metric_agreement(scores, directions=DIRECTIONS, nan_policy="omit")
    overall = overall_score(scores)
    best = best_method(overall, names)
    if not quick:
        picture = Path(__file__).with_name(f"m4_{data.name.split()[0].lower()}.png")
        axes = agreement.plot()
        axes.set_title(data.name)
        save_figure(axes.figure, picture, dpi=90)
    means = [
        [name, *(f"{value:.3f}" for value in values.mean(0))] for name, values in scores.items()
    ]
    sensitivity = method_sensitivity(overall)
    models = [
        [*facts[i], ", ".join(best.by_model[i]), f"{sensitivity[i]:.3f}"] for i in range(len(facts))
    ]
    return "\n\n".join(
        [
            f"## {data.name}",
            (
                f"{n} inputs, {len(facts)} networks, {len(names)} explainers. Agreement of metrics "
                "(Spearman, signs flipped so that higher is better): over networks × explainers "
                "above the "
                "diagonal, within networks below."
            ),
            agreement.to_markdown(),
            "Mean scores over networks:",
            markdown_table(["", *names], means),
            (
                f"Best over all networks by M4's overall score: {', '.join(best.overall)}. "
                "Sensitivity is the standard deviation of that score over explainers; planted is "
                "the accuracy of the network that learnt a shortcut, with and without it."
            ),
            markdown_table(
                ["network", "accuracy", "planted", "without", "best", "sensitivity"], models
            ),
        ]
    )


def main() -> None:
    chosen = options(parser("m4", __doc__))
    text = "\n\n".join(section(make(), quick=chosen.quick) for make in (mnist, electricity))
    Page("m4", ("aeon", "captum", "mlxtend"), quick=chosen.quick).text(text)


if __name__ == "__main__":
    main()
