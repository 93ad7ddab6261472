"""Measure the package on a GPU: what it gives there, how fast, in how much memory, and why.

``python -m benchmarks.gpu`` takes less than eight minutes and writes ``gpu.json`` and ``gpu.md``
after every number, so a run that is cut off keeps what it has. It exits with 1 if a number is
wrong, a section failed or one ran out of time; targets of speed are judged in the page only.
``--device cpu --quick`` is a dry run on a processor, in about a minute. On a machine without an
index, :mod:`benchmarks.gpu.wheels` says what to bring.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu.boxes import Box, Report, run
from benchmarks.timing import environment


class Section(NamedTuple):
    """A module of this package that has a function ``section(report, device, quick)``.

    The seconds are those of its box, for a whole run and for a quick one.
    """

    title: str
    about: str
    seconds: float
    quick_seconds: float


SECTIONS = {
    "correctness": Section(
        "Correctness",
        "Draws, and scores, standard errors and details, on the device against the processor. "
        "Differences are relative to the largest number of an array; those of scores in float32 "
        "may be 1e-5, in float64 1e-10, others a hundred times as much, as they are differences of "
        "sums.",
        90,
        40,
    ),
    "contract": Section(
        "Contract",
        "`pytest -m gpu`: the tests of the contract that make sense on a device, and that nothing "
        "in a metric's loop waits for it.",
        60,
        60,
    ),
    "memory": Section(
        "Memory",
        "Peak memory of a call beside what it was given, against draws, samples and maps; and what "
        "happens when there is too little.",
        45,
        40,
    ),
    "kernel": Section(
        "Kernel",
        "Random subsets by one kernel (Triton) in place of sorting: a candidate, which the package "
        "does not use. On a processor it is interpreted, and only checked.",
        30,
        60,
    ),
    "shares": Section(
        "Shares",
        "Where the time on the device goes, by torch's profiler; names are those of torch's "
        "operations, so the first ones outside the model are what a kernel would help most. Bytes "
        "and operations beside the model are counted on fake tensors, as if each tensor were read "
        "or written once.",
        45,
        40,
    ),
    "speed": Section(
        "Speed",
        "A metric's whole call over the rows that it sent through the model, against the bare "
        "forward pass of a row in the same precision and layout at the best batch; neighbours and "
        "naive loops side by side on equal draws.",
        230,
        40,
    ),
}


def main() -> int:
    chosen = _options()
    if chosen.section:
        return _section(chosen.section, torch.device(chosen.device), chosen.quick)
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu is a dry run", file=sys.stderr)
        return 2
    # As an interrupt does, so that no section goes on alone.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    shared = ["--device", chosen.device, *(["--quick"] if chosen.quick else [])]
    boxes = {
        name: Box(
            each.title,
            each.about,
            [sys.executable, "-m", "benchmarks.gpu", *shared, "--section", name],
            each.quick_seconds if chosen.quick else each.seconds,
        )
        for name, each in SECTIONS.items()
        if name in chosen.only
    }
    about = f"`{' '.join(['python -m benchmarks.gpu', *sys.argv[1:]])}`"
    return 0 if run(boxes, chosen.out, about) else 1


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--device", default="cuda", help="by default cuda; cpu is a dry run")
    made.add_argument("--quick", action="store_true", help="a small part of it")
    made.add_argument(
        "--out",
        type=Path,
        default=Path("build/gpu"),
        metavar="FOLDER",
        help="for the results (build/gpu)",
    )
    made.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=[*SECTIONS],
        metavar="NAME",
        help=f"sections, of {', '.join(SECTIONS)}",
    )
    made.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    return made.parse_args()


def _section(name: str, device: torch.device, quick: bool) -> int:
    """Run a section in this process, its report on standard output."""
    report = Report(os.fdopen(os.dup(1), "w"))
    # What libraries print is no part of it.
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    # Captum draws from torch's global generator.
    torch.manual_seed(0)
    card = ""
    if device.type == "cuda":
        card = f"; {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    report.environment(environment(("torch", "numpy", "quantus")) + card)
    with report.part(name):
        importlib.import_module(f"benchmarks.gpu.{name}").section(report, device, quick)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
