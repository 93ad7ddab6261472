"""How fast the metrics are: against the bare model, naive loops, Quantus and captum, side by side.

All calls of a comparison alternate in one process; ratios are medians of those of a round, with
the lowest and the highest. Run ``python -m benchmarks.run --threads 1`` in the repository's root,
on a machine that does nothing else. Each section is written to ``run.json`` and ``run.md`` when it
is done, in place of the one that is known; ``--quick`` takes a minute and writes nothing.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks.page import options, parser
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


PATH = Path(__file__).with_suffix(".json")


def main() -> None:
    made = parser("run", __doc__)
    made.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        metavar="NAME",
        default=[*SECTIONS],
        help=f"sections, of {', '.join(SECTIONS)}; the others keep what is known of them",
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
    for name in chosen.only:
        section = SECTIONS[name](scale)
        print("\n\n".join([f"## {section.title}", *section.to_markdown()]), end="\n\n", flush=True)
        if not chosen.quick:
            keep(name, section)


def keep(name: str, section: Section) -> None:
    """Write a section in place of the one that is known, and the page of all of them."""
    results = json.loads(PATH.read_text()) if PATH.exists() else {}
    command = " ".join(["python -m benchmarks.run", *sys.argv[1:]])
    versions = environment(("torch", "numpy", "quantus", *PACKAGES))
    results[name] = {"command": command, "environment": versions, **section.to_dict()}
    results = {known: results[known] for known in SECTIONS if known in results}
    write_atomically(PATH, json.dumps(results, indent=1) + "\n")
    sections = {known: Section.of(result) for known, result in results.items()}
    about = (
        "What each command printed. Ratios are medians over rounds, with the lowest and highest."
    )
    page = [about, summary([*sections.values()])]
    for known, each in sections.items():
        how = f"`{results[known]['command']}`: {results[known]['environment']}"
        page += [f"## {each.title}", how, *each.to_markdown()]
    write_atomically(PATH.with_suffix(".md"), "\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
