"""Deletion against Quantus's Pixel-Flipping on the same steps, in one process.

Run ``python -m benchmarks.removal_speed`` in the repository's root.
"""

from __future__ import annotations

import statistics

import numpy as np
import quantus

from benchmarks.models import Case, cnn_on_noise, lenet_on_digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import alternate, counted, markdown_table, ratio
from quantus_ext import ABPC, Deletion, LeRF, MoRF


def against_pixel_flipping(case: Case, steps: int, repeats: int) -> list[str]:
    """Compare times and curves of the two."""
    values = case.x[0].size
    theirs = quantus.PixelFlipping(
        features_in_step=values // steps,
        perturb_baseline=0.0,
        abs=False,
        normalise=False,
        disable_warnings=True,
    )
    ours = Deletion(steps, element="channel_value")
    explained = (case.model, case.x, case.y, case.a)
    calls = {
        "theirs": lambda: theirs(*explained, softmax=True, device="cpu"),
        "ours": lambda: ours(*explained),
    }
    their_rows, curves = counted(case.model, calls["theirs"])
    our_rows, _ = counted(case.model, calls["ours"])
    difference = float(np.abs(ours.details["curve"][:, 1:] - np.array(curves)).max())
    if not difference <= 1e-4:
        raise AssertionError(f"{case.name}: curves differ from Quantus's by {difference:.1e}")
    seconds = alternate(calls, repeats)
    return [
        case.name,
        f"{len(case.x)} × {steps}",
        f"{statistics.median(seconds['theirs']):.2f}",
        f"{statistics.median(seconds['ours']):.2f}",
        f"**{ratio(seconds['theirs'], seconds['ours'])}**",
        f"{their_rows:,} / {our_rows:,}",
        f"{difference:.0e}",
    ]


def shared_evaluations(case: Case, steps: int) -> list[str]:
    """Count what ABPC costs beside its two halves."""
    rows = {}
    for metric in (MoRF(steps), LeRF(steps), ABPC(steps)):
        metric(case.model, case.x, case.y, case.a)
        rows[metric.name] = metric.n_evaluations / len(case.x)
    return [case.name, *(f"{rows[name]:.0f}" for name in ("MoRF", "LeRF", "ABPC"))]


def main() -> None:
    chosen = options(parser("removal_speed", __doc__))
    n, repeats = (16, 2) if chosen.quick else (128, 7)
    cases = ((lenet_on_digits(n), 28), (cnn_on_noise(n), 48))
    header = ["", "inputs × steps", "theirs, s", "ours, s", "times as fast", "rows", "difference"]
    text = (
        "`quantus.PixelFlipping` and `Deletion` on the same steps of channel values, the same "
        "curves. Medians with lowest and highest; rows through the model, theirs / ours; largest "
        "difference of a curve.\n\n"
        f"{markdown_table(header, [against_pixel_flipping(*case, repeats) for case in cases])}\n\n"
        "Evaluations a sample: both ends of the two curves are shared.\n\n"
        + markdown_table(
            ["", "MoRF", "LeRF", "ABPC"], [shared_evaluations(*case) for case in cases]
        )
    )
    Page("removal_speed", ("mlxtend",), quick=chosen.quick).text(text)


if __name__ == "__main__":
    main()
