"""How fast the metrics are: against the bare model, naive loops, Quantus and captum, side by side.

All calls of a comparison alternate in one process; ratios are medians of those of a round, with
the lowest and the highest. Run ``python -m benchmarks.run --threads 1`` in the repository's root,
on a machine that does nothing else. It writes ``run.md`` and ``run.json``, unless only a part is
run: some sections by ``--only``, or less than a minute of them by ``--quick``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks.page import Page, options, parser
from benchmarks.speed.cold import cold
from benchmarks.speed.growth import growth
from benchmarks.speed.naive_loops import naive_loops
from benchmarks.speed.neighbours import against_captum, against_quantus
from benchmarks.speed.overhead import overhead
from benchmarks.speed.precision import precision
from benchmarks.speed.results import Scale, Section, summary
from benchmarks.speed.tolerance import tolerance
from benchmarks.timing import environment, write_atomically

PACKAGES = ("captum", "scikit-learn", "torchvision")

SECTIONS: dict[str, Callable[[Scale], Section]] = {
    "overhead": overhead,
    "naive": naive_loops,
    "quantus": against_quantus,
    "captum": against_captum,
    "tolerance": tolerance,
    "precision": precision,
    "growth": growth,
    "cold": cold,
}
"""What a run does, in this order; a section more is a line more."""


def main() -> None:
    made = parser("run", __doc__)
    made.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        metavar="NAME",
        default=[*SECTIONS],
        help=f"sections, of {', '.join(SECTIONS)}",
    )
    made.add_argument("--repeats", type=int, default=5, help="rounds that times are taken in (5)")
    chosen = options(made)
    # Trees have a pool of threads of their own.
    threadpool_limits(torch.get_num_threads())
    # Captum draws from torch's global generator.
    torch.manual_seed(0)
    # The libraries compared warn at every call, and that is not what is timed here.
    warnings.simplefilter("ignore")
    scale = Scale(chosen.quick, 1 if chosen.quick else chosen.repeats)
    partial = chosen.quick or len(chosen.only) < len(SECTIONS)
    page = Page("run", PACKAGES, quick=partial)
    sections: dict[str, Section] = {}
    for name in chosen.only:
        sections[name] = SECTIONS[name](scale)
        page.add(sections[name].title, *sections[name].to_markdown())
    page.lead(summary([*sections.values()]))
    if not partial:
        results = {
            "command": " ".join(["python -m benchmarks.run", *sys.argv[1:]]),
            "environment": environment(("torch", "numpy", "quantus", *PACKAGES)),
            "sections": {
                name: [entry.to_dict() for entry in section.entries]
                for name, section in sections.items()
            },
        }
        write_atomically(Path(__file__).with_suffix(".json"), json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
