"""Importing the package in a fresh interpreter against importing Quantus."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.speed.results import Entry, Scale, Section
from benchmarks.timing import alternate, ratio


def cold(scale: Scale) -> Section:
    """Time whole processes; their files are in memory, since this one has read them."""
    calls = {name: partial(_import, name) for name in ("quantus_ext", "quantus")}
    seconds = alternate(calls, scale.repeats)
    entry = Entry(
        "`import quantus_ext` / `import quantus`, fresh interpreters",
        "",
        ratio(seconds["quantus_ext"], seconds["quantus"]),
        1.15,
        at_most=True,
        seconds=seconds,
    )
    return Section("Import", "Whole processes, the start of Python included.", [entry])


def _import(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True, capture_output=True)
