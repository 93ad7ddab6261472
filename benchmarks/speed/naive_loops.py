"""F-Fidelity, R-Fidelity and Infidelity against loops as one would write them after the papers."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import models, naive
from benchmarks.models import Case
from benchmarks.speed.results import Entry, Scale, Section
from benchmarks.timing import alternate, counted, ratio
from quantus_ext import FFidelity, Infidelity, RFidelity
from quantus_ext.base import TorchMetric

SPARSITY = (0.1, 0.3, 0.5, 0.7, 0.9)
BETA, DRAWS = 0.1, 50
AGREEMENT = 4.0
"""Largest deviation from a naive loop that passes for chance, in joint standard errors."""
WHOLE = "float32, with its health report"


class Variant(NamedTuple):
    """Arguments of a metric, and how many times as fast as the loop it should be."""

    settings: Mapping[str, Any]
    target: float | None


VARIANTS = {
    "float32": Variant({}, 1.25),
    "bfloat16": Variant({"precision": "bfloat16"}, 2.5),
    "float32, compiled": Variant({"compile": True}, None),
    "bfloat16, compiled": Variant({"precision": "bfloat16", "compile": True}, 5),
}


EAGER = {name: each for name, each in VARIANTS.items() if "compile" not in each.settings}
"""Compiling takes a minute."""


class Evaluation(RFidelity):
    """F-Fidelity's evaluation and no more, where the tuned model is the model itself."""

    beta = BETA


class Scores(NamedTuple):
    """Scores of samples, several a sample or one, with their standard errors."""

    values: NDArray[np.float64]
    errors: NDArray[np.float64]


