"""Do known explainers beat a random map on photos, by every removal measure?

Integrated Gradients, GradCAM and Saliency of EfficientNet-Lite0 against random maps, with patches
of 32×32 and with single pixels. Run ``python -m benchmarks.removal_photos`` in the repository's
root.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from benchmarks.fidelity_common import gradcam, per_position, saliency
from benchmarks.fidelity_digits import last_convolution
from benchmarks.page import Page, options, parser
from benchmarks.photos import Photo, imagenet_network, photos_of
from benchmarks.timing import markdown_table
from quantus_ext import functional
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.replacements import blur, replace_by
from quantus_ext.functional.removal_curves import CurveScore

MEASURES: dict[CurveScore, str] = {
    "morf": "higher",
    "lerf": "lower",
    "abpc": "higher",
    "deletion": "lower",
    "insertion": "higher",
}
BASELINES: dict[str, Perturbation] = {"black": replace_by(0.0), "blur": blur(31)}
RANDOM_MAPS = 5


def integrated_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Integrated Gradients from black, 24 steps."""
    return IntegratedGradients(model).attribute(x, target=y, n_steps=24, internal_batch_size=8)


def explainers() -> dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]]:
    return {
        "Integrated Gradients": integrated_gradients,
        "GradCAM": gradcam(last_convolution),
        "Saliency": saliency,
    }


def maps_of(model: nn.Module, photos: list[Photo]) -> dict[str, Tensor]:
    """Return the maps of all photos by explainer, and several random ones."""
    x = torch.stack([photo.x for photo in photos])
    y = torch.tensor([photo.label for photo in photos])
    maps = {}
    for name, explain in explainers().items():
        print(f"{name} …", file=sys.stderr, flush=True)
        maps[name] = per_position(explain(model, x, y)).detach()
    generator = torch.Generator().manual_seed(0)
    for number in range(RANDOM_MAPS):
        maps[f"random {number}"] = torch.rand(len(x), 1, *x.shape[2:], generator=generator)
    return maps


def means(
    model: nn.Module, photos: list[Photo], maps: dict[str, Tensor], **settings: Any
) -> dict[str, list[float]]:
    """Return the five measures, averaged over the photos, by explainer."""
    x = torch.stack([photo.x for photo in photos])
    y = torch.tensor([photo.label for photo in photos])
    forward = Forward.of_module(model, torch.device("cpu"), softmax=True)
    clean = forward.clean(x)
    found: dict[str, list[list[float]]] = {}
    for name, a in maps.items():
        print(f"{name} …", file=sys.stderr, flush=True)
        scores = functional.removal_curves(forward, x, a, y, clean=clean, **settings)
        row = [float(scores[measure].score.mean()) for measure in MEASURES]
        found.setdefault(name.split(" ")[0] if name.startswith("random") else name, []).append(row)
    return {name: np.mean(rows, 0).tolist() for name, rows in found.items()}


def table(results: dict[str, list[float]]) -> str:
    """Return explainers × measures, in bold what beats the random maps."""
    random = results["random"]
    rows = []
    for name, values in results.items():
        cells = []
        for value, chance, direction in zip(values, random, MEASURES.values(), strict=True):
            wins = value > chance if direction == "higher" else value < chance
            cells.append(f"**{value:.3f}**" if wins else f"{value:.3f}")
        rows.append([name, *cells])
    header = ["", *(f"{name} ({better})" for name, better in MEASURES.items())]
    return markdown_table(header, rows)


def main() -> None:
    chosen = options(parser("removal_photos", __doc__))
    model = imagenet_network()
    photos = list(photos_of(model))[: 2 if chosen.quick else None]
    maps = maps_of(model, photos)
    if chosen.quick:
        maps = {name: a for name, a in maps.items() if name in ("GradCAM", "random 0")}
    x = torch.stack([photo.x for photo in photos])
    sections = []
    for baseline, perturbation in BASELINES.items():
        for title, elements, steps in (
            ("patches of 32×32", elements_of(x, "patch", patch_size=32), 49),
            ("pixels", elements_of(x), 20),
        ):
            steps = 4 if chosen.quick else steps
            results = means(
                model,
                photos,
                maps,
                fractions=[step / steps for step in range(steps + 1)],
                elements=elements,
                perturbation=perturbation,
            )
            sections.append(f"## {title}, {baseline}, {steps} steps\n\n{table(results)}")
    text = (
        f"EfficientNet-Lite0 on {len(photos)} photos "
        f"({', '.join(photo.name for photo in photos)}), probability of the right class, means "
        f"over the photos. In bold what beats random maps, of which there are {RANDOM_MAPS}. "
        '"Blur" is the mean over 31×31 pixels.\n\n' + "\n\n".join(sections)
    )
    Page("removal_photos", ("captum", "scikit-image"), quick=chosen.quick).text(text)


if __name__ == "__main__":
    main()
