"""How often a run that ends when its ranking is known says something wrong.

Scores of five explainers by four metrics on 1,000 samples in random order, without a model. Samples
differ more than explainers do, as with MNIST. A verdict that is reached stays, so that looking once
at the end is looking after every sample. Beside it an ordinary t interval at every 32 samples, with
the same correction for the number of pairs.

Run ``python -m benchmarks.stopping_errors`` in the repository's root. ``--quick`` makes 20 runs and
writes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext.evaluation.stopping import StoppingRule, Verdict

RUNS, N, LOOK = 2000, 1000, 32
CONFIDENCE = 0.95
EXPLAINERS, METRICS = 5, 4
EQUAL = np.zeros(EXPLAINERS)
NEAR = np.array([0.0, 0.0, 0.01, 0.02, 0.1])
Floats = NDArray[np.float64]


def bounded(generator: np.random.Generator, means: Floats) -> Floats:
    """Scores between -1 and 1."""
    hard = generator.normal(scale=0.2, size=(METRICS, 1, N)).clip(-0.6, 0.6)
    own = generator.beta(2, 2, size=(METRICS, EXPLAINERS, N)) * 0.4 - 0.2
    return hard + own + means[:, None]


def alike(generator: np.random.Generator, means: Floats) -> Floats:
    """Scores between 0 and 1 that are equal but for 5 % of the samples; a fifth as far apart."""
    hard = generator.beta(2, 5, size=(METRICS, 1, N)) * 0.4
    rare = generator.random((METRICS, EXPLAINERS, N)) < 0.05
    own = generator.random(rare.shape) * 0.2 + means[:, None] / 5 / 0.05
    return hard + np.where(rare, own, 0.0)


def normal(generator: np.random.Generator, means: Floats) -> Floats:
    """Normal scores."""
    hard = generator.normal(scale=0.2, size=(METRICS, 1, N))
    return hard + generator.normal(scale=0.1, size=(METRICS, EXPLAINERS, N)) + means[:, None]


def tails(generator: np.random.Generator, means: Floats) -> Floats:
    """Scores with the tails of Student's distribution with 3 degrees of freedom."""
    hard = generator.normal(scale=0.2, size=(METRICS, 1, N))
    own = generator.standard_t(3, size=(METRICS, EXPLAINERS, N)) * 0.06
    return hard + own + means[:, None]


def skewed(generator: np.random.Generator, means: Floats) -> Floats:
    """Squared errors: log-normal scores, the more skewed the later the explainer stands."""
    hard = generator.normal(scale=0.5, size=(METRICS, 1, N))
    widths = np.linspace(0.3, 0.9, EXPLAINERS)[:, None]
    own = generator.normal(size=(METRICS, EXPLAINERS, N)) * widths - widths**2 / 2
    return 0.3 * np.exp(hard + own - 0.125) + means[:, None]


Make = Callable[[np.random.Generator, Floats], Floats]
KINDS: dict[str, tuple[Make, tuple[float, float] | None]] = {
    "bounded": (bounded, (-1, 1)),
    "alike on 95 % of samples": (alike, (0, 1)),
    "normal": (normal, None),
    "heavy tails": (tails, None),
    "unequally skewed": (skewed, None),
}


def rule(bounds: tuple[float, float] | None) -> StoppingRule:
    names = [str(metric) for metric in range(METRICS)]
    known = {} if bounds is None else dict.fromkeys(names, bounds)
    apart = {name: high - low for name, (low, high) in known.items()}
    pairs = METRICS * EXPLAINERS * (EXPLAINERS - 1) // 2
    # The last test has its half of the errors for itself; it is not made here.
    return StoppingRule(CONFIDENCE, pairs, {}, known, apart)


def naive(difference: Floats, level: float) -> bool:
    """Whether an ordinary interval excludes 0 at any look."""
    for n in range(LOOK, N + 1, LOOK):
        part = difference[:n]
        spread = part.std(ddof=1)
        if spread and abs(part.mean()) > stats.t.ppf(1 - level / 2, n - 1) * spread / n**0.5:
            return True
    return False


def study(kind: str, means: Floats, runs: int) -> list[str]:
    make, bounds = KINDS[kind]
    decide = rule(bounds)
    generator = np.random.default_rng(0)
    level = (1 - CONFIDENCE) / decide.n_pairs
    wrong = wrong_naively = 0
    found = np.zeros((EXPLAINERS, EXPLAINERS))
    for run in range(runs):
        scores = make(generator, means)
        bad = bad_naively = False
        for metric, i, j in itertools.product(range(METRICS), range(EXPLAINERS), range(EXPLAINERS)):
            if i >= j:
                continue
            verdict = decide.verdict(str(metric), scores[metric, i], scores[metric, j], sign=1)
            true = np.sign(means[i] - means[j])
            bad |= verdict is not Verdict.OPEN and int(verdict) != true
            found[i, j] += int(verdict) == true and true != 0
            if true == 0 and run < runs // 10:
                bad_naively |= naive(scores[metric, i] - scores[metric, j], level)
        wrong += bad
        wrong_naively += bad_naively
    power = [
        f"{found[i, j] / METRICS / runs:.2f}"
        for i, j in ((0, 2), (0, 3), (0, 4))
        if means[i] != means[j]
    ]
    limit = stats.binomtest(wrong, runs).proportion_ci(0.95, method="exact").high
    return [
        kind,
        "all equal" if not means.any() else "near ties",
        f"{wrong / runs:.4f}",
        f"{limit:.4f}",
        f"{wrong_naively / (runs // 10):.2f}",
        ", ".join(power) or "–",
    ]


def main() -> None:
    chosen = options(parser("stopping_errors", __doc__))
    page = Page("stopping_errors", (), quick=chosen.quick)
    runs = 20 if chosen.quick else RUNS
    rows = [study(kind, means, runs) for kind in KINDS for means in (EQUAL, NEAR)]
    page.text(
        f"{runs:,} runs of {EXPLAINERS} explainers × {METRICS} metrics × {N:,} samples; confidence "
        f"{CONFIDENCE:.0%}, of which confidence sequences have half of the errors, 2.5 %. *Wrong*: "
        "share of runs in which any pair was told apart that is equal, or the other way round; "
        "*at most*: the end of its 95 % interval; *naive*: of a tenth of the runs those in which "
        "an ordinary interval, corrected for pairs but not for looks, tells an equal pair apart. "
        "*Found*: pairs told apart rightly whose means differ by .01, .02 and .1, a fifth of that "
        "where scores are alike.\n\n"
        + markdown_table(["scores", "means", "wrong", "at most", "naive", "found"], rows)
    )


if __name__ == "__main__":
    main()
