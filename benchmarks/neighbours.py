"""What metrics of the same names give elsewhere, on a linear model whose answers are known.

Each library is installed, pinned, in an environment of its own in a temporary folder, and asked
there, without this package, what ``neighbour_probes.py`` has for it. The model is
f(x) = 1 - w·x, w·x for the two classes, with a hundred features that are 1: with equal w, each
removal takes the same from the output, a straight line whose area is 0.5; with others, w is the
exact map. What this package gives stands beside it.
Run ``python -m benchmarks.neighbours`` in the repository's root; it writes ``docs/neighbours.md``.
Each environment gets torch: with ``uv`` on the path in minutes and with one copy on the disk, with
pip in much more. With ``--here`` the environments see the packages of the running one, and get
nothing but theirs; that is enough for some of the libraries.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.stats import kendalltau
from torch import nn

import quantus_ext
from benchmarks.neighbour_probes import COMMON, LIBRARIES, TELL, Library
from benchmarks.page import options, parser
from benchmarks.timing import markdown_table, write_atomically

N = 100
PAGE = Path(__file__).parents[1] / "docs" / "neighbours.md"


class Row(NamedTuple):
    """A figure: what it comes from, and what this package gives."""

    library: str
    key: str
    metric: str
    formula: str
    expected: Callable[[], float]
    ours: Callable[[], float] | None
    why: str = ""
    """Why this package gives nothing of the kind."""


class Habit(NamedTuple):
    """How a library's metric treats ties, a batch and global seeds."""

    library: str
    key: str
    metric: str
    ties: Callable[[np.ndarray], float] | None
    """The score of a map of one value, from the weights; ``None`` if draws decide it."""
    which: str
    batch: str
    seed: str
    about: float = 6e-4
    """To what share the formula is met: draws remain in some."""


