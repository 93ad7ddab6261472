"""Long runs in one process: memory, open files and time per call, on real digits.

Calls of metrics one after the other; an evaluation of 24 explainers; a store of many tasks, one
sample each, that is filled and then read again. Run ``python -m benchmarks.long_run`` in the
repository's root, on Linux.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import quantus_ext
from benchmarks.models import lenet_on_digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table

EXPLAINERS = 24


def held() -> tuple[float, int]:
    """Return the memory in MiB that the process holds, and how many files it has open."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(list(Path("/proc/self/fd").iterdir()))


def calls(number: int) -> list[list[str]]:
    """Call four metrics in turn, and say every so often what is held."""
    case = lenet_on_digits(500)
    metrics = [
        quantus_ext.Deletion(10),
        quantus_ext.Fidelity([0.3, 0.6]),
        quantus_ext.Infidelity(n_perturb_samples=10),
        quantus_ext.QGE(quantus_ext.MoRF(5)),
    ]
    rows, start = [], time.perf_counter()
    part = number // 10
    for call in range(1, number + 1):
        some = slice(call % 499, call % 499 + 2)
        metrics[call % 4](case.model, case.x[some], case.y[some], case.a[some])
        if call % part == 0:
            seconds = (time.perf_counter() - start) / part
            memory, files = held()
            rows.append([f"{call:,}", f"{1000 * seconds:.2f} ms", f"{memory:.0f} MiB", str(files)])
            start = time.perf_counter()
    return rows


def smoothed(
    model: nn.Module, inputs: np.ndarray, targets: np.ndarray, *, noise: float
) -> np.ndarray:
    """Explain by the gradient at a noisy input."""
    generator = np.random.default_rng(0)
    moved = inputs + noise * generator.normal(size=np.shape(inputs))
    rows = torch.as_tensor(moved, dtype=torch.float32).requires_grad_()
    labels = torch.as_tensor(targets).long()
    chosen = model(rows).gather(1, labels[:, None]).sum()
    return torch.autograd.grad(chosen, rows)[0].numpy()


def explainers(times: int) -> list[list[str]]:
    """Evaluate 24 explainers again and again."""
    case, rows = lenet_on_digits(32), []
    methods = {
        f"noise {i / 10:.1f}": {
            "explain_func": smoothed,
            "explain_func_kwargs": {"noise": i / 10},
        }
        for i in range(EXPLAINERS)
    }
    for number in range(1, times + 1):
        start = time.perf_counter()
        quantus_ext.evaluate(
            [quantus_ext.MoRF(10), quantus_ext.Infidelity(n_perturb_samples=20)],
            *(methods, case.model, case.x, case.y),
            n_jobs=1,
        )
        seconds, (memory, files) = time.perf_counter() - start, held()
        rows.append([str(number), f"{seconds:.2f} s", f"{memory:.0f} MiB", str(files)])
    return rows


def stored(tasks: int) -> list[list[str]]:
    """Fill a store task by task, and read it again."""
    case, rows = lenet_on_digits(tasks), []
    # A tenth of each side, so that what is measured is the store.
    x = np.ascontiguousarray(case.x[:, :, ::4, ::4])
    a = np.ascontiguousarray(case.a[:, :, ::4, ::4])
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, 10)).eval()
    with tempfile.TemporaryDirectory() as folder:
        for what in ("filled", "read again"):
            start = time.perf_counter()
            quantus_ext.evaluate(
                *([quantus_ext.MoRF(3)], {"maps": a}, model, x, case.y),
                batch_size=1,
                shard_size=1,
                store=folder,
                n_jobs=1,
            )
            seconds, (memory, files) = time.perf_counter() - start, held()
            written = [each for each in Path(folder).rglob("*") if each.is_file()]
            rows.append(
                [
                    f"{tasks:,} tasks, {what}",
                    f"{1000 * seconds / tasks:.2f} ms",
                    f"{memory:.0f} MiB",
                    str(files),
                    f"{len(written):,}, {sum(f.stat().st_size for f in written) / 2**20:.0f} MiB",
                ]
            )
    return rows


def main() -> None:
    """Write the page."""
    made = parser("long_run", __doc__)
    made.add_argument("--calls", type=int, default=10_000, help="of metrics")
    made.add_argument("--tasks", type=int, default=100_000, help="of the store")
    chosen = options(made)
    page = Page("long_run", (), quick=chosen.quick)
    warnings.simplefilter("ignore")
    header = ["time", "memory", "open files"]
    page.add(
        "Calls one after the other",
        "Four metrics in turn on two digits each. Time is the mean of the calls since the last "
        "line, memory what the process holds.",
        markdown_table(["calls", *header], calls(100 if chosen.quick else chosen.calls)),
    )
    page.add(
        "24 explainers by two metrics, 32 digits",
        markdown_table(["evaluation", *header], explainers(2 if chosen.quick else 5)),
    )
    page.add(
        "A store of one sample a task",
        markdown_table(
            ["store", "time a task", "memory", "open files", "files written"],
            stored(200 if chosen.quick else chosen.tasks),
        ),
    )


if __name__ == "__main__":
    main()
