"""Time and memory against samples, draws and sizes, and overhead against the input's size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.models import cnn_on_noise, lenet_on_digits
from benchmarks.speed.bare import best_bare_forward
from benchmarks.speed.results import Entry, Scale, Section
from benchmarks.timing import alternate, markdown_table, ratio
from quantus_ext import Infidelity, RFidelity
from quantus_ext.base import TorchMetric

VALUES = {
    "samples, Infidelity": (64, 128, 256, 512, 1024),
    "draws, Infidelity": (50, 100, 200, 400, 800),
    "draws, R-Fidelity": (10, 20, 40, 80, 160),
    "sizes, R-Fidelity": (2, 4, 8, 16, 32),
}
SIDES = {28: 256, 56: 128, 112: 64, 224: 32}
"""Sides of the inputs, and how many rows are evaluated of each."""
MORE = 8
"""Times as many, when memory is compared: both fill a chunk."""


def growth(scale: Scale) -> Section:
    """Fit lines to times, measure memory in processes of their own, and compare sides."""
    axes = dict(list(VALUES.items())[:1]) if scale.quick else VALUES
    entries, rows = [], []
    for axis, values in axes.items():
        calls = {str(value): scoring(axis, value) for value in values}
        for call in calls.values():
            call()
        seconds = alternate(calls, scale.repeats)
        medians = [median(times) for times in seconds.values()]
        entries.append(
            Entry(
                f"time against {axis}: R² of a line",
                "",
                float(np.corrcoef(values, medians)[0, 1] ** 2),
                seconds=seconds,
            )
        )
        peaks = (f"{peak:.1f}" for peak in peaks_in_turn(axis))
        rows.append([axis, f"{values[-1]:,} → {MORE * values[-1]:,}", *peaks])
    sides = [28] if scale.quick else SIDES
    entries += [_against_bare(side, scale.repeats) for side in sides]
    return Section(
        "Growth",
        "LeNet on digits, whose inputs and attributions are 6.1 KB a sample; and an evaluation of "
        "`Infidelity` against the bare forward pass, for a CNN at growing sides.",
        entries,
        [
            markdown_table(
                ["peak memory of a process, libraries included", "from → to", "MB, from", "MB, to"],
                rows,
            )
        ],
    )


def scoring(axis: str, value: int) -> Callable[[], object]:
    """Return a call of a metric with so many samples, draws or sizes."""
    case = lenet_on_digits(value if axis.startswith("samples") else 4)
    metric: TorchMetric
    if axis == "samples, Infidelity":
        metric = Infidelity(n_perturb_samples=10)
    elif axis == "draws, Infidelity":
        # Windows would be drawn without repetition, and there are but 625.
        metric = Infidelity(n_perturb_samples=value, scheme="subset")
    elif axis == "draws, R-Fidelity":
        metric = RFidelity((0.2, 0.5), n_samples=value)
    else:
        metric = RFidelity([(i + 1) / (value + 1) for i in range(value)], n_samples=20)
    return partial(metric, case.model, case.x, case.y, case.a)


def peaks_in_turn(axis: str) -> list[float]:
    """Return the peak of a fresh process, in MB, after a large call and one ``MORE`` times so."""
    program = f"from benchmarks.speed import growth; growth.print_peaks({axis!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    return [float(peak) for peak in done.stdout.split()]


def print_peaks(axis: str) -> None:
    """Make a call and one ``MORE`` times as large, and print this process's peaks, in MB."""
    calls = [scoring(axis, factor * VALUES[axis][-1]) for factor in (1, MORE)]
    # From here on, so that reading the digits is not in it. Not ru_maxrss, which begins with that
    # of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    for call in calls:
        call()
        status = Path("/proc/self/status").read_text()
        print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def _against_bare(side: int, repeats: int) -> Entry:
    rows = SIDES[side]
    case = cnn_on_noise(1, side)
    metric = Infidelity(n_perturb_samples=rows - 1)
    score = partial(metric, case.model, case.x, case.y, case.a)
    score()
    bare = best_bare_forward(case, rows)
    seconds = alternate({"ours": score, "bare": bare.call}, repeats)
    return Entry(
        f"an evaluation / bare forward at side {side}",
        "",
        ratio(
            [s / metric.n_evaluations for s in seconds["ours"]],
            [s / bare.rows for s in seconds["bare"]],
        ),
        seconds=seconds,
        rows={"ours": metric.n_evaluations, "bare": bare.rows},
        notes={"bare at best": bare.description},
        headline=False,
    )
