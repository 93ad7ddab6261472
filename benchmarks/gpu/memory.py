"""What a call needs beside what it was given, and what it does where there is not enough."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.boxes import Report
from benchmarks.gpu.device import tf32
from benchmarks.models import Case, cnn_on_noise, resnet50_on_noise
from benchmarks.speed.results import Entry
from quantus_ext import Infidelity, Plan, RFidelity
from quantus_ext.base import TorchMetric
from tests.engine.peak import PeakBytes

MORE = 8
"""Times as many, whatever is compared."""


def section(report: Report, device: torch.device, quick: bool) -> None:
    """Measure peaks, then score where memory runs out."""
    # Whole blocks and batches in both, so that what is beyond them shows.
    draws, samples = (32, 1) if quick else (400, 64)
    case = cnn_on_noise(MORE * samples, 16 if quick else 64).on(device)
    one = case.first(samples)
    settings = {"batch_size": samples, "chunk_size": 16 if quick else None}
    axes: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for kind, make in (("Infidelity", _infidelity), ("R-Fidelity", _r_fidelity)):
        axes[f"draws, {kind}"] = (
            _scoring(make(draws, settings), one, settings),
            _scoring(make(MORE * draws, settings), one, settings),
        )
        axes[f"samples, {kind}"] = (
            _scoring(make(draws, settings), one, settings),
            _scoring(make(draws, settings), case, settings),
        )
    many = [one.a] * MORE
    axes["maps, Infidelity"] = (
        _scoring(_infidelity(draws, settings), one, settings),
        lambda: _infidelity(draws, settings).score_maps(one.model, one.x, one.y, many),
    )
    for axis, calls in axes.items():
        with report.part(f"peak against {axis}"):
            for call in calls:
                call()
            few, lots = (peak_bytes(device, call) for call in calls)
            report.add(
                Entry(
                    f"peak memory, {MORE} times as many {axis}",
                    case.name,
                    lots / few,
                    notes={"MiB before": few / 2**20, "MiB then": lots / 2**20},
                )
            )
    with report.part("too little memory"), tf32(False):
        report.require(_too_little(device, quick))


def _infidelity(draws: int, settings: dict[str, int | None]) -> Infidelity:
    return Infidelity(n_perturb_samples=draws, scheme="subset", chunk_size=settings["chunk_size"])


def _r_fidelity(draws: int, settings: dict[str, int | None]) -> RFidelity:
    return RFidelity([0.5], n_samples=draws, chunk_size=settings["chunk_size"])


def _scoring(
    metric: TorchMetric, case: Case, settings: dict[str, int | None]
) -> Callable[[], object]:
    return lambda: metric(
        case.model, case.x, case.y, case.a, batch_size=settings["batch_size"] or 64
    )


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int:
    """Return the most bytes that live tensors of a call had on the device at a time."""
    if device.type != "cuda":
        with PeakBytes() as counted:
            call()
        return counted.peak
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def _too_little(device: torch.device, quick: bool) -> Entry:
    """Score in passes that do not fit; chunks must shrink, and scores stay."""
    case = (cnn_on_noise(1, 16) if quick else resnet50_on_noise(4)).on(device)
    draws, rows = (24, 16) if quick else (500, 500)

    def scores(plan: Plan) -> tuple[np.ndarray, Plan | None]:
        metric = Infidelity(n_perturb_samples=draws, plan=plan)
        return np.array(metric(case.model, case.x, case.y, case.a)), metric.plan

    expected, _ = scores(Plan(32))
    with nearly_full(device, case.model), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found, plan = scores(Plan(rows))
    said = [str(each.message) for each in seen if issubclass(each.category, ResourceWarning)]
    if not said:
        raise AssertionError(f"{rows} rows a pass were to be too many, and memory did not run out")
    return Entry(
        "scores after memory ran out, largest relative difference",
        case.name,
        float(np.abs(found - expected).max() / np.abs(expected).max()),
        1e-4,
        at_most=True,
        notes={"warning": said[-1], "rows a pass in the end": plan.chunk_size if plan else 0},
    )


@contextmanager
def nearly_full(device: torch.device, model: nn.Module, left: int = 2 * 2**30) -> Iterator[None]:
    """Leave so many bytes of a card; a processor only says that it has none, above 5 rows."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        filler = torch.empty(max(free - left, 0), dtype=torch.uint8, device=device)
        try:
            yield
        finally:
            del filler
            torch.cuda.empty_cache()
        return

    def refuse(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 5:
            raise torch.OutOfMemoryError("a dry run: too many rows")

    handle = model.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
