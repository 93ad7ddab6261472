"""How ``quantus_ext.evaluate`` scales: processes, overhead a task, memory; and on paper further.

Run ``python -m benchmarks.evaluation_scaling --threads 1`` in the repository's root, on a machine
that does nothing else.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
import torch
from torch import nn

from benchmarks.page import Page, options, parser
from benchmarks.timing import alternate, markdown_table, ratio
from quantus_ext import Evaluation, MoRF, RFidelity, evaluate

GPUS, IMAGES, EXPLAINERS, SHARD = 64, 1_000_000, 10, 256
ROWS = 1_900
"""Evaluations a sample: R-Fidelity with 50 draws, two signs and 19 sizes."""
ROWS_A_SECOND = 2_500
"""What one GPU is taken to do: about a ResNet-50 at 224 × 224 in single precision."""
BYTES = 3 * 224 * 224 * 4


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 10),
        ).eval()


def inputs(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(n, 1, 16, 16)).astype(np.float32), generator.integers(0, 10, n)


def own(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Explain by the inputs themselves, which costs nothing."""
    return inputs


def heavy(n: int, **settings: Any) -> Evaluation:
    """Run what is nearly all evaluations of the model."""
    x, y = inputs(n)
    metric = RFidelity([0.2, 0.5], n_samples=50)
    return evaluate(
        {"R-Fidelity": metric},
        {"own": own},
        network(),
        x,
        y,
        batch_size=16,
        shard_size=16,
        threads=1,
        **settings,
    )


