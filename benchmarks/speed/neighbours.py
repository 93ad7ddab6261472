"""Infidelity and Deletion against what Quantus and captum have for the same."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import captum.metrics
import numpy as np
import quantus
import torch
from torch import Tensor

import quantus_ext
from benchmarks import naive
from benchmarks.models import Case, cnn_on_noise, lenet_on_digits
from benchmarks.speed.results import Entry, Scale, Section
from benchmarks.timing import alternate, counted, ratio

SIDE = 4
"""Of the patches, the default of Quantus's metric and ours."""

CAPTUM_CHUNKS = (None, 512, 64)
"""Captum's ``max_examples_per_batch``, its default first."""

SAME = 1e-4
"""Largest difference of what should be the same score or curve."""


class Load(NamedTuple):
    """A case, for how many inputs each comparison is made, steps, and least ratios of time."""

    make: Callable[[int], Case]
    n: int
    n_flipped: int
    steps: int
    quantus: float
    captum: float


LOADS = (
    Load(lenet_on_digits, 64, 128, 28, 25, 1.8),
    Load(cnn_on_noise, 8, 32, 48, 20, 3),
)


def against_quantus(scale: Scale) -> Section:
    """Compare Infidelity with the scheme that gives the same score, and Deletion's curve."""
    entries = []
    for load in LOADS[:1] if scale.quick else LOADS:
        print(f"Quantus: {load.make.__name__} …", file=sys.stderr)
        n, n_flipped = (2, 8) if scale.quick else (load.n, load.n_flipped)
        entries += [
            *quantus_infidelity(load.make(n), scale.repeats, load.quantus),
            *_pixel_flipping(load.make(n_flipped), load.steps, scale.repeats),
        ]
    return Section(
        "Quantus",
        "Default arguments of `quantus.Infidelity` and the scheme that gives the same score; "
        "`quantus.PixelFlipping` and `Deletion` on the same steps of channel values.",
        entries,
    )


def against_captum(scale: Scale) -> Section:
    """Compare as many draws of the same kind, captum as called and at its best."""
    entries = []
    for load in LOADS[:1] if scale.quick else LOADS:
        print(f"captum: {load.make.__name__} …", file=sys.stderr)
        n, draws = (2, 20) if scale.quick else (load.n, 200)
        entries += captum_infidelity(load.make(n), scale.repeats, draws, load.captum)
    return Section(
        "captum",
        "Equal numbers of draws of the same kind. captum gives no standard errors; those of the "
        "naive loop's draws are used instead.",
        entries,
    )


def quantus_infidelity(case: Case, repeats: int, target: float | None) -> list[Entry]:
    """Compare the scheme that gives the same score."""
    theirs = quantus.Infidelity(disable_warnings=True)
    ours = quantus_ext.Infidelity(scheme="quantus", disable_warnings=True)
    calls: dict[str, Callable[[], list[float]]] = {
        "theirs": lambda: theirs(case.model, case.x, case.y, case.a, device=str(case.device)),
        "ours": lambda: ours(case.model, case.x, case.y, case.a),
    }
    their_rows, expected = counted(case.model, calls["theirs"])
    our_rows, scores = counted(case.model, calls["ours"])
    difference = float(np.max(np.abs(np.subtract(scores, expected) / expected)))
    seconds = alternate(calls, repeats)
    return [
        Entry(
            '`Infidelity(scheme="quantus")`, times as fast as `quantus.Infidelity()`',
            case.name,
            ratio(seconds["theirs"], seconds["ours"]),
            target,
            seconds=seconds,
            rows={"theirs": their_rows, "ours": our_rows},
            notes={"inputs": len(case.x)},
        ),
        _same("`quantus.Infidelity`: largest relative difference of a score", case, difference),
    ]


