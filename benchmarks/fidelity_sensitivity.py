"""What F-Fidelity's parts and numbers do, on SmoothGrad-squared maps of MNIST digits.

The ablation (D.7 of Zheng et al., ICLR 2025), the number of draws, α and β (D.9), accuracy and
agreement of networks tuned with different β (D.3, Fig. 1), GradCAM against Saliency (D.10), and
maps before and after tuning (D.4). Run ``python -m benchmarks.fidelity_sensitivity`` in the
repository's root; ``--quick`` takes a minute and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from benchmarks.fidelity_common import (
    Curves,
    Scored,
    agreement,
    agreement_table,
    areas_table,
    curves,
    levels_of,
    per_position,
    saliency,
)
from benchmarks.fidelity_digits import EXPLAINERS, Digits, digits, trained_convolutions
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import FFidelity, Fidelity, FineTuner
from quantus_ext.protocols import degrade, mask_robustness
from quantus_ext.protocols.rank_agreement import PAIRS

ALPHAS = (0.2, 0.35, 0.5, 0.65, 0.8)
BETAS = (0.05, 0.1, 0.15, 0.2)
TUNED_BETAS = (0.05, 0.1, 0.2, 0.3, 0.5)
MASKED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def ablation(page: Page, scored: Scored, levels: list[Tensor], tuner: FineTuner, n: int) -> None:
    """Compare Fidelity, Fidelity of the tuned network, and F-Fidelity."""
    tuned = Scored(tuner.fine_tune(scored.model), scored.x, scored.y)
    results = {
        "Fidelity": curves(Fidelity(), scored, levels),
        "Fidelity, tuned": curves(Fidelity(), tuned, levels),
        "F-Fidelity": curves(FFidelity(fine_tune=tuner, n_samples=n), scored, levels),
    }
    page.add("Ablation (D.7)", agreement_table(results), areas_table(results))


def short_table(results: Mapping[str, Curves]) -> str:
    """Return one line a setting: macro and micro correlations, undefined ones counted."""
    found = agreement(results)
    rows = []
    for i, name in enumerate(found.names):
        macro = [f"{value:.2f}" for value in found.macro[i]]
        micro = [
            f"{mean:.2f}" + (f" ({count} undefined)" if count else "")
            for mean, count in zip(found.micro[i], found.undefined[i], strict=True)
        ]
        rows.append([name, *macro, *micro])
    header = [f"{kind}, {pair}" for kind in ("macro", "micro") for pair in PAIRS]
    return markdown_table(["", *header], rows)


def settings(
    page: Page, scored: Scored, levels: list[Tensor], tuner: FineTuner, draws: list[int]
) -> None:
    """Vary one number at a time around N = 5, α = 0.5, β = 0.1."""

    def score(n_samples: int = 5, alpha: float = 0.5, beta: float = 0.1) -> Curves:
        metric = FFidelity(fine_tune=tuner, n_samples=n_samples, alpha=alpha, beta=beta)
        return curves(metric, scored, levels)

    page.add(
        "Draws, α and β (D.9)",
        f"{len(scored.x)} digits; N = 5, α = 0.5, β = 0.1 unless stated otherwise. A network was "
        "fine-tuned for every β.",
        short_table({f"N = {n}": score(n_samples=n) for n in draws}),
        short_table({f"α = {alpha}": score(alpha=alpha) for alpha in ALPHAS}),
        short_table({f"β = {beta}": score(beta=beta) for beta in BETAS}),
    )


def boundaries(page: Page, model: nn.Module, data: Digits, tuner: FineTuner) -> None:
    """Measure networks tuned with different β under masks up to a half."""
    accuracies, agreements = [], []
    for beta in (0.0, *TUNED_BETAS):
        tuned = tuner.fine_tune(model, beta=beta) if beta else model
        found = mask_robustness(model, data.x_test, data.y_test, MASKED, tuned=tuned)
        name = f"tuned with β = {beta}" if beta else "original"
        accuracies.append([name, *(f"{value:.3f}" for value in found.accuracy[1])])
        agreements.append([name, *(f"{value:.3f}" for value in found.agreement[1])])
    masked = [f"{share:.0%}" for share in MASKED]
    page.add(
        "Accuracy and agreement with the original, by β (D.3, Fig. 1)",
        f"{len(data.x_test):,} held-out digits; agreement is with the original's predictions for "
        "complete inputs.",
        markdown_table(["accuracy, masked", *masked], accuracies),
        markdown_table(["agreement, masked", *masked], agreements),
    )


def explainers(page: Page, scored: Scored, tuner: FineTuner, n_samples: int) -> None:
    """Score undegraded explainers and a random control."""
    maps = {
        name: explain(scored.model, scored.x, scored.y)
        for name, explain in {**EXPLAINERS, "Saliency": saliency}.items()
    }
    maps["random control"] = degrade(maps["Saliency"], 1.0)
    rows = []
    for name, a in maps.items():
        metric = FFidelity(fine_tune=tuner, n_samples=n_samples)
        metric(scored.model, scored.x, scored.y, a, batch_size=len(scored.x))
        cells = [
            f"{values.mean():.4f} ± {values.std(ddof=1) / len(values) ** 0.5:.4f}"
            for values in (metric.details["plus"], metric.details["minus"])
        ]
        rows.append([name, *cells])
    page.add(
        "GradCAM against Saliency (D.10)",
        f"F-Fidelity of {len(scored.x)} digits, N = {n_samples}, mean over sparsities ± standard "
        "error over digits.",
        markdown_table(["", "FFid⁺ (higher is better)", "FFid⁻ (lower is better)"], rows),
    )


def preservation(page: Page, scored: Scored, tuner: FineTuner, data: Digits) -> None:
    """Compare maps of the original with those of the tuned and of an independent network."""
    torch_model = trained_convolutions(data, epochs=13)
    others = {
        "tuned": tuner.fine_tune(scored.model),
        "trained anew, an epoch longer": torch_model,
    }
    rows = []
    for name, explain in EXPLAINERS.items():
        before = per_position(explain(scored.model, scored.x, scored.y))
        for other, model in others.items():
            after = per_position(explain(model, scored.x, scored.y))
            rows.append([f"{name}, {other}", *_likeness(before, after)])
        shuffled = degrade(before, 1.0)
        rows.append([f"{name}, shuffled", *_likeness(before, shuffled)])
    page.add(
        "Maps before and after tuning (D.4)",
        f"Of {len(scored.x)} digits, mean over digits of the rank correlation of two maps' values "
        "and of the share of the top tenth that they have in common (by chance 0.10).",
        markdown_table(["original against", "rank correlation", "common top tenth"], rows),
    )


def _likeness(before: Tensor, after: Tensor) -> list[str]:
    first, second = (rankdata(a.flatten(1).numpy(), axis=1) for a in (before, after))
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    size = first.shape[1] // 10
    tops = [np.argsort(ranks, axis=1)[:, -size:] for ranks in (first, second)]
    common = [
        len(set(a) & set(b)) / size for a, b in zip(*map(np.ndarray.tolist, tops), strict=True)
    ]
    # A map of one value everywhere, which GradCAM can give, has no ranks.
    defined = np.isfinite(correlation)
    missing = f" ({(~defined).sum()} undefined)" if not defined.all() else ""
    return [f"{np.mean(np.array(correlation)[defined]):.2f}{missing}", f"{np.mean(common):.2f}"]


def main() -> None:
    quick = options(parser("fidelity_sensitivity", __doc__)).quick
    n, n_samples, draws, epochs = (20, 1, [1, 2], 2) if quick else (100, 10, [1, 5, 25], 15)
    page = Page("fidelity_sensitivity", ("mlxtend", "scipy"), quick=quick)
    data = digits()
    model, tuner = trained_convolutions(data), data.tuner(epochs)
    scored = data.scored(model, n)
    explain = EXPLAINERS["SmoothGrad-squared"]
    levels = levels_of(model, scored.x, explain(model, scored.x, scored.y))
    boundaries(page, model, data, tuner)
    preservation(page, scored, tuner, data)
    explainers(page, scored, tuner, n_samples)
    ablation(page, scored, levels, tuner, n_samples)
    settings(page, scored, levels, tuner, draws)


if __name__ == "__main__":
    with torch.random.fork_rng(devices=[]):
        main()
