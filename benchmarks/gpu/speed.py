"""What an evaluation costs beside the bare forward pass, and beside what others do."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.gpu.boxes import Report
from benchmarks.gpu.device import tf32, wait
from benchmarks.models import Case
from benchmarks.speed.naive_loops import EAGER, VARIANTS, f_fidelity
from benchmarks.speed.neighbours import captum_infidelity, quantus_infidelity
from benchmarks.speed.results import Entry
from benchmarks.timing import Ratio, alternate, ratio
from quantus_ext import Infidelity, Plan, RFidelity
from quantus_ext.base import TorchMetric

BATCHES = (16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
LARGEST = 2**31
"""Bytes of rows in a batch, at most."""


@dataclass(frozen=True)
class Setting:
    """How a model is run.

    Attributes
    ----------
    precision : {"float32", "bfloat16"}
    tf32 : bool
        Whether products and convolutions of float32 may be in it.
    channels_last : bool
        For images.
    keywords : mapping
        Of the metric, besides.
    target : float, optional
        Of the ratio, for the two networks of photos.
    """

    precision: str = "float32"
    tf32: bool = False
    channels_last: bool = False
    keywords: Mapping[str, Any] | None = None
    target: float | None = None


SETTINGS = {
    "bfloat16": Setting("bfloat16", target=1.1),
    "bfloat16, channels-last": Setting("bfloat16", channels_last=True),
    "float32": Setting(),
    "float32, TF32": Setting(tf32=True),
    'bfloat16, `plan="calibrate"`': Setting("bfloat16", keywords={"plan": "calibrate"}),
}
COMPILED = Setting("bfloat16", keywords={"compile": True})


class Load(NamedTuple):
    """A case, its samples and draws, and whether the targets are for it."""

    make: Callable[[int], Case]
    n: int
    n_draws: int
    judged: bool = False


LOADS = (
    Load(models.resnet50_on_noise, 16, 200, judged=True),
    Load(models.vit_on_noise, 16, 200, judged=True),
    Load(models.cnn_on_noise, 256, 200),
    Load(models.mlp_on_digits, 1024, 200),
    Load(models.transformer_on_tokens, 64, 200),
)
QUICK = (
    Load(partial(models.cnn_on_noise, side=16), 2, 20),
    Load(models.mlp_on_digits, 4, 20),
    Load(models.transformer_on_tokens, 2, 20),
)


def section(report: Report, device: torch.device, quick: bool) -> None:
    """Compare evaluations with the bare forward pass, then with what others do."""
    made = [(load.make(load.n).on(device), load) for load in (QUICK if quick else LOADS)]
    settings = dict(list(SETTINGS.items())[: 2 if quick else None])
    repeats = 1 if quick else 2
    for case, load in made:
        known: dict[tuple[str, bool, bool], Bare] = {}
        for name, setting in settings.items():
            if setting.channels_last and case.x.ndim != 4:
                continue
            with report.part(f"{case.name}, {name}"), tf32(setting.tf32):
                key = setting.precision, setting.tf32, setting.channels_last
                if key not in known:
                    known[key] = best_bare(case, setting, quick)
                    report.add(_of_bare(case, name, known[key]))
                for entry in _overhead(case, load, name, setting, known[key], repeats):
                    report.add(entry)
                if device.type == "cuda" and not setting.keywords:
                    report.add(_graphed(case, name, setting, known[key], repeats))
    _neighbours(report, device, quick, repeats)
    if quick:
        return
    with report.part("naive F-Fidelity, compiled"), tf32(False):
        variants = {
            "float32": VARIANTS["float32"],
            "bfloat16, compiled": VARIANTS["bfloat16, compiled"]._replace(target=10),
        }
        for entry in f_fidelity(models.resnet9_on_noise(8).on(device), repeats, variants):
            if "compiled" in entry.what:
                report.add(entry)
    for case, load in made:
        with report.part(f"{case.name}, compiled"), tf32(False):
            bare = best_bare(case, COMPILED, quick)
            for entry in _overhead(case, load, "bfloat16, compiled", COMPILED, bare, repeats):
                report.add(entry)


def _neighbours(report: Report, device: torch.device, quick: bool, repeats: int) -> None:
    cnn = models.lenet_on_digits(2) if quick else models.cnn_on_noise(32)
    there, draws = cnn.on(device), 20 if quick else 200
    with report.part("captum"), tf32(False):
        for entry in captum_infidelity(there, repeats, draws, None if quick else 5):
            report.add(entry)
    with report.part("naive F-Fidelity"), tf32(False):
        case = models.lenet_on_digits(1) if quick else models.resnet9_on_noise(8)
        # The targets are those of processors.
        variants = {name: each._replace(target=None) for name, each in EAGER.items()}
        for entry in f_fidelity(case.on(device), repeats, variants):
            report.add(entry)
    with report.part("Quantus"), tf32(False):
        for entry in quantus_infidelity(there.first(2 if quick else 8), repeats, None):
            report.add(entry)


class Bare(NamedTuple):
    """The forward pass of ``rows`` rows at once, waiting until it is done."""

    call: Callable[[], None]
    rows: int
    seconds: float


def best_bare(case: Case, setting: Setting, quick: bool) -> Bare:
    """Return the pass at the batch at which a row takes least, of those that fit the memory."""
    found: list[Bare] = []
    for rows in BATCHES[:3] if quick else BATCHES:
        if rows * case.x[0].nbytes > LARGEST:
            break
        call = _bare(case, setting, rows)
        try:
            call()
            seconds = min(_seconds(call) for _ in range(2))
        except torch.OutOfMemoryError:
            break
        found.append(Bare(call, rows, seconds))
        best = min(found, key=lambda bare: bare.seconds / bare.rows)
        # Twice as large batches that are slower only become slower.
        if seconds / rows > 1.15 * best.seconds / best.rows:
            break
    return min(found, key=lambda bare: bare.seconds / bare.rows)


def _bare(case: Case, setting: Setting, rows: int) -> Callable[[], None]:
    x, device = _laid_out(case, setting, rows), case.device

    def call() -> None:
        with torch.no_grad(), _autocast(setting, device):
            case.model(x)
        wait(device)

    return call


def _laid_out(case: Case, setting: Setting, rows: int) -> Tensor:
    x = case.tensors()[0]
    x = x[torch.arange(rows, device=x.device) % len(x)]
    return x.contiguous(memory_format=torch.channels_last) if setting.channels_last else x


def _autocast(setting: Setting, device: torch.device) -> torch.autocast | nullcontext[None]:
    if setting.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _of_bare(case: Case, name: str, bare: Bare) -> Entry:
    return Entry(
        f"rows a second of the bare forward pass, {name}",
        case.name,
        bare.rows / bare.seconds,
        notes={"rows at once": bare.rows},
        headline=False,
    )


def _overhead(
    case: Case, load: Load, name: str, setting: Setting, bare: Bare, repeats: int
) -> Iterator[Entry]:
    keywords: dict[str, Any] = {"precision": setting.precision, **(setting.keywords or {})}
    if setting.channels_last:
        keywords["plan"] = Plan(bare.rows, "channels_last")
    metrics: dict[str, TorchMetric] = {
        "Infidelity": Infidelity(
            n_perturb_samples=load.n_draws,
            # Maps of token ids have one value a token.
            multiply_by_inputs=case.x.dtype == np.int64,
            **keywords,
        ),
        "R-Fidelity": RFidelity([0.5], n_samples=load.n_draws // 2, **keywords),
    }
    calls: dict[str, Callable[[], object]] = {"bare": bare.call}
    first = {}
    for metric_name, metric in metrics.items():
        calls[metric_name] = partial(metric, case.model, case.x, case.y, case.a)
        first[metric_name] = _seconds(calls[metric_name])
    seconds = alternate(calls, repeats)
    each_bare = [s / bare.rows for s in seconds["bare"]]
    for metric_name, metric in metrics.items():
        each = [s / metric.n_evaluations for s in seconds[metric_name]]
        plan = metric.plan
        yield Entry(
            f"an evaluation of {metric_name} / bare forward, {name}",
            case.name,
            ratio(each, each_bare),
            setting.target if load.judged else None,
            at_most=True,
            seconds={metric_name: seconds[metric_name], "bare": seconds["bare"]},
            rows={metric_name: metric.n_evaluations, "bare": bare.rows},
            notes={
                "first call, s": first[metric_name],
                "rows a pass": plan.chunk_size if plan else 0,
                "rows a second": 1 / statistics.median(each),
            },
        )


def _graphed(case: Case, name: str, setting: Setting, bare: Bare, repeats: int) -> Entry:
    """Compare the bare pass with its replay as a CUDA graph, at few rows, where it gains most."""
    rows = min(bare.rows, 64)
    plain = _bare(case, setting, rows)
    model: nn.Module = copy.deepcopy(case.model)
    x, stream, graph = _laid_out(case, setting, rows), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    # Weights that autocast keeps would lie in the graph's memory.
    autocast = torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
    with torch.no_grad(), autocast if setting.precision != "float32" else nullcontext():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(x)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            model(x)

    def replay() -> None:
        graph.replay()
        wait(case.device)

    replay()
    seconds = alternate({"plain": plain, "graph": replay}, 5 * repeats)
    gained: Ratio = ratio(seconds["plain"], seconds["graph"])
    return Entry(
        f"bare forward, times as fast as a CUDA graph, {name}",
        case.name,
        gained,
        seconds=seconds,
        rows={"plain": rows, "graph": rows},
        headline=False,
    )
