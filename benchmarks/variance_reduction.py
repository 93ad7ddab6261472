"""Whether fewer draws could do: antithetic, common and spread-out draws, and a control variate.

Each is measured by the variance that it leaves of a score's draws, as a share of that of
independent draws, averaged over samples (1: no gain). Beside it stands what that saves a *ranking*:
the share that is left of the variance of a mean over samples with 2 draws each, in which samples
differ as well.

- *Antithetic*: of a pair of draws, the second removes the elements that come last in the order of
  which the first removes those that come first: disjoint parts, where they fit.
- *Control variate*: the sum of the attributions of what a draw removes, whose mean is known, times
  the best coefficient of each sample in hindsight: more than could be gained.
- *Common*: one seed for two explainers, as metrics have it, for the variance of the difference.
- *Spread out* (Infidelity): one window from each of as many equal parts of the list of windows as
  there are draws, beside the windows that metrics draw, which are random and without repetition.

Run ``python -m benchmarks.variance_reduction`` in the repository's root; ``--quick`` takes a minute
and writes nothing.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.auto_draws import PROBLEMS, Problem
from benchmarks.early_stop import explained
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import RFidelity
from quantus_ext.functional.fidelity_sizes import removal_counts

NAMES = ("LeNet, digits", "convolutions, GunPoint", "perceptron, breast cancer")
SPARSITY = tuple(step / 20 for step in range(1, 20))
EXPLAINERS = ("Integrated Gradients", "Input×Gradient", "SmoothGrad-squared")
ALPHA = (0.5, 0.5)
PATCH = 4


def outputs(model: nn.Module, x: Tensor, gone: Tensor, y: int) -> Tensor:
    """Return whether one sample without some of its values is y, and its probability, (2, d)."""
    rows = x.masked_fill(gone.view(-1, *x.shape), 0).split(1024)
    with torch.no_grad():
        found = torch.cat([model(part) for part in rows]).double()
    return torch.stack([(found.argmax(1) == y).double(), found.softmax(1)[:, y]])


def pairs_of_draws(
    model: nn.Module, x: Tensor, y: int, a: Tensor, n_pairs: int
) -> tuple[Tensor, Tensor]:
    """Return antithetic draws of R-Fidelity's gap, by labels and by probabilities, (2, 2, pairs).

    And what attributions say of each, less its mean, (2, pairs).
    """
    ranked = a.flatten()
    place = ranked.argsort(descending=True).argsort()
    generator = torch.Generator().manual_seed(0)
    gap, said = (torch.zeros(*shape, 2, n_pairs).double() for shape in ((2,), ()))
    every = [removal_counts(len(ranked), share, ALPHA, 1.0) for share in SPARSITY]
    sizes = {counts.size: counts for counts in every if counts.size}
    for counts in sizes.values():
        order = torch.rand(n_pairs, len(ranked), generator=generator)
        explanation = place < counts.size
        for members, count, sign in (
            (explanation, counts.plus, -1),
            (~explanation, counts.minus, 1),
        ):
            mean = ranked[members].mean() * count
            for half, farthest in enumerate((torch.inf, -torch.inf)):
                keys = order.masked_fill(~members, farthest)
                chosen = keys.topk(count, dim=1, largest=bool(half)).indices
                gone = torch.zeros_like(order, dtype=torch.bool).scatter_(1, chosen, True)
                gap[:, half] += sign * outputs(model, x, gone, y) / len(sizes)
                said[half] -= sign * (ranked[chosen].sum(1) - mean).double() / len(sizes)
    return gap, said


def of_fidelity(problem: Problem, a: Tensor, n_pairs: int) -> list[list[str]]:
    """Return rows for labels and for probabilities: what is left of the variance."""
    every = [
        pairs_of_draws(problem.model, x, int(y), own, n_pairs)
        for x, y, own in zip(problem.x, problem.y, a, strict=True)
    ]
    rows = []
    for place, output in enumerate(("label", "probability")):
        draws = torch.stack([gap[place] for gap, _ in every])
        within = draws.flatten(1).var(1)
        paired = 2 * draws.mean(1).var(1)
        left = []
        for own, (_, said) in zip(draws.flatten(1), every, strict=True):
            control = said.flatten()
            slope = (own - own.mean()) @ control / (control @ control).clamp(min=1e-30)
            left.append((own - slope * control).var())
        between = (draws.flatten(1).mean(1).var() - within.mean() / draws[0].numel()).clamp(min=0)
        rows.append(
            [
                output,
                *shares(float(between), float(within.mean()), float(paired.mean())),
                *shares(float(between), float(within.mean()), float(torch.stack(left).mean())),
            ]
        )
    return rows


def shares(between: float, within: float, left: float) -> list[str]:
    """Return what is left of the variance of draws, and of a mean over samples with 2 draws."""
    ranking = (between + left / 2) / (between + within / 2) if between + within else 1.0
    return [f"{left / within if within else 1:.2f}", f"{ranking:.3f}"]


def of_common_seeds(problem: Problem, maps: list[np.ndarray], n_seeds: int) -> list[list[str]]:
    """Return what is left of the variance of differences by one seed for all explainers."""
    x, y = problem.x.numpy(), problem.y.numpy()
    every = []
    for seed in range(n_seeds):
        metric = RFidelity(n_samples=2, score="gap", seed=seed, disable_warnings=True)
        every.append(metric.score_maps(problem.model, x, y, maps).scores)
    scores = np.stack(every)
    within = scores.var(0, ddof=1).mean(1)
    rows = []
    for i, j in itertools.combinations(range(len(maps)), 2):
        difference = scores[:, i] - scores[:, j]
        noise = difference.var(0, ddof=1).mean()
        between = max(difference.mean(0).var(ddof=1) - noise / n_seeds, 0)
        pair = f"{EXPLAINERS[i]} − {EXPLAINERS[j]}"
        rows.append([pair, *shares(between, 2 * (within[i] + within[j]), 2 * noise)])
    return rows


def of_windows(problem: Problem, maps: list[np.ndarray], n_draws: int) -> list[list[str]]:
    """Return what spreading windows out leaves of the variance of Infidelity."""
    rows = []
    for name, maps_of in zip(EXPLAINERS, maps, strict=False):
        left, within, means = [], [], []
        for x, y, a in zip(problem.x, problem.y, torch.from_numpy(maps_of), strict=True):
            losses = window_losses(problem.model, x, int(y), a)
            n = len(losses)
            if n <= n_draws:
                return []
            within.append(losses.var() / n_draws * (1 - n_draws / n))
            # Parts differ by a window in size, and count by it.
            parts = [losses[part] for part in np.array_split(np.arange(n), n_draws)]
            left.append(sum((len(p) / n) ** 2 * p.var(correction=0) for p in parts))
            means.append(losses.mean())
        noise, spread = float(torch.stack(within).mean()), float(torch.stack(left).mean())
        between = float(torch.stack(means).var())
        rows.append([name, *shares(between, 2 * noise, 2 * spread)])
    return rows


def window_losses(model: nn.Module, x: Tensor, y: int, a: Tensor) -> Tensor:
    """Return (I·a − (f(x) − f(x without I)))² of every window, by logits, row by row of windows."""
    starts = itertools.product(*(range(side - PATCH + 1) for side in x.shape[1:]))
    masks = torch.stack([_window(x, start) for start in starts])
    with torch.no_grad():
        clean = model(x[None])[0, y]
        rows = x.masked_fill(masks, 0).split(1024)
        drops = clean - torch.cat([model(part)[:, y] for part in rows])
    said = (masks * a).flatten(1).sum(1)
    return (said - drops).double() ** 2


def _window(x: Tensor, start: tuple[int, ...]) -> Tensor:
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[(..., *(slice(first, first + PATCH) for first in start))] = True
    return mask


def main() -> None:
    quick = options(parser("variance_reduction", __doc__)).quick
    n, n_pairs, n_seeds = (8, 8, 3) if quick else (100, 50, 30)
    page = Page("variance_reduction", ("aeon", "captum", "mlxtend", "scikit-learn"), quick=quick)
    warnings.simplefilter("ignore")
    for name in NAMES:
        problem = PROBLEMS[name](quick)
        problem = problem._replace(x=problem.x[:n], y=problem.y[:n])
        found = explained(problem.model, problem.x, problem.y)
        maps = [found[explainer] for explainer in EXPLAINERS]
        fidelity = [
            [explainer, *row]
            for explainer, a in zip(EXPLAINERS, maps, strict=True)
            for row in of_fidelity(problem, torch.from_numpy(a), n_pairs)
        ]
        page.add(
            name,
            f"{len(problem.x)} samples. R-Fidelity, {2 * n_pairs} draws a size:",
            markdown_table(
                [
                    *("", "output", "antithetic: draws", "ranking"),
                    *("control variate: draws", "ranking"),
                ],
                fidelity,
            ),
            f"R-Fidelity, common draws, {n_seeds} seeds of 2 draws:",
            markdown_table(
                ["difference", "common: draws", "ranking"],
                of_common_seeds(problem, maps, n_seeds),
            ),
        )
        windows = of_windows(problem, maps[:2], 200) if problem.x.ndim == 4 else []
        if windows:
            page.text(
                "Infidelity, 200 of all windows of 4 × 4:\n\n"
                + markdown_table(["", "spread out: draws", "ranking"], windows)
            )


if __name__ == "__main__":
    main()
