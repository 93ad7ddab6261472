"""Infidelity against Quantus, captum and the bare forward pass, side by side in one process.

Run ``python -m benchmarks.infidelity`` in the repository's root; ``--quick`` takes seconds and
writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import captum.metrics
import numpy as np
import quantus
import torch
from torch import Tensor, nn

import quantus_ext
from benchmarks.models import Case, cnn_on_noise, lenet_on_digits
from benchmarks.timing import (
    Ratio,
    alternate,
    counted,
    environment,
    markdown_table,
    ratio,
    write_atomically,
)

SIDE = 4
"""Of the patches, the default of Quantus's metric and ours."""

CAPTUM_CHUNKS = (None, 512, 64)
"""Captum's ``max_examples_per_batch``, its default first."""

BARE_CHUNKS = (16, 32, 64, 128, 256, 512, 1024)

Column = dict[str, str]


class Target(NamedTuple):
    """Least ratios of time to be reached."""

    quantus: float
    captum: float


def against_quantus(case: Case, repeats: int, target: Target) -> Column:
    """Compare default arguments with the scheme that gives the same score."""
    theirs = quantus.Infidelity(disable_warnings=True)
    ours = quantus_ext.Infidelity(scheme="quantus", disable_warnings=True)
    calls: dict[str, Callable[[], list[float]]] = {
        "theirs": lambda: theirs(case.model, case.x, case.y, case.a),
        "ours": lambda: ours(case.model, case.x, case.y, case.a),
    }
    their_rows, expected = counted(case.model, calls["theirs"])
    our_rows, scores = counted(case.model, calls["ours"])
    difference = float(np.max(np.abs(np.subtract(scores, expected) / expected)))
    if not difference <= 1e-4:
        raise AssertionError(f"{case.name}: scores differ from Quantus's by {difference:.1e}")
    seconds = alternate(calls, repeats)
    return {
        "`quantus.Infidelity()`": _seconds(seconds["theirs"]),
        '`quantus_ext.Infidelity(scheme="quantus")`': _seconds(seconds["ours"]),
        "**times as fast, same score**": _judged(
            ratio(seconds["theirs"], seconds["ours"]), target.quantus
        ),
        "largest relative difference of a score": f"{difference:.1e}",
        "evaluations, theirs / ours": _compared(their_rows, our_rows),
    }


def against_captum(case: Case, repeats: int, draws: int, target: Target) -> Column:
    """Compare the same number of draws of the same kind, captum as called and at its best."""
    ours = quantus_ext.Infidelity(n_perturb_samples=draws, disable_warnings=True)
    x, y, a = (torch.from_numpy(values) for values in (case.x, case.y, case.a))

    def our_scores() -> list[float]:
        return ours(case.model, case.x, case.y, case.a)

    def captum_in(chunk: int | None) -> Callable[[], Tensor]:
        return lambda: captum.metrics.infidelity(
            case.model,
            _black_patch,
            x,
            a,
            target=y,
            n_perturb_samples=draws,
            max_examples_per_batch=chunk,
        )

    theirs = {f"captum {chunk}": captum_in(chunk) for chunk in CAPTUM_CHUNKS}
    default, *others = theirs
    their_rows, expected = counted(case.model, theirs[default])
    for name in others:
        theirs[name]()
    our_rows, scores = counted(case.model, our_scores)
    deviation = (np.array(scores) - expected.numpy()) / ours.standard_errors
    seconds = alternate({**theirs, "ours": our_scores}, repeats)
    best = min(theirs, key=lambda name: statistics.median(seconds[name]))
    return {
        f"captum's `infidelity`, {draws} draws": _seconds(seconds[default]),
        "captum at its best `max_examples_per_batch`": (
            f"{_seconds(seconds[best])} ({best.removeprefix('captum ')})"
        ),
        f"`quantus_ext.Infidelity()`, {draws} draws": _seconds(seconds["ours"]),
        "**times as fast as captum by default**": _judged(
            ratio(seconds[default], seconds["ours"]), target.captum
        ),
        "times as fast as captum at its best": str(ratio(seconds[best], seconds["ours"])),
        "evaluations, captum / ours": _compared(their_rows, our_rows),
        # Two independent estimates, each with this standard error, are √2 of them apart.
        "difference from captum's scores in standard errors, root mean square (√2 expected)": (
            f"{np.sqrt(np.mean(deviation**2)):.2f}"
        ),
    }