def naive_loops(scale: Scale) -> Section:
    """Measure F-Fidelity in all precisions on one case, R-Fidelity and Infidelity on the others."""
    if scale.quick:
        entries = [
            *f_fidelity(models.lenet_on_digits(1), scale.repeats, EAGER),
            *_others(models.mlp_on_digits(2), DRAWS, SPARSITY, scale.repeats),
        ]
    else:
        entries = f_fidelity(models.resnet9_on_noise(1), min(scale.repeats, 3), VARIANTS)
        for make, n in (
            (models.lenet_on_digits, 8),
            (models.cnn_on_noise, 4),
            (models.series_cnn_on_noise, 4),
            (models.mlp_on_digits, 16),
            (models.boosted_trees_on_cancer, 16),
        ):
            entries += _others(make(n), DRAWS, SPARSITY, scale.repeats)
        entries += _others(models.resnet18_on_noise(1), DRAWS // 2, (0.5,), min(scale.repeats, 3))
    return Section(
        "Naive loops",
        "`benchmarks/naive.py` takes one image at a time and all draws of a size and sign (for "
        "Infidelity, all draws) in one forward pass, in float32 and the plain layout. Of "
        "F-Fidelity the evaluation is compared, as the loop has it; a call of `FFidelity` adds a "
        "health report, whose rows are the more of a call the fewer the sizes. "
        f"Deviations are the largest between scores, Fid⁺ and Fid⁻ of each sample, in joint "
        f"standard errors of both, {AGREEMENT:g} allowed; shifts are differences from float32 "
        "with the same draws, where answers near a tie may turn by rounding.",
        entries,
    )


def f_fidelity(case: Case, repeats: int, variants: Mapping[str, Variant]) -> list[Entry]:
    """Compare the evaluation of F-Fidelity, in float32 among the variants, with the loop."""
    print(f"naive loops: F-Fidelity of {case.name} …", file=sys.stderr)
    loop = partial(_loop_fidelity, case, SPARSITY, BETA, DRAWS)
    rows, expected = counted(case.model, loop)
    metrics, first = {}, {}
    calls: dict[str, Callable[[], object]] = {"naive": loop}
    for name, variant in variants.items():
        metrics[name] = Evaluation(SPARSITY, n_samples=DRAWS, **variant.settings)
        calls[name] = _scoring(metrics[name], case)
        start = time.perf_counter()
        calls[name]()
        first[name] = time.perf_counter() - start
    # A hook would have a compiled model compiled again, so the rows are those without.
    our_rows, _ = counted(case.model, calls["float32"])
    whole = FFidelity(SPARSITY, fine_tune=case.model, beta=BETA, n_samples=DRAWS)
    calls[WHOLE] = _scoring(whole, case)
    whole_rows, _ = counted(case.model, calls[WHOLE])
    seconds = alternate(calls, repeats)
    plain = _signs(metrics["float32"]).values
    entries = [
        Entry(
            f"`FFidelity`, times as fast as a naive loop, {WHOLE}",
            case.name,
            ratio(seconds["naive"], seconds[WHOLE]),
            seconds={"naive": seconds["naive"], "ours": seconds[WHOLE]},
            rows={"naive": rows, "ours": whole_rows},
            headline=False,
        )
    ]
    for name, variant in variants.items():
        found = _signs(metrics[name])
        shift = np.abs(found.values - plain)
        notes: dict[str, str | float] = {
            "largest shift": float(shift.max()),
            "mean shift": float(shift.mean()),
        }
        if variant.settings.get("compile"):
            notes["compiling, s"] = first[name] - statistics.median(seconds[name])
        entries += [
            Entry(
                f"F-Fidelity, times as fast as a naive loop, {name}",
                case.name,
                ratio(seconds["naive"], seconds[name]),
                variant.target,
                seconds={"naive": seconds["naive"], "ours": seconds[name]},
                rows={"naive": rows, "ours": our_rows},
                notes=notes,
            ),
            _agreement(
                f"F-Fidelity, {name}",
                case,
                found,
                expected,
                # Rounding turns answers too.
                None if "precision" in variant.settings else AGREEMENT,
            ),
        ]
    return entries


def _others(case: Case, draws: int, sparsity: tuple[float, ...], repeats: int) -> list[Entry]:
    print(f"naive loops: {case.name} …", file=sys.stderr)
    infidelity_draws = 2 * draws
    r_fidelity = RFidelity(sparsity, n_samples=draws)
    infidelity = Infidelity(n_perturb_samples=infidelity_draws)
    pairs: dict[str, tuple[Callable[[], Scores], TorchMetric, Callable[[], Scores]]] = {
        "R-Fidelity": (
            partial(_loop_fidelity, case, sparsity, 1.0, draws),
            r_fidelity,
            lambda: _signs(r_fidelity),
        ),
        "Infidelity": (
            partial(_loop_infidelity, case, infidelity_draws),
            infidelity,
            lambda: Scores(infidelity.details["infidelity"], infidelity.standard_errors),
        ),
    }
    entries = []
    for name, (loop, metric, scores) in pairs.items():
        score = _scoring(metric, case)
        their_rows, expected = counted(case.model, loop)
        our_rows, _ = counted(case.model, score)
        found = scores()
        seconds = alternate({"naive": loop, "ours": score}, repeats)
        entries += [
            Entry(
                f"{name}, times as fast as a naive loop, float32",
                case.name,
                ratio(seconds["naive"], seconds["ours"]),
                seconds=seconds,
                rows={"naive": their_rows, "ours": our_rows},
            ),
            _agreement(name, case, found, expected),
        ]
    return entries


def _scoring(metric: TorchMetric, case: Case) -> Callable[[], object]:
    return lambda: metric(case.model, case.x, case.y, case.a, softmax=case.softmax)


def _loop_fidelity(case: Case, sparsity: tuple[float, ...], beta: float, draws: int) -> Scores:
    found = naive.fidelity(
        case.model,
        *case.tensors(),
        sparsity=sparsity,
        beta=beta,
        n_draws=draws,
        generator=torch.Generator(case.device).manual_seed(1),
    )
    return Scores(
        np.stack([sign.mean.mean(1).cpu().numpy() for sign in found]),
        np.stack([_root_of_squares(sign.error).cpu().numpy() for sign in found]) / len(sparsity),
    )


def _root_of_squares(errors: torch.Tensor) -> torch.Tensor:
    return errors.square().sum(1).sqrt()


def _loop_infidelity(case: Case, draws: int) -> Scores:
    found = naive.infidelity(
        case.model, *case.tensors(), n_draws=draws, generator=torch.Generator().manual_seed(1)
    )
    return Scores(found.mean.cpu().numpy(), found.error.cpu().numpy())


def _signs(metric: TorchMetric) -> Scores:
    """Return Fid⁺ and Fid⁻ of the last call."""
    details = metric.details
    errors = [
        np.sqrt((details[name] ** 2).sum(1)) / details[name].shape[1]
        for name in ("error_plus", "error_minus")
    ]
    return Scores(np.stack([details["plus"], details["minus"]]), np.stack(errors))


def _deviation(found: Scores, expected: Scores) -> float:
    """Return the largest difference in joint standard errors; where both are 0 it must be none."""
    difference = np.abs(found.values - expected.values)
    joint = np.hypot(found.errors, expected.errors)
    # Sums in float32 and in float64 differ by rounding.
    same = difference <= 1e-6 * np.abs(expected.values).max()
    return float(np.where(same, 0, difference / np.where(same, 1, joint)).max())


def _agreement(
    name: str, case: Case, found: Scores, expected: Scores, allowed: float | None = AGREEMENT
) -> Entry:
    return Entry(
        f"{name}: deviation from the naive loop in joint standard errors",
        case.name,
        _deviation(found, expected),
        allowed,
        at_most=True,
        notes={"scores": found.values.size, "their mean size": float(np.abs(found.values).mean())},
        headline=False,
    )
