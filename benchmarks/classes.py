"""Ten classes of each sample: time, rows and scores of one call, of one call a class, of others.

Run ``python -m benchmarks.classes --threads 1`` in the repository's root; ``--quick`` writes
nothing. The last section needs ``torchxai-tools==0.1.3``, and is left out where that is missing.
"""

from __future__ import annotations

import importlib.util
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import quantus_ext
from benchmarks.models import lenet_on_digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import alternate, counted, markdown_table, ratio
from quantus_ext.base import TorchMetric

K = 10
PATCH = 4
DRAWS = 100


def gradient_times_input(model: nn.Module, x: Tensor) -> np.ndarray:
    """Return maps of all classes, shape (n, k, 1, 28, 28)."""
    inputs = x.clone().requires_grad_(True)
    outputs = model(inputs)
    maps = [
        torch.autograd.grad(outputs[:, label].sum(), inputs, retain_graph=True)[0] * x
        for label in range(K)
    ]
    return torch.stack(maps, 1).detach().numpy()


def infidelity(draws: int = DRAWS) -> quantus_ext.Infidelity:
    return quantus_ext.Infidelity(
        n_perturb_samples=draws,
        perturb_patch_sizes=[PATCH],
        perturb_baseline=0.0,
        multiply_by_inputs=True,
    )


def metrics() -> dict[str, TorchMetric]:
    return {
        "`Infidelity`, its defaults": quantus_ext.Infidelity(multiply_by_inputs=True),
        f"`Infidelity`, {DRAWS} draws of {PATCH}×{PATCH}": infidelity(),
        "`RFidelity`, 10 draws": quantus_ext.RFidelity(n_samples=10),
        "`Deletion(28)`": quantus_ext.Deletion(28),
    }


def row(
    name: str, metric: TorchMetric, model: nn.Module, x: np.ndarray, maps: np.ndarray, repeats: int
) -> list[str]:
    """Compare one call with ten, and with that of one class."""
    labels = np.tile(np.arange(K), (len(x), 1))
    calls: dict[str, Callable[[], Any]] = {
        "together": lambda: metric(model, x, labels, maps),
        "one by one": lambda: [metric(model, x, labels[:, c], maps[:, c]) for c in range(K)],
        "one class": lambda: metric(model, x, labels[:, 0], maps[:, 0]),
    }
    found = {kind: counted(model, call) for kind, call in calls.items()}
    together, alone = np.array(found["together"][1]), np.array(found["one by one"][1]).T
    seconds = alternate(calls, repeats)
    return [
        name,
        *(f"{found[kind][0]:,}" for kind in calls),
        f"{np.abs(together - alone).max() / np.abs(alone).max():.1e}",
        f"{statistics.median(seconds['together']):.2f} s",
        f"{ratio(seconds['together'], seconds['one class'])}",
        f"{ratio(seconds['one by one'], seconds['together'])}",
    ]


def windows(inputs: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Return what a random window loses, and the inputs without it."""
    changed = inputs.clone()
    places = torch.randint(0, inputs.shape[-1] - PATCH + 1, (len(inputs), 2))
    for image, (top, left) in zip(changed, places.tolist(), strict=True):
        image[..., top : top + PATCH, left : left + PATCH] = 0
    return inputs - changed, changed


def peers(model: nn.Module, x: np.ndarray, maps: np.ndarray, repeats: int) -> list[list[str]]:
    """Compare with the several targets of torchxai-tools, whose default scale is left out."""
    from torchxai.data_types import SingleTargetAcrossBatch
    from torchxai.metrics import infidelity as theirs

    # Of gradients times inputs, the gradient is what a perturbation is multiplied with.
    gradients = np.divide(maps, x[:, None], out=np.zeros_like(maps), where=x[:, None] != 0)
    rows, given = (
        torch.from_numpy(x),
        [torch.from_numpy(each) for each in np.moveaxis(gradients, 1, 0)],
    )
    targets = [SingleTargetAcrossBatch(index=label) for label in range(K)]
    labels = np.tile(np.arange(K), (len(x), 1))
    own, every = infidelity(), infidelity(625)
    exact = np.array(every(model, x, labels, maps))
    call = {"perturb_func": windows, "n_perturb_samples": DRAWS, "normalize": False}

    def of_all() -> np.ndarray:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.stack(
                theirs(model, rows, given, target=targets, multi_target=True, **call), 1
            ).numpy()

    def of_each() -> np.ndarray:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = [
                theirs(model, rows, a, target=t, **call)
                for a, t in zip(given, targets, strict=True)
            ]
            return torch.stack(found, 1).numpy()

    def ours() -> np.ndarray:
        return np.array(own(model, x, labels, maps))

    calls = {
        "this package, all at once": ours,
        "torchxai-tools, `multi_target=True`": of_all,
        "torchxai-tools, class by class": of_each,
    }
    found = {name: counted(model, call) for name, call in calls.items()}
    seconds = alternate(calls, repeats)
    first = next(iter(calls))
    return [
        [
            name,
            f"{found[name][0]:,}",
            f"{np.median(np.abs(found[name][1] - exact) / exact):.1%}",
            f"{statistics.median(seconds[name]):.2f} s",
            f"{ratio(seconds[name], seconds[first])}",
        ]
        for name in calls
    ]


def main() -> None:
    made = parser("classes", __doc__)
    made.add_argument("--repeats", type=int, default=7, help="rounds that times are taken in")
    chosen = options(made)
    warnings.simplefilter("ignore")
    case = lenet_on_digits(4 if chosen.quick else 64)
    repeats = 1 if chosen.quick else chosen.repeats
    x = np.asarray(case.x)
    maps = gradient_times_input(case.model, torch.from_numpy(x))
    has_peer = importlib.util.find_spec("torchxai") is not None
    page = Page("classes", ["torchxai-tools"] * has_peer, quick=chosen.quick)
    page.add(
        f"{K} classes of {len(x)} digits, LeNet",
        "Rows that go through the model; the largest difference to scores of one call a class, as "
        "a share of the largest score; medians of ratios of calls in turn, with the smallest and "
        "the largest.",
        markdown_table(
            [
                *("metric", "rows: together", "one by one", "one class", "difference", "time"),
                *("together / one class", "one by one / together"),
            ],
            [row(name, metric, case.model, x, maps, repeats) for name, metric in metrics().items()],
        ),
    )
    if has_peer:
        page.add(
            f"Infidelity elsewhere, {DRAWS} draws of a {PATCH}×{PATCH} window",
            "Error: the median distance from the infidelity over all 625 windows, as a share of "
            "it.",
            markdown_table(
                ["", "rows", "error", "time", "time / this package"],
                peers(case.model, x, maps, repeats),
            ),
        )


if __name__ == "__main__":
    main()
