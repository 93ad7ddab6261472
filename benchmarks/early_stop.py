"""A ranking of explainers from as many samples and draws as it needs, beside the full run.

MNIST, 1,000 digits that the network has not seen, five explainers: the draws of the papers on all
digits, once, against ``evaluate(until="ranked")`` with automatic draws, with 20 seeds. Evaluations
are rows that a score rests on; the time of both is taken in one process.

Run ``python -m benchmarks.early_stop`` in the repository's root. ``--quick`` takes 64 digits and
writes nothing.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient
from quantus.helpers.model.models import LeNet
from torch import nn

from benchmarks.fidelity_common import (
    accuracy,
    integrated_gradients,
    saliency,
    smoothgrad_squared,
    train,
)
from benchmarks.fidelity_digits import Digits, digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import (
    Deletion,
    Evaluation,
    FFidelity,
    FineTuner,
    Infidelity,
    RFidelity,
    evaluate,
)

SEEDS = 20
SMALLEST = {"R-Fidelity": 0.02, "F-Fidelity": 0.02, "Deletion": 0.02}
"""Differences that do not matter, of scores between -1 and 1."""

CARRY_INPUT = {
    "Saliency": False,
    "SmoothGrad-squared": False,
    "Input×Gradient": True,
    "Integrated Gradients": True,
    "random": True,
}


def network(data: Digits, epochs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = LeNet()
    return train(model, data.x_train, data.y_train, epochs=epochs)


def explained(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    """Return five maps of each sample."""
    signed = InputXGradient(model).attribute(x.clone().requires_grad_(), target=y)
    keys = torch.rand(len(x), x[0].numel(), generator=torch.Generator().manual_seed(0))
    maps = (
        saliency(model, x, y),
        smoothgrad_squared(model, x, y),
        signed,
        integrated_gradients(model, x, y),
        signed.flatten(1).gather(1, keys.argsort(1)).view_as(x),
    )
    return {
        name: values.detach().float().numpy()
        for name, values in zip(CARRY_INPUT, maps, strict=True)
    }


def metrics(tuner: Any, draws: int | str, perturbations: int | str) -> dict[str, Any]:
    return {
        "Infidelity": Infidelity(n_perturb_samples=perturbations, perturb_baseline=0.0),
        "R-Fidelity": RFidelity(n_samples=draws, score="gap"),
        "F-Fidelity": FFidelity(n_samples=draws, score="gap", fine_tune=tuner),
        "Deletion": Deletion(),
    }


def timed(**arguments: Any) -> tuple[Evaluation, float]:
    start = time.perf_counter()
    found = evaluate(cases=0, multiply_by_inputs=CARRY_INPUT, **arguments)
    return found, time.perf_counter() - start


def pairs(evaluation: Evaluation, metric: str) -> dict[tuple[str, str], bool]:
    """Return the pairs that are told apart, the better explainer first."""
    rows = evaluation.ranking().of(metric)
    return {
        (better.explainer, worse.explainer): True
        for better in rows
        for worse in rows
        if better.rank is not None
        and worse.rank is not None
        and better.rank < worse.rank
        and worse.explainer not in (*better.ties, *better.close)
    }


def main() -> None:
    made = parser("early_stop", __doc__)
    made.add_argument("--only", nargs="*", help="these metrics, by default all four")
    chosen = options(made)
    page = Page("early_stop", ("captum", "mlxtend"), quick=chosen.quick)
    warnings.simplefilter("ignore")
    n, seeds = (64, 2) if chosen.quick else (1000, SEEDS)
    data = digits()
    model = network(data, epochs=2 if chosen.quick else 10)
    tuner = data.tuner(epochs=1 if chosen.quick else 10)
    x, y = data.x_test[:n], data.y_test[:n]
    read = f"LeNet, {accuracy(model, data.x_test, data.y_test):.1%} of the digits read rightly"
    draws = 4 if chosen.quick else 50
    compare(page, f"{read}; {n:,} digits", model, x, y, tuner, draws, seeds, chosen.only)


def compare(
    page: Page,
    title: str,
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    tuner: FineTuner,
    draws: int,
    seeds: int,
    only: Sequence[str] | None = None,
) -> None:
    """Score five explainers with so many draws, and until they are ranked, and write both down."""
    given = {
        "model": model,
        "x_batch": x.numpy(),
        "y_batch": y.numpy(),
        "xai_methods": explained(model, x, y),
    }
    # Trained once for both, and no part of their times.
    evaluate({"F": metrics(tuner, 2, 2)["F-Fidelity"]}, **{**given, **first_rows(given, 4)})

    def some(draws: int | str, perturbations: int | str) -> dict[str, Any]:
        made = metrics(tuner, draws, perturbations)
        return {name: made[name] for name in only or made}

    full, seconds = timed(metrics=some(draws, 4 * draws), **given)
    smallest = {name: SMALLEST[name] for name in full.metrics if name in SMALLEST}
    early = [
        timed(
            metrics=some("auto", "auto"),
            until="ranked",
            smallest_difference=smallest or None,
            seed=seed,
            **given,
        )
        for seed in range(seeds)
    ]
    page.text(
        f"{title}, {len(CARRY_INPUT)} explainers, {seeds} seeds. Two explainers count as "
        f"close where they differ by less than {SMALLEST['Deletion']} by R-Fidelity, F-Fidelity "
        "or Deletion. Medians over seeds, and the least and the most.\n\n"
        f"{costs(full, seconds, early)}\n\n{orders(full, early)}\n\n{samples(early)}"
    )


def first_rows(given: dict[str, Any], n: int) -> dict[str, Any]:
    return {
        "x_batch": given["x_batch"][:n],
        "y_batch": given["y_batch"][:n],
        "xai_methods": {name: maps[:n] for name, maps in given["xai_methods"].items()},
    }


def spread(values: list[float], shown: str = ",.0f") -> str:
    middle = statistics.median(values)
    return f"{middle:{shown}} ({min(values):{shown}}–{max(values):{shown}})"


def costs(full: Evaluation, seconds: float, early: list[tuple[Evaluation, float]]) -> str:
    rows = []
    for column, metric in enumerate(full.metrics):
        all_of_it = int(full.n_evaluations[:, column].sum())
        some = [float(each.n_evaluations[:, column].sum()) for each, _ in early]
        fewer = [all_of_it / value for value in some]
        rows.append([metric, f"{all_of_it:,}", spread(some), spread(fewer, ".1f")])
    sent = [float(each.n_rows) for each, _ in early]
    rows.append(
        [
            "rows sent",
            f"{full.n_rows:,}",
            spread(sent),
            spread([full.n_rows / value for value in sent], ".1f"),
        ]
    )
    times = [took for _, took in early]
    rows.append(
        [
            "time, s",
            f"{seconds:,.0f}",
            spread(times),
            spread([seconds / took for took in times], ".1f"),
        ]
    )
    return markdown_table(["evaluations", "full run", "until ranked", "times as many"], rows)


def orders(full: Evaluation, early: list[tuple[Evaluation, float]]) -> str:
    rows = []
    possible = math.comb(len(full.explainers), 2)
    for metric in full.metrics:
        known = pairs(full, metric)
        found = [pairs(each, metric) for each, _ in early]
        wrong = sum((worse, better) in known for each in found for better, worse in each)
        same = [float(sum(pair in each for pair in known)) for each in found]
        close = [
            float(sum(len(row.close) for row in each.ranking().of(metric)) / 2) for each, _ in early
        ]
        rows.append(
            [metric, f"{len(known)} of {possible}", spread(same), spread(close), str(wrong)]
        )
    return markdown_table(
        ["pairs", "told apart in full", "of these, early", "close", "the other way round"], rows
    )


def samples(early: list[tuple[Evaluation, float]]) -> str:
    first = early[0][0]
    rows = []
    for place, explainer in enumerate(first.explainers):
        counts = []
        for column in range(len(first.metrics)):
            each = [
                float(found.stopping.counts[place, column])
                for found, _ in early
                if found.stopping is not None
            ]
            counts.append(spread(each))
        rows.append([explainer, *counts])
    chosen = [
        f"{metric}: {spread([float(found.settings['draws'][metric]['n']) for found, _ in early])}"
        for metric in first.metrics
        if metric in first.settings["draws"]
    ]
    return (
        f"Samples scored:\n\n{markdown_table(['', *first.metrics], rows)}\n\n"
        f"Draws that the pilot called for: {'; '.join(chosen)}."
    )


if __name__ == "__main__":
    main()
