"""An evaluation within a metric against the bare forward pass of a row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks import models
from benchmarks.models import Case
from benchmarks.speed.bare import best_bare_forward
from benchmarks.speed.results import Entry, Scale, Section
from benchmarks.timing import Ratio, alternate, counted, ratio
from quantus_ext import Deletion, Infidelity, RFidelity
from quantus_ext.base import TorchMetric

PLANS: Mapping[str, Mapping[str, Any]] = {
    "default plan": {},
    '`plan="calibrate"`': {"plan": "calibrate"},
}
DRAWS, STEPS = 50, 20


class Load(NamedTuple):
    """A case, about how many rows a call sends through its model, and the ratio allowed."""

    make: Callable[[int], Case]
    rows: int
    target: float | None = None


LOADS = (
    Load(models.lenet_on_digits, 4096, 1.35),
    Load(models.cnn_on_noise, 1024, 1.1),
    Load(models.resnet9_on_noise, 128, 1.1),
    Load(models.resnet18_on_noise, 48, 1.1),
    Load(models.series_cnn_on_noise, 1024),
    Load(models.mlp_on_digits, 8192, 2),
    Load(models.boosted_trees_on_cancer, 8192),
)


def overhead(scale: Scale) -> Section:
    """Measure all cases; a quick run takes the two smallest."""
    loads = [LOADS[0]._replace(rows=512), LOADS[5]._replace(rows=512)] if scale.quick else LOADS
    return Section(
        "Overhead",
        "Time of an evaluation within a metric (the whole call over the rows that it sent through "
        "the model) against the bare forward pass of a row at the best chunk size (16 to 2,048) "
        "and layout, found by a search beforehand. Infidelity with 200 draws, R-Fidelity with "
        "one size "
        f"and {DRAWS} draws, Deletion with {STEPS} steps; fewer where that is too much for a case.",
        [entry for load in loads for entry in _overheads(load, scale.repeats)],
    )


def _overheads(load: Load, repeats: int) -> list[Entry]:
    case = load.make(-(-load.rows // (STEPS + 1)))
    print(f"overhead: {case.name} …", file=sys.stderr)
    bare = best_bare_forward(case, load.rows)
    calls: dict[str, Callable[[], object]] = {"bare": bare.call}
    rows = {"bare": bare.rows}
    for plan, settings in PLANS.items():
        for metric, n in _metrics(load.rows, settings):
            name = f"{metric.name}, {plan}"
            calls[name] = _scoring(metric, case.first(n))
            # The first call may measure plans, which is no evaluation.
            calls[name]()
            rows[name], _ = counted(case.model, calls[name])
    seconds = alternate(calls, min(repeats, 3) if load.rows < 64 else repeats)
    each = {name: [s / rows[name] for s in times] for name, times in seconds.items()}
    entries = []
    for plan in PLANS:
        own = [name for name in calls if name.endswith(plan)]
        ratios = {name: ratio(each[name], each["bare"]) for name in own}
        worst = max(own, key=lambda name: ratios[name].median)
        entries += [
            Entry(
                f"an evaluation / bare forward, {name}",
                case.name,
                ratios[name],
                load.target,
                at_most=True,
                seconds={"metric": seconds[name], "bare": seconds["bare"]},
                rows={"metric": rows[name], "bare": rows["bare"]},
                notes={"bare at best": bare.description},
                headline=False,
            )
            for name in own
        ]
        entries.append(_worst(plan, case.name, ratios[worst], load.target, worst))
    return entries


def _worst(plan: str, case: str, measured: Ratio, target: float | None, metric: str) -> Entry:
    return Entry(
        f"an evaluation / bare forward, slowest of three metrics, {plan}",
        case,
        measured,
        target,
        at_most=True,
        notes={"slowest": metric.removesuffix(f", {plan}")},
    )


def _metrics(rows: int, settings: Mapping[str, Any]) -> list[tuple[TorchMetric, int]]:
    """Return metrics and with how many samples they evaluate about so many rows."""
    draws, subsets = min(200, rows - 1), min(DRAWS, (rows - 1) // 2)
    common: dict[str, Any] = {"disable_warnings": True, **settings}
    return [
        (Infidelity(n_perturb_samples=draws, **common), rows // (draws + 1)),
        (RFidelity(0.5, n_samples=subsets, **common), rows // (2 * subsets + 1)),
        (Deletion(STEPS, **common), rows // (STEPS + 1)),
    ]


def _scoring(metric: TorchMetric, case: Case) -> Callable[[], object]:
    return lambda: metric(case.model, case.x, case.y, case.a, softmax=case.softmax)
