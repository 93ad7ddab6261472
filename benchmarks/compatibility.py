"""A part of the tests on several Pythons, with the lowest and newest versions of what is needed.

Run ``python -m benchmarks.compatibility`` in the repository's root, with ``uv`` on the path; give
names of environments to try only these. Each is made in a temporary folder, used, and deleted:
torch takes some gigabytes. A Python that is not installed is left out. Results of other
environments that the page has already stay.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.page import options, parser
from benchmarks.timing import markdown_table, write_atomically

LOWEST = {
    "torch": "2.4.0",
    "numpy": "1.23.5",
    "scipy": "1.15.0",
    "pandas": "1.5.3",
    "scikit-learn": "1.2.2",
    "matplotlib": "3.10.0",
    "joblib": "1.4.0",
}
"""On Python 3.11; numpy's is the lowest that this scipy takes."""

ENVIRONMENTS: dict[str, tuple[str, dict[str, str]]] = {
    "3.11-lowest": ("3.11", LOWEST),
    **{f"{python}-newest": (python, {}) for python in ("3.10", "3.11", "3.12", "3.13", "3.14")},
}
SHOWN = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "quantus")
TESTS = ["tests/test_numbers.py", "tests/functional"]
PAGE = Path(__file__).with_suffix(".md")
ROOT = Path(__file__).parents[1]
VERSIONS = f"""
import importlib.metadata, json
print(json.dumps([importlib.metadata.version(name) for name in {SHOWN!r}]))
"""


def tried(python: str, pins: dict[str, str], folder: Path) -> list[str]:
    """Return the versions of an environment and what its tests say, as cells of a row."""
    venv = folder / "venv"
    found = _run("uv", "venv", "-q", "--no-python-downloads", "-p", python, str(venv))
    if found.returncode:
        return ["not installed here", *[""] * len(SHOWN), ""]
    own = venv / "bin" / "python"
    needed = ["pytest", "pytest-xdist", "hypothesis", "captum", "mlxtend", "scikit-learn"]
    given = [f"{name}=={version}" for name, version in pins.items()]
    found = _run("uv", "pip", "install", "-q", "-p", str(own), "-e", str(ROOT), *needed, *given)
    if found.returncode:
        reason = " ".join(found.stderr.split())[:300]
        return ["cannot be installed", *[""] * len(SHOWN), reason]
    version = _run(str(own), "-c", "import platform; print(platform.python_version())").stdout
    versions = json.loads(_run(str(own), "-c", VERSIONS).stdout)
    found = _run(str(own), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *TESTS)
    lines = found.stdout.splitlines() or found.stderr.splitlines()
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|skipped|errors?)", lines[-1]))
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    outcome = "; ".join([counts or lines[-1][:200], *failed[:5]])
    return [version.strip(), *versions, outcome.replace("|", "\\|")]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Otherwise it would name the packages of another environment.
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def _known() -> dict[str, list[str]]:
    """Return the rows that the page has, by environment."""
    if not PAGE.is_file():
        return {}
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines()]
    return {cells[0]: cells[1:] for cells in rows if cells[0] in ENVIRONMENTS}


def main() -> None:
    """Try the environments and write the page."""
    made = parser("compatibility", __doc__)
    made.add_argument("environments", nargs="*", choices=[[], *ENVIRONMENTS], metavar="NAME")
    chosen = options(made)
    if shutil.which("uv") is None:
        raise SystemExit("compatibility needs uv on the path: pip install uv")
    rows = _known()
    for name in chosen.environments or ENVIRONMENTS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = tried(*ENVIRONMENTS[name], Path(folder))
        print(f"{name}: {rows[name]} ({time.perf_counter() - start:.0f} s)", flush=True)
        if not chosen.quick:
            table = [[each, *rows[each]] for each in ENVIRONMENTS if each in rows]
            page = [
                "`python -m benchmarks.compatibility`",
                "# Pythons and versions",
                f'`pytest -m "not slow" {" ".join(TESTS)}` in fresh environments.',
                markdown_table(["Environment", "Python", *SHOWN, "Tests"], table),
            ]
            write_atomically(PAGE, "\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