def against_bare_forward(case: Case, repeats: int, draws: int, rows: int) -> Column:
    """Compare an evaluation's time with the model's alone, at its best chunk and layout."""
    ours = quantus_ext.Infidelity(n_perturb_samples=draws, disable_warnings=True)
    x = torch.from_numpy(np.resize(case.x, (rows, *case.x.shape[1:])))
    bare: dict[str, Callable[[], object]] = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        laid_out = torch.empty(x.shape, memory_format=layout).copy_(x)
        try:
            _bare_forward(case.model, laid_out, rows)
        except RuntimeError:
            # A model that views its activations takes the plain layout only.
            continue
        for chunk in BARE_CHUNKS:
            name = f"{chunk} rows, {str(layout).removeprefix('torch.')}"
            bare[name] = partial(_bare_forward, case.model, laid_out, chunk)
    search = alternate(bare, 2)
    best = min(bare, key=lambda name: min(search[name]))

    def evaluate() -> list[float]:
        return ours(case.model, case.x, case.y, case.a)

    evaluate()
    seconds = alternate({"bare": bare[best], "ours": evaluate}, repeats)
    evaluation = [s / ours.n_evaluations for s in seconds["ours"]]
    forward = [s / rows for s in seconds["bare"]]
    return {
        "an evaluation of ours": f"{statistics.median(evaluation) * 1e6:.1f} µs",
        "the bare forward pass of a row, best chunk and layout": (
            f"{statistics.median(forward) * 1e6:.1f} µs ({best})"
        ),
        "times as long as the bare forward pass": str(ratio(evaluation, forward)),
    }


def _black_patch(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``I`` and ``x - I``: in every row one window at random becomes the row's minimum."""
    n, _, height, width = inputs.shape
    top = torch.randint(height - SIDE + 1, (n, 1, 1, 1))
    left = torch.randint(width - SIDE + 1, (n, 1, 1, 1))
    row, column = torch.arange(height).reshape(1, 1, -1, 1), torch.arange(width)
    inside = (row >= top) & (row < top + SIDE) & (column >= left) & (column < left + SIDE)
    perturbed = torch.where(inside, inputs.amin((1, 2, 3), keepdim=True), inputs)
    return inputs - perturbed, perturbed


def _bare_forward(model: nn.Module, x: Tensor, chunk: int) -> None:
    with torch.inference_mode():
        for rows in x.split(chunk):
            model(rows)


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} s"


def _judged(measured: Ratio, least: float) -> str:
    verdict = "reached" if measured.median >= least else "MISSED"
    return f"**{measured}**, target {least:g}: {verdict}"


def _compared(theirs: int, ours: int) -> str:
    return f"{theirs:,} / {ours:,} = {theirs / ours:.2f}"


def run(quick: bool = False, repeats: int = 5) -> str:
    """Return the whole comparison as a markdown table."""
    lenet = lenet_on_digits(4 if quick else 64)
    cnn = cnn_on_noise(2 if quick else 16)
    draws, bare_rows = (20, 64) if quick else (200, 1024)
    columns = {}
    for case, target in ((lenet, Target(15, 1.5)), (cnn, Target(10, 1.8))):
        print(f"{case.name} …", file=sys.stderr)
        columns[case.name] = {
            "inputs": str(len(case.x)),
            **against_quantus(case, repeats, target),
            **against_captum(case, repeats, draws, target),
            **against_bare_forward(case, repeats, draws, bare_rows),
        }
    labels = next(iter(columns.values()))
    return markdown_table(
        ["", *columns],
        [[label, *(column[label] for column in columns.values())] for label in labels],
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.infidelity", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few inputs, one round, no file")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that times are taken in")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # Captum draws from torch's global generator.
    torch.manual_seed(0)
    # Quantus and captum warn at every call, and that is not what is timed here.
    warnings.simplefilter("ignore")
    table = run(arguments.quick, 1 if arguments.quick else arguments.repeats)
    print(table)
    if not arguments.quick:
        command = " ".join(["python -m benchmarks.infidelity", *sys.argv[1:]])
        text = (
            f"`{command}`\n\n{environment(('torch', 'numpy', 'quantus', 'captum'))}\n\n"
            "Times are medians; ratios are medians of pairs of times taken in turn, with the "
            f"lowest and the highest of {arguments.repeats}.\n\n{table}\n"
        )
        write_atomically(Path(__file__).with_suffix(".md"), text)


if __name__ == "__main__":
    main()
