"""QGE of random explanations of images (table 1 of the paper).

The quality of an explanation is equation 6, the mean probability of the explained class as the
most relevant elements are kept and the others are 0. Run ``python -m benchmarks.qge_images`` in
the repository's root; ``--photos 1000`` is the paper's number for the photos too, hours on a
processor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.page import Page, options, parser
from benchmarks.photos import SIDE, imagenet_network, photos_of
from benchmarks.qge_study import GAIN_HEADER, Gain, Values, gain, gain_cells
from benchmarks.timing import markdown_table
from quantus_ext import demo
from quantus_ext.functional import inverse

Quality = Callable[[Tensor], Values]
"""Attributions (explanations, elements) of one input -> equation 6 for each."""

MNIST_EXPLANATIONS = 1000
MNIST_INPUTS = 25
SUPER_PIXEL = 32


class Row(NamedTuple):
    """One line of table 1."""

    model: str
    elements: str
    explanations: int
    gains: list[Gain]
    paper: tuple[str, str]


def gain_of(quality: Quality, elements: int, explanations: int, seed: int) -> Gain:
    """Score random explanations, their inverses and as many others, one for each."""
    generator = torch.Generator().manual_seed(seed)
    a, other = torch.rand(2, explanations, elements, generator=generator)
    return gain(quality(a), quality(inverse(a)), quality(other))


def mlp_on_digits(problem: demo.Problem, seed: int) -> nn.Linear | nn.Sequential:
    """Train 784-100-10 with ReLU for 10 epochs."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    x, y = problem.x_train.flatten(1), problem.y_train
    for _ in range(10):
        for rows in torch.randperm(len(x)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval().requires_grad_(False)


def quality_by_mlp(model: nn.Sequential, x: Tensor, label: int) -> Quality:
    """Return equation 6 over all 784 pixels: keeping one more adds one column to the sums."""
    first, last = model[0], model[2]
    columns = (first.weight * x).T

    def quality(a: Tensor) -> Values:
        values = []
        for order in a.argsort(dim=1, descending=True):
            hidden = (columns[order].cumsum(0) + first.bias).relu()
            probabilities = last(hidden).softmax(1)[:, label]
            values.append(float(probabilities.double().mean()))
        return np.array(values)

    return quality


def quality_by_images(
    model: nn.Module, x: Tensor, label: int, masks: Tensor, levels: Sequence[int], batch: int
) -> Quality:
    """Return equation 6 at some levels, for elements with masks (elements, H, W)."""

    def quality(a: Tensor) -> Values:
        ranks = a.argsort(dim=1, descending=True).argsort(1)
        kept = torch.stack([ranks < level for level in levels], 1).flatten(0, 1)
        outputs = []
        with torch.no_grad():
            for part in kept.split(batch):
                mask = torch.einsum("re,ehw->rhw", part.float(), masks).unsqueeze(1)
                rows = (x * mask).contiguous(memory_format=torch.channels_last)
                outputs.append(model(rows).softmax(1)[:, label].double())
        means: Values = torch.cat(outputs).reshape(len(a), len(levels)).mean(1).numpy()
        return means

    return quality


def digits_by_mlp(problem: demo.Problem, inputs: int, explanations: int) -> Row:
    model = mlp_on_digits(problem, 0)
    outputs = model(problem.x_test.flatten(1))
    accuracy = float((outputs.argmax(1) == problem.y_test).double().mean())
    gains = []
    for i in range(inputs):
        label = int(outputs[i].argmax())
        quality = quality_by_mlp(model, problem.x_test[i].flatten(), label)
        gains.append(gain_of(quality, 784, explanations, i))
    name = f"MNIST, MLP 784-100-10, accuracy {accuracy:.3f}"
    return Row(name, "784 pixels", explanations, gains, ("0.214 ± 0.04", "0.200 ± 0.03"))


def digits_by_cnn(problem: demo.Problem, inputs: int, explanations: int) -> Row:
    """The network of the demonstration, with 49 super-pixels of 4×4."""
    masks = _super_pixels(28, 4)
    labels = problem.model(problem.x_test[:inputs]).argmax(1).tolist()
    gains = []
    for i, label in enumerate(labels):
        levels = range(1, len(masks) + 1)
        quality = quality_by_images(problem.model, problem.x_test[i], label, masks, levels, 64)
        gains.append(gain_of(quality, len(masks), explanations, i))
    name = f"MNIST, 3 convolutions, accuracy {problem.accuracy:.3f}"
    return Row(name, "49 of 4×4", explanations, gains, ("–", "–"))


def photos(explanations: int, every: int) -> Row:
    """EfficientNet-Lite0 on photos whose class it gets right."""
    model = imagenet_network().to(memory_format=torch.channels_last)
    masks = _super_pixels(SIDE, SUPER_PIXEL)
    levels = range(every, len(masks) + 1, every)
    gains = []
    for number, (name, x, label) in enumerate(photos_of(model)):
        print(f"{name} …", file=sys.stderr, flush=True)
        quality = quality_by_images(model, x, label, masks, levels, 16)
        gains.append(gain_of(quality, len(masks), explanations, number))
    elements = f"49 of 32×32, every {every}th level" if every > 1 else "49 of 32×32"
    return Row(
        f"{len(gains)} photos, EfficientNet-Lite0",
        elements,
        explanations,
        gains,
        ("0.108 to 0.150", "0.106 to 0.149"),
    )


def _super_pixels(side: int, size: int) -> Tensor:
    """Return masks (elements, side, side) of squares."""
    across = side // size
    rows = torch.arange(side) // size
    ids = rows[:, None] * across + rows
    return (ids == torch.arange(across**2)[:, None, None]).float()


def _table(rows: Sequence[Row]) -> str:
    header = ["", "elements", "inputs", "explanations", *GAIN_HEADER, "paper: Δτ", "paper: Δρ"]
    cells = [
        [
            row.model,
            row.elements,
            str(len(row.gains)),
            f"{row.explanations:,}",
            *gain_cells(row.gains),
            *row.paper,
        ]
        for row in rows
    ]
    return markdown_table(header, cells)


def _options() -> argparse.Namespace:
    made = parser("qge_images", __doc__)
    made.add_argument("--photos", type=int, default=60, help="explanations of each photo")
    made.add_argument("--every", type=int, default=7, help="only every so many-th level")
    return options(made)


def main() -> None:
    chosen = _options()
    with torch.random.fork_rng(devices=[]):
        problem = demo.prepare(0)
    problem.model.requires_grad_(False)
    inputs, explanations = (2, 20) if chosen.quick else (MNIST_INPUTS, MNIST_EXPLANATIONS)
    rows = [digits_by_mlp(problem, inputs, explanations)]
    rows.append(digits_by_cnn(problem, min(inputs, 5), explanations))
    rows.append(photos(4 if chosen.quick else chosen.photos, chosen.every))
    text = (
        "Gain of QGE over the comparison with one random explanation, mean ± standard deviation "
        "over inputs; the paper's are of 10,000 random explanations, five networks on ImageNet "
        "and 25 inputs each.\n\n" + _table(rows)
    )
    Page("qge_images", ("mlxtend", "scikit-image"), quick=chosen.quick).text(text)


if __name__ == "__main__":
    main()
