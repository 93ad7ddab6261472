"""Whether ``"auto"`` keeps its promise: interval widths beside those of 200 draws.

Five problems, four explainers: the standard deviation over samples of each explainer's scores and
of each difference of two, which is what an interval's width is proportional to. One run has as many
draws as a pilot calls for, at most 200, and another, with other draws, has 200. ``"auto"`` promises
at most 5 % more than infinitely many draws. Run ``python -m benchmarks.auto_draws`` in the
repository's root; ``--quick`` takes a minute and writes nothing.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from aeon.datasets import load_basic_motions, load_gunpoint
from torch import Tensor, nn

from benchmarks.early_stop import explained, network
from benchmarks.fidelity_common import accuracy, train
from benchmarks.fidelity_digits import Digits, digits
from benchmarks.fidelity_series_tables import breast_cancer, convolutions, perceptron, series
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import AutoDraws, FFidelity, FineTuner, Infidelity, RFidelity
from quantus_ext.base import TorchMetric

MOST = 200
PROMISED = 1.05


class Problem(NamedTuple):
    model: nn.Module
    tuner: FineTuner
    x: Tensor
    y: Tensor


def of_digits(make: Callable[..., nn.Module], epochs: int) -> Callable[[bool], Problem]:
    def problem(quick: bool) -> Problem:
        data = digits()
        model = make(data, epochs=1 if quick else epochs)
        rows = slice(0, 16 if quick else 100)
        return Problem(model, data.tuner(1 if quick else 5), data.x_test[rows], data.y_test[rows])

    return problem


def of_split(
    load: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]],
    make: Callable[[int, int], nn.Module],
    epochs: int,
) -> Callable[[bool], Problem]:
    def problem(quick: bool) -> Problem:
        x_train, y_train, x, y = load()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = make(x_train.shape[1], int(y_train.max()) + 1)
        train(model, x_train, y_train, epochs=2 if quick else epochs, batch_size=16)
        tuner = FineTuner(
            x_train, y_train, epochs=1 if quick else 20, batch_size=16, display_progressbar=False
        )
        n = 16 if quick else 200
        return Problem(model, tuner, x[:n], y[:n])

    return problem


def trained_perceptron(data: Digits, epochs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), perceptron(784, 10))
    return train(model, data.x_train, data.y_train, epochs=epochs)


PROBLEMS: dict[str, Callable[[bool], Problem]] = {
    "LeNet, digits": of_digits(network, 10),
    "perceptron, digits": of_digits(trained_perceptron, 10),
    "convolutions, GunPoint": of_split(partial(series, load_gunpoint), convolutions, 200),
    "convolutions, BasicMotions": of_split(partial(series, load_basic_motions), convolutions, 60),
    "perceptron, breast cancer": of_split(breast_cancer, perceptron, 60),
}


def metrics(tuner: FineTuner, draws: int | AutoDraws, seed: int) -> dict[str, TorchMetric]:
    common: dict[str, Any] = {"seed": seed, "disable_warnings": True}
    return {
        "R-Fidelity": RFidelity(n_samples=draws, score="gap", **common),
        "F-Fidelity": FFidelity(n_samples=draws, score="gap", fine_tune=tuner, **common),
        "Infidelity": Infidelity(n_perturb_samples=draws, perturb_baseline=0.0, **common),
    }


def spreads(scores: np.ndarray) -> np.ndarray:
    """Return the standard deviations of all means and of all differences."""
    pairs = [a - b for a, b in itertools.combinations(scores, 2)]
    return np.array([values.std(ddof=1) for values in (*scores, *pairs)])


def widths(problem: Problem, most: int) -> list[list[str]]:
    """Return a row for each metric."""
    maps = explained(problem.model, problem.x, problem.y)
    del maps["random"]
    x, y = problem.x.numpy(), problem.y.numpy()
    auto, all_of_them = AutoDraws(at_most=most), metrics(problem.tuner, most, seed=1)
    rows = []
    for name, metric in metrics(problem.tuner, auto, seed=0).items():
        found = metric.score_maps(problem.model, x, y, list(maps.values()))
        assert found.draws is not None
        full = all_of_them[name].score_maps(problem.model, x, y, list(maps.values()))
        narrow, wide = spreads(full.scores), spreads(found.scores)
        # Where all scores are equal, so are the widths.
        ratios = np.divide(wide, narrow, out=np.ones_like(wide), where=narrow > 0)
        fewer = full.n_evaluations.sum() / found.n_evaluations.sum()
        rows.append(
            [
                name,
                str(found.draws.n),
                f"{fewer:.1f}",
                f"{np.median(ratios):.3f}",
                f"{ratios.max():.3f}",
                f"{int((ratios > PROMISED).sum())} of {len(ratios)}",
            ]
        )
    return rows


def main() -> None:
    quick = options(parser("auto_draws", __doc__)).quick
    page = Page("auto_draws", ("aeon", "captum", "mlxtend", "scikit-learn"), quick=quick)
    warnings.simplefilter("ignore")
    for name, make in PROBLEMS.items():
        problem = make(quick)
        right = accuracy(problem.model, problem.x, problem.y)
        table = markdown_table(
            [
                *("", "draws", "times fewer evaluations"),
                *("widths beside 200 draws, median", "largest", "above 1.05"),
            ],
            widths(problem, 20 if quick else MOST),
        )
        page.add(f"{name}: {len(problem.x)} samples, {right:.1%} read rightly", table)


if __name__ == "__main__":
    main()
