"""The tests of the contract that make sense on a device."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.boxes import Report
from benchmarks.speed.results import Entry

TESTS = Path(__file__).parents[2] / "tests" / "test_gpu.py"


class _Recorder:
    """Reports every test that fails, and counts the others."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.counts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            # Pytest marks the lines of the exception.
            said = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            with self._report.part(report.nodeid):
                raise AssertionError(said[0][1:].strip() if said else report.when)


def section(report: Report, device: torch.device, quick: bool) -> None:
    """Run the tests, those of images in a quick run."""
    recorder = _Recorder(report)
    chosen = ["-m", "gpu", "--device", str(device)]
    if quick:
        chosen += ["-k", "image and Infidelity"]
    code = pytest.main(["-q", "-p", "no:cacheprovider", *chosen, str(TESTS)], [recorder])
    for outcome in ("passed", "failed", "skipped"):
        report.add(Entry(f"tests that {outcome}", "", recorder.counts[outcome]))
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {pytest.ExitCode(code).name}")
