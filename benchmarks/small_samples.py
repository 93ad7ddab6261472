"""How often intervals cover, and equal explainers are told apart, for few samples.

Run ``python -m benchmarks.small_samples`` in the repository's root.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext.evaluation.statistics import bounds_of, paired_means, tied_pairs

Shape = tuple[int, int]
Draw = Callable[[np.random.Generator, Shape], np.ndarray]

SCORES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda g, shape: g.normal(size=shape), 0.0),
    "exponential": (lambda g, shape: g.exponential(size=shape), 1.0),
    "log-normal": (lambda g, shape: g.lognormal(size=shape), float(np.exp(0.5))),
    "0 or 1, 1 in 20": (lambda g, shape: (g.random(shape) < 0.05).astype(float), 0.05),
    "0 or 1, 1 in 5": (lambda g, shape: (g.random(shape) < 0.2).astype(float), 0.2),
    "0 or 1, 1 in 2": (lambda g, shape: (g.random(shape) < 0.5).astype(float), 0.5),
}
SAMPLES = (5, 8, 10, 20, 50)
EXPLAINERS = (2, 10, 20)


def coverage(draw: Draw, mean: float, n: int, trials: int) -> float:
    """Share of 95 % intervals with the true mean in them."""
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(trials):
        values = draw(generator, (1, n))
        found = paired_means(values, n_resamples=1000, seed=trial, bounds=bounds_of(values))
        covered += bool(found.low[0] <= mean <= found.high[0])
    return covered / trials


def told_apart(draw: Draw, k: int, n: int, trials: int) -> float:
    """Share of runs in which any two of k explainers that score alike are told apart."""
    generator = np.random.default_rng(1)
    wrong = 0
    for trial in range(trials):
        values = draw(generator, (k, n))
        wrong += not tied_pairs(values, 0.95, 1000, np.random.default_rng(trial)).all()
    return wrong / trials


def unlike_spreads(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw skewed scores of equal means whose spreads differ up to fifteen times."""
    spread = np.linspace(0.2, 3, shape[0])[:, None]
    return spread * (generator.exponential(size=shape) - 1)


def main() -> None:
    chosen = options(parser("small_samples", __doc__))
    trials = 50 if chosen.quick else 2000
    page = Page("small_samples", (), quick=chosen.quick)
    page.add(
        "95 % intervals that cover the true mean",
        f"{trials:,} data sets each, so ± {2 * (0.05 * 0.95 / trials) ** 0.5:.2f}.",
        markdown_table(
            ["scores", *(f"{n} samples" for n in SAMPLES)],
            [
                [name, *(f"{coverage(draw, mean, n, trials):.3f}" for n in SAMPLES)]
                for name, (draw, mean) in SCORES.items()
            ],
        ),
    )
    drawn = {name: draw for name, (draw, _) in SCORES.items()}
    drawn["exponential, spreads 1 to 15"] = unlike_spreads
    page.add(
        "Runs in which explainers with equal means are told apart",
        "At most .05 is promised where differences are symmetric.",
        markdown_table(
            ["scores", *(f"{k} explainers, {n} samples" for k in EXPLAINERS for n in (6, 10, 40))],
            [
                [
                    name,
                    *(
                        f"{told_apart(draw, k, n, trials):.3f}"
                        for k in EXPLAINERS
                        for n in (6, 10, 40)
                    ),
                ]
                for name, draw in drawn.items()
            ],
        ),
    )


if __name__ == "__main__":
    main()
