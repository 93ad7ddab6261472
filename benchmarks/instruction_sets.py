"""The numeric tests under several instruction sets: results must be equal within rounding on each.

Run ``python -m benchmarks.instruction_sets`` in the repository's root. ``--quick`` runs the tests
of one module. Torch reads ``ATEN_CPU_CAPABILITY`` and oneDNN ``ONEDNN_MAX_CPU_ISA`` when a process
starts, so that each run of pytest has a process of its own. ``PYTEST_ADDOPTS="-n 2"`` runs it in
two.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table

SETTINGS: dict[str, dict[str, str]] = {
    "as the processor has it": {},
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
TESTS = ["tests/functional", "tests/test_contract.py", "tests/test_numbers.py"]
CAPABILITY = "import torch; print(torch.backends.cpu.get_cpu_capability())"


def main() -> None:
    """Write the page."""
    made = parser("instruction_sets", __doc__)
    made.add_argument("tests", nargs="*", default=TESTS, help="what pytest runs")
    chosen = options(made)
    tests = ["tests/functional/test_removal_curves.py"] if chosen.quick else chosen.tests
    page = Page("instruction_sets", ["pytest"], quick=chosen.quick)
    page.text("# Tests under several instruction sets")
    page.text(f"`pytest {' '.join(tests)}`. Torch says which of its kernels a process uses.")
    rows, failed = [], []
    for name, variables in SETTINGS.items():
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        capability = _run(["-c", CAPABILITY], environment).stdout.strip()
        start = time.perf_counter()
        found = _run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], environment)
        took = time.perf_counter() - start
        counts = re.findall(r"(\d+) (passed|failed|error)", found.stdout.splitlines()[-1])
        number = {what: int(count) for count, what in counts}
        wrong = number.get("failed", 0) + number.get("error", 0)
        shown = ", ".join(f"`{key}={value}`" for key, value in variables.items()) or "–"
        passed = str(number.get("passed", 0))
        rows.append([name, shown, capability, passed, str(wrong), f"{took:.0f} s"])
        failed += [
            f"- {name}: {line}"
            for line in found.stdout.splitlines()
            if line.startswith(("FAILED", "ERROR"))
        ]
    headers = ["Instruction set", "Variables", "Torch's kernels", "Passed", "Failed", "Time"]
    page.text(markdown_table(headers, rows))
    if failed:
        page.text("\n".join(failed))


def _run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
