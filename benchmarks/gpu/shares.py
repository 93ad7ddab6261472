"""Where the time of a call goes: the model, the draws, the masked write, the statistics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import models
from benchmarks.gpu import traffic
from benchmarks.gpu.boxes import Report
from benchmarks.models import Case
from benchmarks.speed.results import Entry
from quantus_ext import Infidelity, RFidelity
from quantus_ext.base import TorchMetric
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.masked import MaskedModel

MODEL, DRAWS, WRITE, STATISTICS, REST = "model", "draws", "masked write", "statistics", "rest"
SPANS = (MODEL, DRAWS, WRITE, STATISTICS)


def section(report: Report, device: torch.device, quick: bool) -> None:
    """Count what stands beside the model, then profile calls of three metrics on each network."""
    with report.part("operations and bytes"):
        for entry in traffic.entries():
            report.add(entry)
    for case, n_draws, precision in _loads(quick):
        there = case.on(device)
        for name, metric in {
            "Infidelity, windows": Infidelity(n_perturb_samples=n_draws, precision=precision),
            "Infidelity, subsets": Infidelity(
                n_perturb_samples=n_draws, scheme="subset", precision=precision
            ),
            "R-Fidelity": RFidelity([0.5], n_samples=n_draws // 2, precision=precision),
        }.items():
            with report.part(f"{name}, {case.name}"):
                for entry in _shares(f"{name}, {precision}", metric, there, device):
                    report.add(entry)


def _loads(quick: bool) -> Iterator[tuple[Case, int, Any]]:
    if quick:
        yield models.mlp_on_digits(2), 20, "float32"
        return
    yield models.resnet50_on_noise(8), 200, "bfloat16"
    yield models.cnn_on_noise(128), 200, "float32"
    yield models.mlp_on_digits(256), 200, "float32"


def _shares(what: str, metric: TorchMetric, case: Case, device: torch.device) -> Iterator[Entry]:
    def call() -> object:
        return metric(case.model, case.x, case.y, case.a)

    call()
    on_device = device.type == "cuda"
    start = time.perf_counter()
    call()
    wall = time.perf_counter() - start
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with spans(), profile(activities=activities) as profiler:
        call()
    spent: Counter[tuple[str, str]] = Counter()
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CPU:
            own = event.self_device_time_total if on_device else event.self_cpu_time_total
            if own and event.name not in SPANS:
                spent[_span(event), event.name] += own
    total = spent.total()
    for span in (*SPANS, REST):
        inside = Counter({name: own for (where, name), own in spent.items() if where == span})
        yield Entry(
            f"{what}: share of {span}",
            case.name,
            inside.total() / total,
            notes={name: own / total for name, own in inside.most_common(4)},
            headline=span == MODEL,
        )
    yield Entry(
        f"{what}: time on the device / time of an unobserved call",
        case.name,
        total / 1e6 / wall,
        notes={"seconds": wall, "µs a row": 1e6 * wall / metric.n_evaluations},
    )


def _span(event: Any) -> str:
    """Return the innermost span that an operation is in."""
    around = event.cpu_parent
    while around is not None and around.name not in SPANS:
        around = around.cpu_parent
    return REST if around is None else str(around.name)


def _within(span: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*given: Any, **named: Any) -> Any:
        with record_function(span):
            return function(*given, **named)

    return called


@contextmanager
def spans() -> Iterator[None]:
    """Name what calls do, for the profiler."""
    sum_draws, write, ask = MaskedModel.sum_draws, MaskedModel._perturbed, Forward._checked

    def named(
        self: MaskedModel,
        rows: Any,
        keys: Any,
        sampler: Any,
        statistic: Any,
        *rest: Any,
        **more: Any,
    ) -> Any:
        sampler, statistic = _within(DRAWS, sampler), _within(STATISTICS, statistic)
        return sum_draws(self, rows, keys, sampler, statistic, *rest, **more)

    with (
        mock.patch.object(MaskedModel, "sum_draws", named),
        mock.patch.object(MaskedModel, "_perturbed", _within(WRITE, write)),
        mock.patch.object(Forward, "_checked", _within(MODEL, ask)),
    ):
        yield