def processor_seconds() -> float:
    """Return what this process and its workers have used so far."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def processes(n: int, repeats: int) -> str:
    """Compare one process with two."""
    one, two = heavy(n), heavy(n, n_jobs=2)
    if not np.array_equal(one.scores, two.scores):
        raise AssertionError("two processes give other scores than one")
    load = os.getloadavg()[0]
    used: dict[str, list[float]] = {"1": [], "2": []}

    def call(name: str) -> None:
        before = processor_seconds()
        heavy(n, n_jobs=int(name))
        used[name].append(processor_seconds() - before)

    seconds = alternate({"1": lambda: call("1"), "2": lambda: call("2")}, repeats)
    return (
        f"{n} samples in {n // 16} shards, one torch thread each, the workers started before; "
        f"{repeats} pairs. The machine's load average before was {load:.1f} of "
        f"{os.cpu_count()} processors: what others use of them is missing from the second line.\n\n"
        + markdown_table(
            ["processes", "median, s", "times as fast", "processor time, s"],
            [
                [
                    "1",
                    f"{statistics.median(seconds['1']):.2f}",
                    "1",
                    f"{statistics.median(used['1']):.2f}",
                ],
                [
                    "2",
                    f"{statistics.median(seconds['2']):.2f}",
                    f"**{ratio(seconds['1'], seconds['2'])}**",
                    f"{statistics.median(used['2']):.2f}",
                ],
            ],
        )
    )


def light(n_tasks: int, **settings: Any) -> float:
    """Return seconds a task over those that its work takes."""
    x, y = inputs(n_tasks)
    start = time.perf_counter()
    found = evaluate(
        {"MoRF": MoRF(1)}, {"own": own}, network(), x, y, batch_size=1, shard_size=1, **settings
    )
    took = time.perf_counter() - start
    # In two processes work is done side by side.
    return (took - float(found.seconds.sum()) / settings.get("n_jobs", 1)) / n_tasks


def overheads(n_tasks: int) -> tuple[list[list[str]], float]:
    """Measure tasks that hold next to no work."""
    rows = []
    worst = 0.0

    def measured(name: str, context: Callable[[], Any], **settings: Any) -> None:
        nonlocal worst
        with context():
            light(10, **settings)
            seconds = light(n_tasks, **settings)
            with tempfile.TemporaryDirectory() as folder:
                stored = light(n_tasks, store=Path(folder) / "store", **settings)
        worst = max(worst, stored)
        rows.append([name, f"{1e3 * seconds:.1f}", f"{1e3 * stored:.1f}"])

    measured("none (`n_jobs=1`)", nullcontext)
    measured("loky, 2 processes", nullcontext, n_jobs=2)
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        measured(
            "Dask, 2 workers",
            lambda: joblib.parallel_config(backend="dask", client=client),
        )
    return rows, worst


def on_paper(overhead: float) -> str:
    """Work out what the overhead means for a large run."""
    tasks = EXPLAINERS * -(-IMAGES // SHARD)
    work = SHARD * ROWS / ROWS_A_SECOND
    hours = tasks * work / GPUS / 3600
    serial = tasks * overhead
    limit = work / overhead
    return (
        f"{IMAGES:,} images × {EXPLAINERS} explainers in shards of {SHARD} are {tasks:,} tasks. "
        f"With {ROWS:,} evaluations a sample, and {ROWS_A_SECOND:,} a second on a GPU (an "
        f"assumption, about a ResNet-50 at 224 × 224), a task is {work:.0f} s of work and the "
        f"whole **{hours:.0f} hours on {GPUS} GPUs**, excluding the explainers' own passes.\n\n"
        f"One process hands out the tasks and writes what comes back, at the worst overhead above "
        f"({1e3 * overhead:.1f} ms) {serial / 60:.0f} minutes for all of them, "
        f"{serial / hours / 36:.1f} % of the time and beside the work. It would stop scaling at "
        f"about {limit:,.0f} workers, where it cannot hand out tasks as fast as they are done; "
        f"larger shards move that further. The other limit is reading: a shard is "
        f"{SHARD * BYTES / 1e6:.0f} MB, so {GPUS} workers read "
        f"{GPUS * SHARD * BYTES / work / 1e6:.0f} MB/s from `.npy` files that all of them see. "
        "From an array in the first process the same would pass through its one network "
        f"connection, {EXPLAINERS} times the data in all: use files. The scores themselves, "
        f"{IMAGES * EXPLAINERS * 16 / 1e6:.0f} MB a metric, are held by the first process."
    )


def peak(n: int, folder: str) -> float:
    """Return the largest memory, in MB, of a process that scores n samples from files."""
    program = (
        "import resource; from benchmarks.evaluation_scaling import streamed;"
        f"streamed({folder!r}, {n});"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1]) / 1024


def streamed(folder: str, n: int) -> None:
    """Score the first n samples of the files."""
    evaluate(
        {"MoRF": MoRF(2)},
        {str(number): own for number in range(4)},
        network(),
        f"{folder}/x-{n}.npy",
        f"{folder}/y-{n}.npy",
    )


def memory(sizes: tuple[int, ...]) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        x, y = inputs(max(sizes))
        for n in sizes:
            np.save(f"{folder}/x-{n}.npy", x[:n])
            np.save(f"{folder}/y-{n}.npy", y[:n])
            attributions = f"{4 * x[:n].nbytes / 2**20:.0f}"
            rows.append([f"{n:,}", attributions, f"{peak(n, folder):.0f}"])
    return (
        "Samples from files, 4 explainers, one process: its peak, most of it the libraries, beside "
        "what the attributions are in all.\n\n"
        + markdown_table(["samples", "attributions, MB", "peak, MB"], rows)
    )


def main() -> None:
    chosen = options(parser("evaluation_scaling", __doc__))
    quick = chosen.quick
    page = Page("evaluation_scaling", ("joblib", "dask"), quick=quick)
    page.add("Two processes against one", processes(64 if quick else 256, 2 if quick else 5))
    rows, worst = overheads(20 if quick else 200)
    page.add(
        "Overhead per task",
        "Wall time a task beyond its work, with tasks that hold next to none (one sample, three "
        "evaluations), hashing and set-up of the run included; with a store each is written and "
        "synced to the disk.",
        markdown_table(["backend", "ms", "ms, with a store"], rows),
    )
    page.add("One million images, estimated", on_paper(worst))
    page.add("Memory", memory((256, 2_000) if quick else (256, 5_000, 50_000)))


if __name__ == "__main__":
    main()
