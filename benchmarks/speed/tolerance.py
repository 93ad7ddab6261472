"""F-Fidelity that stops drawing when it knows enough, against 50 draws everywhere, on MNIST."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity_common import NOISE, Scored, levels_of, smoothgrad_squared
from benchmarks.fidelity_digits import digits, trained_convolutions
from benchmarks.speed.results import Entry, Scale, Section
from benchmarks.timing import counted, markdown_table
from quantus_ext import FFidelity

TOLERANCE, DRAWS, TRUTH = 0.02, 50, 5000


def tolerance(scale: Scale) -> Section:
    """Compare evaluations, rankings and means, and single scores with what many draws give."""
    data = digits()
    n, n_known, truth_draws = (8, 2, 200) if scale.quick else (100, 20, TRUTH)
    model = trained_convolutions(data, epochs=1 if scale.quick else 12)
    tuned = data.tuner(epochs=1 if scale.quick else 10).fine_tune(model)
    scored = data.scored(model, n)
    levels = levels_of(model, scored.x, smoothgrad_squared(model, scored.x, scored.y))

    fixed = FFidelity(fine_tune=tuned, n_samples=DRAWS)
    until_known = FFidelity(fine_tune=tuned, tolerance=TOLERANCE, n_samples=1000)
    truth = FFidelity(fine_tune=tuned, n_samples=truth_draws, seed=1)

    def score(metric: FFidelity, map_: NDArray[np.float64], samples: Scored) -> np.ndarray:
        return np.array(metric(samples.model, samples.x, samples.y, map_))

    rows = {"50 draws": 0, "until known": 0}
    scores, errors = {name: [] for name in rows}, {name: [] for name in rows}
    for level in levels:
        for name, metric in zip(rows, (fixed, until_known), strict=True):
            seen, found = counted(tuned, lambda m=metric, a=level: score(m, a.numpy(), scored))
            # The health report asks the copy too, alike for both.
            rows[name] += metric.n_evaluations
            assert seen >= metric.n_evaluations
            scores[name].append(found)
            errors[name].append(metric.standard_errors)
    means = {name: np.mean(values, 1) for name, values in scores.items()}
    joint = np.sqrt(sum(np.mean(np.square(e), 1) / n for e in errors.values()))
    apart = np.abs(means["50 draws"] - means["until known"]) / joint

    few = Scored(model, scored.x[:n_known], scored.y[:n_known])
    known = score(truth, levels[0][:n_known].numpy(), few)
    distance = np.abs(scores["until known"][0][:n_known] - known)
    within = float(np.mean(distance <= 2 * TOLERANCE))
    table = markdown_table(
        ["noise", *(f"{r:g}" for r in NOISE)],
        [
            *([name, *(f"{value:.4f}" for value in means[name])] for name in rows),
            ["apart, in joint standard errors", *(f"{value:.2f}" for value in apart)],
        ],
    )
    same = all((np.argsort(means["50 draws"]) == np.argsort(means[name])).all() for name in rows)
    return Section(
        "Tolerance",
        f"F-Fidelity's Fid⁺ of SmoothGrad² on {n} MNIST digits at {len(NOISE)} levels of noise, 19 "
        f"sizes: {DRAWS} draws everywhere, or `tolerance={TOLERANCE}`; and {truth_draws:,} draws "
        f"of another seed for {n_known} digits.",
        [
            Entry(
                f"F-Fidelity at tolerance {TOLERANCE}: times fewer evaluations than N = {DRAWS}",
                "",
                rows["50 draws"] / rows["until known"],
                5,
                rows=rows,
            ),
            Entry("… ranks degraded explanations alike (1 = yes)", "", float(same), 1),
            Entry(
                "… largest distance of the data set's means, in joint standard errors",
                "",
                float(apart.max()),
                2,
                at_most=True,
            ),
            Entry(
                f"… share of samples within {2 * TOLERANCE} of a score from {truth_draws:,} draws",
                "",
                within,
                0.95,
                notes={
                    "largest distance": float(distance.max()),
                    "root mean square": float(np.sqrt(np.mean(distance**2))),
                },
            ),
        ],
        [table],
    )
