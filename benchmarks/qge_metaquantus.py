"""Does QGE make a metric more reliable in MetaQuantus's sense (table 5 of the paper)?

Run ``python -m benchmarks.qge_metaquantus`` in the repository's root.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
import quantus
import torch
from metaquantus import InputPerturbationTest, MetaEvaluation, ModelPerturbationTest
from quantus.functions.normalise_func import normalise_by_average_second_moment_estimate
from quantus.metrics.base import Metric

from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import QGE, demo
from quantus_ext.metaquantus import score_direction

PAPER = {
    "Pixel-Flipping": ("0.579", "0.801"),
    "Relevance Rank Accuracy": ("0.599", "0.598"),
    "Relevance Mass Accuracy": ("0.585", "0.587"),
}
EXPLAINERS: dict[str, dict[str, Any]] = {"Gradient": {}, "Saliency": {}, "IntegratedGradients": {}}


class Size(NamedTuple):
    """How much is evaluated; MetaQuantus's own defaults are 5 and 10."""

    inputs: int
    iterations: int
    perturbations: int


def metrics() -> dict[str, Metric[Any]]:
    """Return the metrics with the settings that MetaQuantus's benchmark of MNIST has."""
    common = {
        "abs": False,
        "normalise": True,
        "normalise_func": normalise_by_average_second_moment_estimate,
        "disable_warnings": True,
    }
    return {
        "Pixel-Flipping": quantus.PixelFlipping(
            features_in_step=56,
            # "uniform" there: one random value a sample and step, which is noise of its own.
            perturb_baseline=0.0,
            return_auc_per_sample=True,
            **common,
        ),
        "Relevance Rank Accuracy": quantus.RelevanceRankAccuracy(**common),
        "Relevance Mass Accuracy": quantus.RelevanceMassAccuracy(**common),
    }


def suite() -> dict[str, Any]:
    model = {"noise_type": "multiplicative", "mean": 1.0}
    return {
        "Model Resilience Test": ModelPerturbationTest(type="Resilience", std=0.001, **model),
        "Model Adversary Test": ModelPerturbationTest(type="Adversary", std=2.0, **model),
        "Input Resilience Test": InputPerturbationTest(type="Resilience", noise=0.001),
        "Input Adversary Test": InputPerturbationTest(type="Adversary", noise=5.0),
    }


class Consistency(NamedTuple):
    """Meta-consistency of one metric under one kind of perturbation, and what it is made of."""

    mean: float
    spread: float
    parts: dict[str, float]
    misread: float


def evaluate(metric: Metric[Any], problem: demo.Problem, size: Size) -> dict[str, Consistency]:
    x = problem.x_test[: size.inputs].numpy()
    y = problem.y_test[: size.inputs].numpy()
    ink = x > 0
    np.random.seed(0)  # noqa: NPY002 - MetaQuantus draws from it
    torch.manual_seed(0)
    evaluation = MetaEvaluation(
        test_suite=suite(),
        xai_methods=EXPLAINERS,
        iterations=size.iterations,
        nr_perturbations=size.perturbations,
        write_to_file=False,
    )
    right = score_direction(metric)
    wrong = score_direction("lower" if right == "higher" else "higher")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation(
            estimator=metric,
            model=problem.model,
            x_batch=x,
            y_batch=y,
            s_batch=ink,
            softmax=True,
            device="cpu",
            score_direction=right,
        )
        # A copy, for the next analysis writes into the same dictionary.
        results = copy.deepcopy(evaluation.results_meta_consistency_scores)
        # The evaluations stay; only the adversary's ranking is read the other way round.
        evaluation.run_inter_analysis(score_direction=wrong)
        results_misread = dict(evaluation.run_meta_consistency_analysis())
    return {
        kind: Consistency(
            float(found["MC_mean"]),
            float(found["MC_std"]),
            {part: float(np.nanmean(v)) for part, v in found["consistency_scores"].items()},
            float(results_misread[kind]["MC_mean"]),
        )
        for kind, found in results.items()
    }


def table(size: Size) -> str:
    with torch.random.fork_rng(devices=[]):
        problem = demo.prepare(0)
    rows = []
    for name, metric in metrics().items():
        for label, estimator, paper in zip(
            ("alone", "in QGE"), (metric, QGE(metric)), PAPER[name], strict=True
        ):
            print(f"{name}, {label} …", file=sys.stderr, flush=True)
            found = evaluate(estimator, problem, size)
            both = np.mean([kind.mean for kind in found.values()])
            misread = np.mean([kind.misread for kind in found.values()])
            cells = [
                f"{kind.mean:.3f} ± {kind.spread:.3f} ("
                + ", ".join(f"{value:.2f}" for value in kind.parts.values())
                + ")"
                for kind in (found["Input"], found["Model"])
            ]
            rows.append([f"{name}, {label}", f"{both:.3f}", *cells, f"{misread:.3f}", paper])
    header = ["", "MC", "input perturbed", "model perturbed", "MC, direction misread", "paper: MC"]
    return markdown_table(header, rows)


def main() -> None:
    chosen = options(parser("qge_metaquantus", __doc__))
    warnings.simplefilter("ignore")
    # MetaQuantus collects garbage at every step, and need not go through what is loaded by now.
    gc.freeze()
    size = Size(12, 1, 2) if chosen.quick else Size(100, 3, 5)
    text = (
        f"The demonstration's network, {size.inputs} MNIST digits, {', '.join(EXPLAINERS)}, "
        f"{size.iterations} iterations of {size.perturbations} perturbations. In parentheses "
        "IAC of noise, IAC of adversaries, IEC of noise, IEC of adversaries. MC is the mean "
        "over both kinds of perturbation; the paper does not say which its figures are, and they "
        'are of LeNet on fMNIST. "Direction misread" is the same with higher and lower taken for '
        f'each other, as MetaQuantus 0.0.5 takes "higher".\n\n{table(size)}'
    )
    Page("qge_metaquantus", ("metaquantus", "captum", "mlxtend"), quick=chosen.quick).text(text)


if __name__ == "__main__":
    main()