class Linear(nn.Module):
    """1 - w·x and w·x."""

    def __init__(self, w: np.ndarray) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(w, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return both."""
        y = x.flatten(1) @ self.w
        return torch.stack([1 - y, y], 1)


STRAIGHT, SLOPED = np.full(N, 1 / N), np.linspace(2, 0, N) / N
FALLING, RISING = SLOPED, SLOPED[::-1].copy()
FIRST, LAST = np.arange(N), np.arange(N)[::-1]
TENS = range(0, N + 1, 10)
ORDER = np.random.default_rng(0).permutation(N).astype(np.float32).reshape(1, 1, 10, 10)
X = np.ones((1, 1, 10, 10), dtype=np.float32)
FLAT = np.full_like(X, 0.5)
WIDE = 3 * ORDER / ORDER.max()
EXACT = SLOPED.astype(np.float32).reshape(X.shape)
WORDS = np.linspace(2, 0, 10) / 10


def ours(
    metric: quantus_ext.base.TorchMetric,
    w: np.ndarray = STRAIGHT,
    a: np.ndarray = ORDER,
    x: np.ndarray = X,
) -> float:
    """Return the score of this package, of the last picture if there are several."""
    call = (Linear(w).eval(), x, np.ones(len(x), dtype=int), a.reshape(x.shape))
    return float(metric(*call, softmax=False)[-1])


def our_end() -> float:
    """Return the output of this package's last state, everything removed."""
    metric = quantus_ext.Deletion(10)
    ours(metric)
    return float(metric.details["curve"][0, -1])


def our_infidelity(scale: float) -> float:
    """Return what this package gives for a multiple of the exact map, one feature at a time."""
    metric = quantus_ext.Infidelity(perturb_patch_sizes=[1], perturb_baseline=0.0)
    return ours(metric, SLOPED, scale * SLOPED.astype(np.float32))


def our_correlation(a: np.ndarray) -> float:
    """Return the correlation that this package gives for the sums and drops of subsets."""
    options = {"scheme": "subset", "subset_fraction": 0.2, "multiply_by_inputs": True}
    metric = quantus_ext.Infidelity(perturb_baseline=0.0, **options)
    ours(metric, SLOPED, a)
    return float(metric.details["correlation"][0])


def our_fidelity(name: str, w: np.ndarray, a: np.ndarray) -> float:
    """Return the mean drop with words removed, "plus", or kept, "minus"."""
    metric = quantus_ext.Fidelity(list(TENTHS[1:]), output="probability")
    ours(metric, w, a.astype(np.float32), np.ones((1, 1, 1, len(w)), dtype=np.float32))
    return float(metric.details[name][0])


def infidelity(scale: float) -> float:
    """Return the mean of ((s - 1) w·I)² for I of one feature."""
    return float(((scale - 1) ** 2 * SLOPED**2).mean())


def line(points: np.ndarray) -> np.ndarray:
    """Return the straight line at these shares of removed features."""
    return 1 - points


def left(w: np.ndarray, ranked: np.ndarray, counts: Iterable[int]) -> np.ndarray:
    """Return the output after the removal of the first so many."""
    return w.sum() - np.concatenate([[0], np.cumsum(w[ranked])])[list(counts)]


def area(points: np.ndarray) -> float:
    """Return the mean height of a line through points of equal distance."""
    return float((points[1:] + points[:-1]).mean() / 2)


def mean_left(ranked: np.ndarray, *counts: int) -> Callable[[np.ndarray], float]:
    """Return the mean output over these counts, for any weights."""
    return lambda w: float(left(w, ranked, counts).mean())


def words(w: np.ndarray) -> np.ndarray:
    """Return the weights of ten words."""
    return w.reshape(10, 10).sum(1)


TENTHS = np.linspace(0, 1, 11)
ROWS = (
    Row(
        *("quantus 0.6.0", "mean up", 'PixelFlipping, `perturb_baseline="mean"`: end of the curve'),
        "[1, 2, 3, 10], the largest first, each becomes the mean of what is there",
        lambda: _flipped([3, 2, 1, 0]),
        lambda: 16.0,
    ),
    Row(
        *("quantus 0.6.0", "mean down", "the same, the smallest first"),
        "as above; everything replaced by the mean picture sums to 16",
        lambda: _flipped([0, 1, 2, 3]),
        lambda: 16.0,
    ),
    Row(
        *("quantus 0.6.0", "black", 'PixelFlipping, `perturb_baseline="black"`: end of the curve'),
        "the least value of the picture, here 1: nothing is removed",
        lambda: 1.0,
        lambda: our_end(),
    ),
    Row(
        *("quantus 0.6.0", "monotonicity exact", "Monotonicity of the exact map"),
        "the baseline is replaced by itself: 1 for every map",
        lambda: 1.0,
        None,
        "removal curves are areas here",
    ),
    Row(
        *("quantus 0.6.0", "monotonicity turned", "Monotonicity of its negative"),
        "as above",
        lambda: 1.0,
        None,
        "removal curves are areas here",
    ),
    Row(
        *("quantus 0.6.0", "integrated gradients", "sum of Integrated Gradients, exact 1"),
        "weights of the trapezoid rule, 1 - 1/10",
        lambda: 1 - 1 / 10,
        None,
        "explainers are captum's",
    ),
    *(
        Row(
            *("captum 0.9.0", f"trapezoid {n}", f"sum of `riemann_trapezoid`, {n} steps, exact 1"),
            f"1 - 1/{n}",
            lambda n=n: 1 - 1 / n,
            None,
            "explainers are captum's",
        )
        for n in (2, 10, 50)
    ),
    Row(
        *("captum 0.9.0", "default", "sum of the default rule"),
        "exact for linear models",
        lambda: 1.0,
        None,
        "explainers are captum's",
    ),
    Row(
        *("captum 0.9.0", "deeplift", "DeepLift of GELU at 1, baseline 0; f(1) - f(0) is 0.8413"),
        "the derivative of GELU at 1",
        lambda: _gelu_slope(),
        None,
        "explainers are captum's",
    ),
    *(
        Row(
            *("captum 0.9.0", f"infidelity {name}", f"Infidelity, one feature at a time, {what}"),
            "mean of ((s - 1) w)², s the factor of the map",
            lambda s=s: infidelity(s),
            lambda s=s: our_infidelity(s),
        )
        for name, what, s in (
            ("exact", "exact map", 1.0),
            ("zeros", "map of zeros", 0.0),
            ("turned", "its negative", -1.0),
        )
    ),
    *(
        Row(
            *("pnpxai 0.1.4", kind, f"{kind}, 10 steps, straight line"),
            "mean of ten points, after 0 to 80 % and after all",
            lambda: float(line(np.append(TENTHS[:9], 1)).mean()),
            (lambda: ours(quantus_ext.MoRF(10)))
            if kind == "MoRF"
            else (lambda: ours(quantus_ext.LeRF(10))),
        )
        for kind in ("MoRF", "LeRF")
    ),
    Row(
        *("pnpxai 0.1.4", "uniform", "Complexity of a uniform map"),
        "entropy of a histogram of values: all in one bin",
        lambda: 0.0,
        None,
        "no such metric",
    ),
    *(
        Row(
            *("torchcam 0.5.0", key, f"{key}, straight line"),
            "trapezoid over the share removed",
            lambda: 0.5,
            ours_of,
        )
        for key, ours_of in (
            ("deletion_auc", lambda: ours(quantus_ext.Deletion(20))),
            ("insertion_auc", lambda: ours(quantus_ext.Insertion(20))),
        )
    ),
    Row(
        *("torchcam 0.5.0", "sloped deletion_auc", "deletion of the exact map"),
        "trapezoid over the share removed, the largest weights first",
        lambda: _sloped_deletion(),
        lambda: ours(quantus_ext.Deletion(20), SLOPED, np.arange(N, 0, -1, dtype=np.float32)),
    ),
    *(
        Row(
            *("attribench 0.1.9", f"deletion {n}", f"deletion, {n} points, straight line"),
            f"mean of what is left after floor(i/{n - 1} of 100), i = 0 … {n - 1}",
            lambda n=n: float(line(np.floor(np.linspace(0, 1, n) * N) / N).mean()),
            lambda n=n: ours(quantus_ext.Deletion(n - 1)),
        )
        for n in (11, 100)
    ),
    *(
        Row(
            *("attribench 0.1.9", f"zeros {name}", f"Infidelity of zeros, squares of 25, {what}"),
            which,
            lambda effect=effect: effect,
            None,
            "a picture by itself",
        )
        for name, what, which, effect in (
            ("alone", "a picture of ones", "clipped to the batch's range: nothing changes", 0.0),
            ("beside", "the same beside one from 0 to 3", "mean of (5 · 5 / 100)²", 0.25**2),
        )
    ),
    *(
        Row(
            *("torchxai-tools 0.1.3", f"infidelity {name}", f"Infidelity by default, {what}"),
            "normalised: neither factor nor sign of a map counts",
            lambda: 0.0,
            lambda s=s: our_infidelity(s),
        )
        for name, what, s in (
            ("exact", "exact map", 1.0),
            ("turned", "its negative", -1.0),
            ("hundredfold", "a hundred times it", 100.0),
        )
    ),
    Row(
        *("grad-cam 1.5.7", "imputed many zeros", "ROAD at 80 %, map with 5 of 100 values"),
        "share of the picture replaced: all values at or above a threshold of 0",
        lambda: 1.0,
        None,
        "a share is that share here, ties by seed",
    ),
    Row(
        *("grad-cam 1.5.7", "imputed no ties", "the same, map without ties"),
        "share of the picture replaced",
        lambda: 0.2,
        None,
        "a share is that share here, ties by seed",
    ),
    Row(
        *("torch_geometric 2.8.1", "characterization", "characterization_score, fid+ .8, fid- .2"),
        "harmonic mean of .8 and 1 - .2",
        lambda: 1 / (0.5 / 0.8 + 0.5 / (1 - 0.2)),
        None,
        "both fidelities and their gap are given",
    ),
    Row(
        *("torch_geometric 2.8.1", "curve auc", "fidelity_curve_auc, fid+ 1, 1; fid- 0, .5"),
        "trapezoid of fid+ / (1 - fid-)",
        lambda: (1 / 1 + 1 / 0.5) / 2,
        None,
        "no such curve",
    ),
    *(
        Row(
            *("xplique 2.0.2", kind, f"{kind}, 10 steps, straight line"),
            "trapezoid over the steps",
            lambda: 0.5,
            (lambda: ours(quantus_ext.Deletion(10)))
            if kind == "Deletion"
            else (lambda: ours(quantus_ext.Insertion(10))),
        )
        for kind in ("Deletion", "Insertion")
    ),
    Row(
        *("xplique 2.0.2", "3 steps", "Deletion, 3 steps, straight line"),
        "after 0, 33, 66 and 100, as if they were equally far apart",
        lambda: area(left(STRAIGHT, FIRST, [0, 33, 66, 100])),
        lambda: ours(quantus_ext.Deletion(3)),
    ),
    Row(
        *("xplique 2.0.2", "half", "Deletion, `max_percentage_perturbed=0.5`"),
        "area of the first half, over a half",
        lambda: area(left(STRAIGHT, FIRST, range(0, 51, 5))),
        None,
        "a curve ends with all removed",
    ),
    *(
        Row(
            *("xplique 2.0.2", f"Deletion {name}", f"Deletion of {what}"),
            which,
            lambda ranked=ranked: area(left(SLOPED, ranked, TENS)),
            lambda a=a: ours(quantus_ext.Deletion(10), SLOPED, a),
        )
        for name, what, which, ranked, a in (
            ("exact", "the exact map", "the largest first", FIRST, EXACT),
            ("turned", "its negative", "by sign: the smallest first", LAST, -EXACT),
        )
    ),
    *(
        Row(
            *("xplique 2.0.2", f"MuFidelity {name}", f"MuFidelity of {what}"),
            which,
            lambda s=s: s,
            lambda s=s: our_correlation(s * EXACT),
        )
        for name, what, which, s in (
            ("exact", "the exact map", "Spearman's correlation of sums and drops", 1.0),
            ("turned", "its negative", "as above", -1.0),
            ("zeros", "a map of zeros", "a correlation that does not exist becomes 0", 0.0),
        )
    ),
    *(
        Row(
            *("xplique 2.0.2", f"drop {name}", f"AverageDrop of {what}"),
            "the mask is the size of the values, from 0 at the least to 1 at the largest",
            lambda a=a: masked_drop(a),
            lambda a=a: ours(quantus_ext.AverageDrop(), SLOPED, a),
        )
        for name, what, a in (
            ("exact", "the exact map", EXACT),
            ("turned", "its negative", -EXACT),
            ("flat", "a map of one value", FLAT),
        )
    ),
    Row(
        *("xplique 2.0.2", "complexity", "Complexity of a uniform map"),
        "entropy of the shares: the logarithm of 100",
        lambda: float(np.log(N)),
        None,
        "no such metric",
    ),
    Row(
        *("xplique 2.0.2", "sparseness", "Sparseness of a uniform map"),
        "Gini's index",
        lambda: 0.0,
        None,
        "no such metric",
    ),
    *(
        Row(
            *("InterpretDL 0.8.0", key, f"{metric}, 10 steps, straight line"),
            which,
            lambda counts=counts: float(left(STRAIGHT, FIRST, counts).mean()),
            lambda own=own: ours(own),
        )
        for key, metric, which, counts, own in (
            (
                *("MoRF", "MoRF", "mean of what is left after 0, 10 … 90 and 99, never all"),
                *([*TENS[:-1], 99], quantus_ext.MoRF(10)),
            ),
            (
                *("LeRF", "LeRF", "mean of what is left after 0, again 0, 10 … 90"),
                *([0, *TENS[:-1]], quantus_ext.LeRF(10)),
            ),
            (
                *("deletion", "deletion_score", "as MoRF"),
                *([*TENS[:-1], 99], quantus_ext.Deletion(10)),
            ),
            (
                *(
                    "insertion",
                    "insertion_score",
                    "mean with 10 … 90, 99 and all there, never none",
                ),
                *([*range(90, 0, -10), 1, 0], quantus_ext.Insertion(10)),
            ),
        )
    ),
    *(
        Row(
            *("InterpretDL 0.8.0", f"MoRF {name}", f"MoRF of {what}"),
            which,
            lambda ranked=ranked: float(left(SLOPED, ranked, [*TENS[:-1], 99]).mean()),
            lambda a=a: ours(quantus_ext.MoRF(10), SLOPED, a),
        )
        for name, what, which, ranked, a in (
            ("exact", "the exact map", "what is left: lower is better", FIRST, EXACT),
            ("turned", "its negative", "by sign", LAST, -EXACT),
            (
                *("channels", "its negative, in three equal channels"),
                *("by the sum of the sizes: as the exact map", FIRST, -EXACT),
            ),
        )
    ),
    *(
        Row(
            *("InterpretDL 0.8.0", f"infidelity {name}", f"Infidelity by default, {what}"),
            "scaled by what fits best, so neither factor nor sign of a map counts",
            lambda: 0.0,
            lambda s=s: our_infidelity(s),
        )
        for name, what, s in (
            ("exact", "exact map", 1.0),
            ("turned", "its negative", -1.0),
            ("hundredfold", "a hundred times it", 100.0),
        )
    ),
    *(
        Row(
            *("InterpretDL 0.8.0", f"infidelity {name}", f"Infidelity of zeros, {what}"),
            which,
            lambda share=share: square_effects(share),
            None,
            "a call knows nothing of the last",
        )
        for name, what, which, share in (
            ("zeros", "64 × 64 pixels", "mean square of what squares of 32 and 64 take away", 1.0),
            (
                *("next", "then a picture of half the brightness"),
                *("the outputs of the first picture, kept", 1.0),
            ),
            ("again", "the same, `recompute=True`", "a quarter", 0.5),
        )
    ),
    *(
        Row(
            *("ferret-xai 0.4.2", f"{metric}{case}", f"{metric}, {what}"),
            which[part],
            lambda removed=removed, part=part: float(np.mean([removed, 1 - removed][part])),
            lambda part=part, w=w, a=a: our_fidelity(("plus", "minus")[part], w, a),
        )
        for part, metric in enumerate(("comprehensiveness", "sufficiency"))
        for case, what, which, removed, w, a in (
            (
                *("", "ten words of equal weight"),
                (
                    "mean drop after 1 to 10 words, without the clean text",
                    "the same, but these kept",
                ),
                *(TENTHS[1:], np.full(10, 0.1), np.arange(10, 0, -1)),
            ),
            (
                *(" five", "five words"),
                ("1, 1, 2, 2 … 5 words: each number once", "the same, but these kept"),
                *(TENTHS[2::2], np.full(5, 0.2), np.arange(5, 0, -1)),
            ),
            (
                *(" three", "ten words, three with positive values"),
                ("only positive words go: 1, 2 and 3", "the same, but these kept"),
                *(TENTHS[1:4], np.full(10, 0.1), np.arange(3, -7, -1)),
            ),
            (
                *(" negative", "ten words, none with a positive value"),
                ("nothing to remove: 0", "nothing to keep: 1"),
                *(np.zeros(1), np.full(10, 0.1), -np.arange(10, 0, -1)),
            ),
        )
    ),
    *(
        Row(
            *("ferret-xai 0.4.2", f"tau {name}", f"taucorr_loo of {what}"),
            which,
            lambda effects=effects, a=a: float(kendalltau(effects, a).statistic),
            None,
            "no such metric",
        )
        for name, what, which, effects, a in (
            ("exact", "the exact map", "Kendall's correlation with leaving out", WORDS, WORDS),
            ("turned", "its negative", "by sign", WORDS, -WORDS),
            ("even", "words of equal weight", "all effects tie", np.ones(10), np.arange(10)),
        )
    ),
    *(
        Row(
            *("autotimm 0.7.37", f"deletion {steps}", f"deletion, {steps} steps, straight line"),
            which,
            lambda steps=steps: area(left(STRAIGHT, FIRST, np.arange(steps + 1) * (N // steps))),
            lambda steps=steps: ours(quantus_ext.Deletion(steps)),
        )
        for steps, which in (
            (10, "trapezoid over the steps"),
            (60, "100 // 60 is 1 a step: 40 stay"),
            (200, "100 // 200 is 0 a step: all stay"),
        )
    ),
    Row(
        *("autotimm 0.7.37", "final_drop 60", "its final_drop, 60 steps"),
        "share of the original output that is gone",
        lambda: 0.6,
        lambda: 1 - our_end(),
    ),
    Row(
        *("autotimm 0.7.37", "insertion 60", "insertion, 60 steps, straight line"),
        "40 never come",
        lambda: area(1 - left(STRAIGHT, FIRST, range(61))),
        lambda: ours(quantus_ext.Insertion(60)),
    ),
    Row(
        *(
            "autotimm 0.7.37",
            "deletion half",
            "deletion, 10 steps, a picture of half the brightness",
        ),
        "divided by the original output, .5",
        lambda: area(left(STRAIGHT / 2, FIRST, TENS)) / 0.5,
        lambda: ours(quantus_ext.Deletion(10), x=X / 2),
    ),
    *(
        Row(
            *("autotimm 0.7.37", f"deletion {name}", f"deletion of {what}"),
            which,
            lambda ranked=ranked: area(left(SLOPED, ranked, TENS)),
            lambda a=a: ours(quantus_ext.Deletion(10), SLOPED, a),
        )
        for name, what, which, ranked, a in (
            ("exact", "the exact map", "the largest first", FIRST, EXACT),
            ("turned", "its negative", "by sign: the smallest first", LAST, -EXACT),
        )
    ),
    *(
        Row(
            *("autotimm 0.7.37", f"randomised {name}", f"parameter randomisation passed, {what}"),
            "correlation, with its sign, below .5",
            lambda r=r: float(r < 0.5),
            None,
            "no such metric",
        )
        for name, what, r in (
            ("same", "if the map stays", 1.0),
            ("turned", "if its sign turns", -1.0),
        )
    ),
)

FIRST_GO, LAST_GO = "the first places go first", "the last places go first"
HABITS = (
    Habit(
        *("quantus 0.6.0", "PixelFlipping", "PixelFlipping, area of ten steps"),
        lambda w: float(trapezoid(left(w, FIRST, TENS[1:]))),
        f"{FIRST_GO}; refused alone, here beside another map; not divided by the steps",
        *("as alone", "none"),
    ),
    Habit(
        *("quantus 0.6.0", "FaithfulnessEstimate", "FaithfulnessEstimate"),
        lambda w: np.nan,
        "no correlation; refused alone",
        *("as alone", "none"),
    ),
    Habit(
        *("quantus 0.6.0", "FaithfulnessCorrelation", "FaithfulnessCorrelation"),
        lambda w: np.nan,
        "no correlation; refused alone",
        *("not as alone", "numpy's"),
    ),
    Habit(
        *("pnpxai 0.1.4", "MoRF", "MoRF"),
        mean_left(FIRST, *TENS[:9], N),
        FIRST_GO,
        *("as alone", "none"),
    ),
    Habit(
        *("pnpxai 0.1.4", "MuFidelity", "MuFidelity"),
        lambda w: np.nan,
        "no correlation: subsets of one size",
        *("not as alone", "torch's"),
    ),
    Habit(
        *("torchcam 0.5.0", "deletion", "deletion_auc"),
        lambda w: area(left(w, FIRST, range(0, N + 1, 5))),
        FIRST_GO,
        *("only the mean", "none"),
    ),
    Habit(
        *("attribench 0.1.9", "deletion", "deletion"),
        mean_left(LAST, *TENS),
        LAST_GO,
        *("as alone", "none"),
    ),
    Habit(
        *("attribench 0.1.9", "squares", "Infidelity, squares"),
        lambda w: 0.0,
        "a picture of one value cannot change: clipped to the batch's range",
        *("not as alone", "its own, new each time"),
    ),
    Habit(
        *("attribench 0.1.9", "noise", "Infidelity, noise"),
        lambda w: 0.0,
        "as above",
        *("not as alone", "torch's"),
    ),
    Habit(
        *("torchxai-tools 0.1.3", "abpc", "abpc"),
        lambda w: 0.0,
        "both orders break ties alike",
        *("as alone", "none"),
    ),
    Habit(
        *("torchxai-tools 0.1.3", "infidelity", "infidelity"),
        None,
        "noise of .003: next to 0 whatever the map",
        *("not as alone", "torch's"),
    ),
    Habit(
        *("torchxai-tools 0.1.3", "faithfulness_corr", "faithfulness_corr"),
        lambda w: np.nan,
        "no correlation",
        *("not as alone", "torch's"),
    ),
    Habit(
        *("grad-cam 1.5.7", "road", "ROADMostRelevantFirst, 80 %"),
        lambda w: float(left(w, FIRST, [N])[0] - w.sum()),
        "everything is imputed, with nothing to impute from",
        *("not as alone", "torch's"),
        0.005,
    ),
    Habit(
        *("xplique 2.0.2", "Deletion", "Deletion"),
        lambda w: area(left(w, LAST, TENS)),
        LAST_GO,
        *("only the mean", "none"),
    ),
    Habit(
        *("xplique 2.0.2", "MuFidelity", "MuFidelity"),
        lambda w: rank_of_linear(w.mean() / np.sqrt((w**2).mean())),
        "size of the subset, which varies, against the drop",
        *("only the mean", "tensorflow's"),
        0.05,
    ),
    *(
        Habit(
            *("InterpretDL 0.8.0", key, metric),
            lambda w, all_there=all_there: mean_left(FIRST, *all_there)(w),
            which,
            *("one a call", "none"),
        )
        for key, metric, all_there, which in (
            ("MoRF", "MoRF", [0], "nothing is removed"),
            ("LeRF", "LeRF", [0], "nothing is removed"),
            ("deletion", "deletion_score", [0], "nothing is removed"),
            (
                *("insertion", "insertion_score"),
                *([N] * 10 + [0], "nothing is inserted, and then all"),
            ),
        )
    ),
    Habit(
        *("ferret-xai 0.4.2", "comprehensiveness", "comprehensiveness"),
        lambda w: float(np.mean(1 - left(words(w), LAST[-10:], range(1, 11)))),
        LAST_GO,
        *("one a call", "none"),
    ),
    Habit(
        *("ferret-xai 0.4.2", "sufficiency", "sufficiency"),
        lambda w: float(np.mean(left(words(w), LAST[-10:], range(1, 11)))),
        "the last places are kept first",
        *("one a call", "none"),
    ),
    Habit(
        *("autotimm 0.7.37", "deletion", "deletion"),
        lambda w: area(left(w, LAST, TENS)),
        LAST_GO,
        *("one a call", "none"),
    ),
)
OURS = (
    ("`Deletion(10)`", quantus_ext.Deletion(10), "drawn, from the metric's `seed`"),
    (
        "`Infidelity`, one feature at a time",
        quantus_ext.Infidelity(perturb_patch_sizes=[1], perturb_baseline=0.0),
        "nothing is ranked",
    ),
)


def rank_of_linear(r: float) -> float:
    """Return Spearman's correlation of two normal variables from Pearson's."""
    return float(6 / np.pi * np.arcsin(r / 2))


def masked_drop(a: np.ndarray) -> float:
    """Return the share of the output that the map, as a mask, takes away."""
    size = np.abs(a.flatten())
    mask = (size - size.min()) / (np.ptp(size) + 1e-8)
    return float(1 - SLOPED @ mask)


def square_effects(share: float) -> float:
    """Return the mean squared effect of squares of 32 and of 64, all 8 pixels, on 64 × 64."""
    w = share * np.linspace(2, 0, 64 * 64).reshape(64, 64) / 64**2
    starts = {32: range(0, 33, 8), 64: range(1)}
    effects = [
        w[i : i + size, j : j + size].sum()
        for size, places in starts.items()
        for i in places
        for j in places
    ]
    return float(np.mean(np.square(effects)))


def our_ties(metric: quantus_ext.base.TorchMetric) -> str:
    """Return what this package gives for a map of one value, for both weights."""
    return both(ours(metric, w, FLAT) for w in (FALLING, RISING))


def _flipped(order: list[int]) -> float:
    values = [1.0, 2.0, 3.0, 10.0]
    for place in order:
        values[place] = float(np.mean(values))
    return sum(values)


def _gelu_slope() -> float:
    at = torch.ones(1, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(nn.functional.gelu(at).sum(), at)[0])


def _sloped_deletion() -> float:
    left = 1 - np.concatenate([[0], np.cumsum(SLOPED)])[np.linspace(0, N, 21).astype(int)]
    return float(trapezoid(left, np.linspace(0, 1, 21)))


def asked(library: Library, folder: Path, *, here: bool) -> dict[str, float | str] | str:
    """Return what a library says, or why it says nothing."""
    uv = shutil.which("uv")
    python = folder / "bin" / "python"
    if uv:
        make, install = [uv, "venv", "--quiet", "--python", sys.executable], [uv, "pip", "install"]
        install += ["--quiet", "--python", str(python)]
    else:
        make = [sys.executable, "-m", "venv"]
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*make, str(folder)], check=True)
    parts = [["torch", "numpy", *library.requires], ["--no-deps", *library.bare]]
    if here:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
        parts = [["--no-deps", *(library.here or library.bare + library.requires)]]
    for part in parts:
        if part[1:]:
            done = subprocess.run([*install, *part], capture_output=True, text=True, check=False)
            if re.search("not found in the package|No matching distribution", done.stderr):
                return "not on the package index"
            if done.returncode:
                return "cannot be installed: " + _last(done.stderr)
    code = COMMON + library.probe + TELL
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    said = [each for each in done.stdout.splitlines() if each.startswith("FOUND ")]
    if not said:
        return _last(done.stderr)
    found: dict[str, float | str] = json.loads(said[-1].removeprefix("FOUND "))
    return found


def _last(text: str) -> str:
    lines = [each.strip() for each in text.splitlines() if each.strip()]
    # No paths of the machine, and no addresses.
    return re.sub(r" \(/.*?\)|\w+://\S+", "", lines[-1])[:160] if lines else "nothing said"


def cell(value: float | None) -> str:
    """Return a figure as the page has it."""
    return "–" if value is None else f"{value:.4g}"


def both(values: Iterable[float]) -> str:
    """Return two figures in one cell."""
    return ", ".join(f"{value:.3f}" for value in values)


def figures(found: dict[str, dict[str, float | str] | str]) -> str:
    """Return the table of figures."""
    rows = []
    for row in ROWS:
        theirs = found[row.library]
        if isinstance(theirs, dict):
            own = cell(row.ours()) if row.ours is not None else row.why
            gives = cell(float(theirs[row.key]))
            rows.append([row.library, row.metric, gives, row.formula, own])
    header = ["library", "metric and case", "gives", "which is", "this package"]
    return markdown_table(header, rows).replace("---:", "---")


def habits(found: dict[str, dict[str, float | str] | str]) -> str:
    """Return the table of ties, batches and seeds."""
    rows = []
    for habit in HABITS:
        theirs = found[habit.library]
        if isinstance(theirs, dict):
            tied = both(float(theirs[f"{habit.key} {way}"]) for way in ("falling", "rising"))
            rows.append(
                [
                    *(habit.library, habit.metric, tied if habit.ties else "by draws"),
                    # Without a figure of a pair, how many a call takes.
                    *(habit.which, str(theirs.get(f"{habit.key} batch", habit.batch))),
                    str(theirs[f"{habit.key} seed"]),
                ]
            )
    for name, metric, which in OURS:
        rows.append(["this package", name, our_ties(metric), which, "as alone", "none"])
    header = ["library", "metric", "one value: falling, rising weights", "because", "in a batch"]
    return markdown_table([*header, "global seed"], rows).replace("---:", "---")


def page(found: dict[str, dict[str, float | str] | str], *, here: bool) -> str:
    """Return the page."""
    silent, environments = [], []
    aside = {
        library.name: "; its own pins left aside, for which this Python has no builds"
        for library in LIBRARIES
        if library.bare
    }
    for library, said in found.items():
        if isinstance(said, str):
            silent.append([library, said.replace("|", "/")])
        else:
            environments.append([library, said["environment"] + aside.get(library, "")])
    whole = "environments that see the packages of the running one" if here else "an environment"
    told = (
        "What other libraries give for a linear model whose answers are known, each run in "
        f"{whole} of its own by `python -m benchmarks.neighbours{' --here' if here else ''}`. The "
        "model is 1 − w·x, w·x of a hundred features that are 1, a picture of 10 × 10. "
        '"Straight line" means equal weights, so that every removal takes the same from the output '
        "and the area is 0.5; otherwise the weights fall from 0.02 to 0, and are the exact map; 16 "
        "is the sum of the mean picture. Words of a text count as features do. "
        "`tests/test_neighbours.py` computes each figure again from what it is said to be."
    )
    about_habits = (
        "Two figures are the scores of a map that has one value everywhere, .5, for weights that "
        "fall from the first place to the last and for weights that rise: if they differ, the "
        "places decide. In a batch: the score of a picture alone and after a brighter one, from "
        "the same seeds; a metric that draws takes other draws then. Global seed: whose generator "
        "changes the score. Tests compute the two figures from the reason beside them, but not "
        "those that draws decide. What is asked of captum and torch_geometric ranks nothing, and "
        "draws nothing of its own. quantus, attribench, xplique, ferret and autotimm sort with "
        "numpy's default, which promises no order of ties: numpy 1.26 has another on "
        "processors with AVX-512."
    )
    parts = [
        "# Metrics of the same names elsewhere",
        told,
        figures(found),
        "## Ties, batches and seeds",
        about_habits,
        habits(found),
    ]
    if silent:
        table = markdown_table(["library", "why"], silent).replace("---:", "---")
        # Their figures would need packages that the run had not.
        parts += ["## Not run", "No figure of these is known from a run.", table]
    table = markdown_table(["library", "with"], environments).replace("---:", "---")
    parts += ["## Run with", f"Python {platform.python_version()}, on the CPU.", table]
    return "\n\n".join(parts)


def main() -> None:
    """Ask each library, and write the page."""
    made = parser("neighbours", __doc__)
    made.add_argument("--here", action="store_true", help="see the packages that are there")
    made.add_argument("--only", help="libraries with this in their name, and no file")
    chosen = options(made)
    libraries = [each for each in LIBRARIES if not chosen.only or chosen.only in each.name]

    def answer(library: Library) -> dict[str, float | str] | str:
        with tempfile.TemporaryDirectory() as folder:
            said = asked(library, Path(folder) / "env", here=chosen.here)
        print(library.name, said, flush=True)
        return said

    # Most of the time is spent on waiting for packages.
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(answer, libraries)
        found = {library.name: said for library, said in zip(libraries, answers, strict=True)}
    if not chosen.only and not chosen.quick:
        write_atomically(PAGE, page(found, here=chosen.here) + "\n")


if __name__ == "__main__":
    main()