def _pixel_flipping(case: Case, steps: int, repeats: int) -> list[Entry]:
    theirs = quantus.PixelFlipping(
        features_in_step=case.x[0].size // steps,
        perturb_baseline=0.0,
        abs=False,
        normalise=False,
        disable_warnings=True,
    )
    ours = quantus_ext.Deletion(steps, element="channel_value")
    explained = (case.model, case.x, case.y, case.a)
    calls: dict[str, Callable[[], list[float]]] = {
        "theirs": lambda: theirs(*explained, softmax=True, device="cpu"),
        "ours": lambda: ours(*explained),
    }
    their_rows, curves = counted(case.model, calls["theirs"])
    our_rows, _ = counted(case.model, calls["ours"])
    difference = float(np.abs(ours.details["curve"][:, 1:] - np.array(curves)).max())
    seconds = alternate(calls, repeats)
    return [
        Entry(
            "`Deletion`, times as fast as `quantus.PixelFlipping`",
            case.name,
            ratio(seconds["theirs"], seconds["ours"]),
            seconds=seconds,
            rows={"theirs": their_rows, "ours": our_rows},
            notes={"inputs": len(case.x), "steps": steps},
        ),
        _same("`quantus.PixelFlipping`: largest difference of a curve", case, difference),
    ]


def _same(what: str, case: Case, difference: float) -> Entry:
    return Entry(what, case.name, difference, SAME, at_most=True, headline=False)


def captum_infidelity(case: Case, repeats: int, draws: int, target: float | None) -> list[Entry]:
    """Compare as many draws of the same kind."""
    ours = quantus_ext.Infidelity(n_perturb_samples=draws, disable_warnings=True)
    x, a, y = case.tensors()

    def captum_in(chunk: int | None) -> Callable[[], Tensor]:
        return lambda: captum.metrics.infidelity(
            case.model,
            _black_patch,
            x,
            a,
            target=y,
            n_perturb_samples=draws,
            max_examples_per_batch=chunk,
        ).cpu()

    theirs = {f"captum {chunk}": captum_in(chunk) for chunk in CAPTUM_CHUNKS}
    calls: dict[str, Callable[[], object]] = {
        **theirs,
        "ours": lambda: ours(case.model, case.x, case.y, case.a),
    }
    default, *others = theirs
    their_rows, expected = counted(case.model, theirs[default])
    for name in others:
        theirs[name]()
    our_rows, _ = counted(case.model, calls["ours"])
    chance = naive.infidelity(
        case.model, x, a, y, side=SIDE, n_draws=draws, generator=torch.Generator().manual_seed(1)
    )
    joint = np.hypot(ours.standard_errors, chance.error.cpu().numpy())
    deviation = np.abs(ours.details["infidelity"] - expected.numpy()) / joint
    seconds = alternate(calls, repeats)
    best = min(theirs, key=lambda name: statistics.median(seconds[name]))
    rows = {"captum": their_rows, "ours": our_rows}

    def entry(what: str, name: str, least: float | None) -> Entry:
        return Entry(
            f"`Infidelity()`, times as fast as captum's, {what}",
            case.name,
            ratio(seconds[name], seconds["ours"]),
            least,
            seconds={"captum": seconds[name], "ours": seconds["ours"]},
            rows=rows,
            notes={
                "inputs": len(case.x),
                "draws": draws,
                "`max_examples_per_batch`": name.removeprefix("captum "),
            },
        )

    return [
        entry("by default", default, target),
        entry("at its best `max_examples_per_batch`", best, None),
        Entry(
            "captum: difference of scores in joint standard errors, root mean square (1 expected)",
            case.name,
            float(np.sqrt(np.mean(deviation**2))),
            headline=False,
        ),
    ]


def _black_patch(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``I`` and ``x - I``: in every row one window at random becomes the row's minimum."""
    n, _, height, width = inputs.shape
    device = inputs.device
    top = torch.randint(height - SIDE + 1, (n, 1, 1, 1), device=device)
    left = torch.randint(width - SIDE + 1, (n, 1, 1, 1), device=device)
    row = torch.arange(height, device=device).reshape(1, 1, -1, 1)
    column = torch.arange(width, device=device)
    inside = (row >= top) & (row < top + SIDE) & (column >= left) & (column < left + SIDE)
    perturbed = torch.where(inside, inputs.amin((1, 2, 3), keepdim=True), inputs)
    return inputs - perturbed, perturbed
