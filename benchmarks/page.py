"""What every study has: options on the command line, and a page of results beside the script."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.timing import environment, write_atomically


def parser(
    script: str, description: str | None, **choices: Sequence[str]
) -> argparse.ArgumentParser:
    """Return the options that every study has, and those with ``choices``, the default first."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{script}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="a small part of it, and no file")
    made.add_argument("--threads", type=int, help="of torch; its own choice by default")
    for name, allowed in choices.items():
        made.add_argument(f"--{name}", choices=allowed, default=allowed[0])
    return made


def options(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line."""
    parsed = made.parse_args()
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    return parsed


class Page:
    """The results of a script, written beside it section by section unless it is a quick run."""

    def __init__(self, name: str, packages: Sequence[str], *, quick: bool) -> None:
        self._quick = quick
        self._path = Path(__file__).with_name(f"{name}.md")
        module = Path(sys.argv[0]).stem
        command = " ".join([f"python -m benchmarks.{module}", *sys.argv[1:]])
        versions = environment(("torch", "numpy", "scipy", "quantus", *packages))
        self._sections = [f"`{command}`", versions]
        self._start = time.perf_counter()

    def add(self, title: str, *paragraphs: str) -> None:
        """Print a section and keep it."""
        self.text("\n\n".join([f"## {title}", *paragraphs]))

    def text(self, section: str) -> None:
        """Print a section without a title of its own, and keep it."""
        print(f"{section}\n", flush=True)
        self._sections.append(section)
        if not self._quick:
            took = f"Took {time.perf_counter() - self._start:.0f} s."
            write_atomically(self._path, "\n\n".join([*self._sections, took]) + "\n")
