"""Time things side by side, count what they cost, and write down what came out."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


class Ratio(NamedTuple):
    """Median, lowest and highest of the ratios of paired times."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({self.low:.2f}–{self.high:.2f})"


def alternate(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, ``repeats`` each; all should have run once before.

    They take turns, so that what else the machine does meets them alike; the times of one round
    make a pair.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Ratio:
    """Return how many times as long the first took, pair by pair."""
    ratios = [s / f for s, f in zip(slower, faster, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def counted(model: nn.Module, call: Callable[[], Result]) -> tuple[int, Result]:
    """Return how many rows a call sends through the model, by a hook on it, and its result."""
    rows = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal rows
        rows += len(output)

    handle = model.register_forward_hook(count)
    try:
        result = call()
    finally:
        handle.remove()
    return rows, result


def environment(packages: Sequence[str]) -> str:
    """Return the versions and the processor's threads that figures depend on."""
    versions = ", ".join(map(_versioned, packages))
    return (
        f"Python {platform.python_version()}, {versions}; {platform.machine()}, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    )


def _versioned(package: str) -> str:
    """Return a distribution's name and version, or those of one that has a module of the name."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        # For instance xgboost-cpu for xgboost.
        (other, *_) = packages_distributions()[package]
        return f"{other} {version(other)}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table, its first column aligned left and the others right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either the old one or the whole new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
