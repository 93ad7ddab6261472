r"""MoRF, LeRF and ABPC (M4), Deletion and Insertion (RISE): weighted sums over removal curves.

A curve is the model's output ``f(xᵏ)`` for the explained class while elements are removed, most
relevant first (``morf``) or least relevant first (``lerf``), or restored, most relevant first
(``insertion``). The weights depend on the fractions that are actually removed from a sample:
7 elements cannot lose a twentieth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.masked import MaskedModel, SampleArguments
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.regions import Bounds, Region
from quantus_ext.engine.tables import table
from quantus_ext.functional.removal import Without, answers_without
from quantus_ext.functional.scores import Scores, maps_of

CurveScore = Literal["morf", "lerf", "abpc", "deletion", "insertion"]
Curve = Literal["morf", "lerf", "insertion"]
CURVES: dict[CurveScore, tuple[Curve, ...]] = {
    "morf": ("morf",),
    "lerf": ("lerf",),
    "abpc": ("morf", "lerf"),
    "deletion": ("morf",),
    "insertion": ("insertion",),
}
"""The curves of which each score is made."""


def removal_curves(
    forward: Forward | Predict,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    fractions: Sequence[float],
    scores: Sequence[CurveScore] = ("morf", "lerf", "abpc", "deletion", "insertion"),
    elements: Elements | None = None,
    perturbation: Perturbation | None = None,
    n_draws: int = 1,
    **samples: Unpack[SampleArguments],
) -> dict[CurveScore, Scores]:
    r"""Compute several scores from the same evaluations.

    Let ``0 = u₀ < … < u_L = 1`` be the fractions that are actually removed from a sample; fractions
    that remove the same number of elements are one state. ``Deletion`` is the area under the curve
    with the most relevant elements removed first, by the trapezoidal rule over ``u``; ``Insertion``
    that of the curve which restores the most relevant first. ``MoRF = Σ_k w_k (f(x⁰) - f(xᵏ))``
    removes the most relevant first, ``LeRF`` the least relevant, and ``ABPC = MoRF - LeRF``. The
    weights are those of ``mean_weights``, ``1/(L+1)`` for even steps.

    Parameters
    ----------
    forward : Forward or callable
        The model: rows in, (rows, classes) out.
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Inputs.
    a : Tensor, shape of ``x`` or with one channel; or (m, n, …), m maps of each sample
        Attributions; only their ranks matter.
    y : Tensor, int64, shape (n,)
        Explained classes.
    fractions : sequence of float
        Increasing fractions from 0 to 1; ``⌊fraction·t⌋`` of a sample's t elements are removed or
        restored.
    scores : sequence of {"morf", "lerf", "abpc", "deletion", "insertion"}
        The scores to compute; states that they share are evaluated once.
    elements : Elements, optional
        By default every position, over all channels.
    perturbation : Perturbation, optional
        The replacement of removed elements; by default 0.
    n_draws : int, default 1
        Draws per state if the perturbation is random; which draws depends on the other scores that
        are computed.
    **samples
        Seed and more; see :class:`quantus_ext.engine.masked.SampleArguments`.

    Returns
    -------
    dict of Scores
        By name. ``details`` has ``curve`` (for ABPC ``curve_morf`` and ``curve_lerf``) and
        ``fractions``, the fractions that are actually removed or restored, all of shape
        (n, fractions); ``original_score``, ``baseline_score`` with everything removed, and their
        difference, ``final_drop`` (``final_rise`` for Insertion). Deletion and Insertion also have
        ``normalised``, the area divided by the original output, and ``relative_drop``, the drop
        divided by it; for Insertion ``relative_rise``, the rise divided by its size: 1 where the
        output rises, -1 where it falls, 0 where it stays. The first two are NaN if the original
        output is not positive.

    Examples
    --------
    A linear model, explained rightly; each feature is worth what it adds:

    >>> import torch
    >>> from quantus_ext.functional import removal_curves
    >>> weights = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    >>> result = removal_curves(
    ...     lambda rows: rows @ weights.T,
    ...     torch.ones(1, 4),
    ...     weights,
    ...     torch.tensor([0]),
    ...     fractions=[0, 0.25, 0.5, 0.75, 1],
    ... )
    >>> result["deletion"].details["curve"].tolist()
    [[6.0, 3.0, 1.0, 0.0, 0.0]]
    >>> [(name, round(float(s.score), 3)) for name, s in result.items()]
    [('morf', 4.0), ('lerf', 2.0), ('abpc', 2.0), ('deletion', 1.75), ('insertion', 4.25)]
    """
    for name in scores:
        checks.one_of("scores", name, tuple(CURVES))
    fractions = checks.numbers("fractions", fractions)
    n_draws = checks.positive_integer("n_draws", n_draws)
    if len(fractions) < 2 or fractions[0] != 0 or fractions[-1] != 1:
        raise ValueError(f"fractions must go from 0 to 1, are {list(fractions)}")
    elements = elements or elements_of(x)
    names = list(dict.fromkeys(curve for score in scores for curve in CURVES[score]))
    totals = elements.totals()
    counts_of = {t: [sampling.snapped_floor(share * t) for share in fractions] for t in {*totals}}
    masked = MaskedModel(forward, x, y, perturbation, **samples)
    regions = [
        Region.by_total(
            totals, {t: _removed(name, t, each[point]) for t, each in counts_of.items()}
        )
        for name in names
        for point in range(len(fractions))
    ]
    shares = table(
        [[count / t for count in each] for t, each in counts_of.items()], x.device, torch.float64
    )
    if len(shares) == 1:
        removed = shares.expand(len(x), -1)
    else:
        row = {t: number for number, t in enumerate(counts_of)}
        removed = shares[table([row[t] for t in totals], x.device)]
    found: dict[CurveScore, list[Scores]] = {name: [] for name in scores}
    for answers in answers_without(
        masked, maps_of(a, x), regions, elements=elements, output="probability", n_draws=n_draws
    ):
        for name in scores:
            found[name].append(_score(name, names, answers, removed))
    return {
        name: Scores.stack(each) if a.ndim > x.ndim else each[0] for name, each in found.items()
    }


def mean_weights(fractions: Tensor) -> Tensor:
    r"""Return the weights of the mean over a curve's states, shape (n, points).

    With fractions ``0 = u₀ < … < u_L = 1`` and the trapezoidal weights
    ``a_k = (u_{k+1} - u_{k-1}) / 2``, ``w_k = (L·a_k + e_k) / (L + 1)``, where ``e_k`` is 1/2 at
    both ends and 0 elsewhere. On an even grid this is ``1/(L+1)``, as in M4, and a straight line
    has the same mean on every grid. A repeated fraction counts once.

    Parameters
    ----------
    fractions : Tensor, float64, shape (n, points)
        From 0 to 1, never decreasing.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional.removal_curves import mean_weights
    >>> grids = torch.tensor([[0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 1, 1]], dtype=torch.float64)
    >>> mean_weights(grids).tolist()
    [[0.2, 0.2, 0.2, 0.2, 0.2], [0.21875, 0.1875, 0.28125, 0.1875, 0.125]]
    """
    step = fractions.diff(dim=1)
    steps = (step > 0).sum(1, keepdim=True)
    weights = steps * _trapezoid_weights(step)
    weights[:, 0] += 0.5
    weights[:, -1] += 0.5
    return weights / (steps + 1)


def _trapezoid_weights(step: Tensor) -> Tensor:
    """Return the weights of the trapezoid rule from the steps between places."""
    return (F.pad(step, (1, 0)) + F.pad(step, (0, 1))) / 2


def _removed(curve: Curve, t: int, count: int) -> Bounds:
    """Return what of t elements is gone at a point of a curve, where so many went or came back."""
    match curve:
        case "morf":
            return 0, count, count
        case "lerf":
            return t - count, t, count
        case "insertion":
            return count, t, t - count


def _score(name: CurveScore, names: list[Curve], answers: Without, fractions: Tensor) -> Scores:
    curves = dict(zip(names, answers.without.split(fractions.shape[1], 1), strict=True))
    is_area = name in ("deletion", "insertion")
    weights = _trapezoid_weights(fractions.diff(dim=1)) if is_area else mean_weights(fractions)
    sums = {curve: (curves[curve] * weights).sum(1) for curve in CURVES[name]}
    sign = {curve: -1.0 if curve == "morf" else 1.0 for curve in CURVES[name]}
    squared_error = answers.squared_error_of(
        torch.cat([weights * sign.get(curve, 0.0) for curve in names], 1)
    )
    original = answers.original
    shared = {"fractions": fractions, "original_score": original}
    if name == "abpc":
        # Both drops start from the same original output, which cancels.
        score = sums["lerf"] - sums["morf"]
        details = {
            "morf": original - sums["morf"],
            "lerf": original - sums["lerf"],
            "curve_morf": curves["morf"],
            "curve_lerf": curves["lerf"],
            "baseline_score": curves["morf"][:, -1],
            "final_drop": original - curves["morf"][:, -1],
        }
        return Scores(score, squared_error.sqrt(), {**details, **shared}, (answers.rests_on,))
    (curve_name,) = CURVES[name]
    curve = curves[curve_name]
    baseline = curve[:, 0] if name == "insertion" else curve[:, -1]
    details = {
        "curve": curve,
        "baseline_score": baseline,
        ("final_rise" if name == "insertion" else "final_drop"): original - baseline,
    }
    total = sums[curve_name]
    score = total if is_area else original - total
    if is_area:
        positive = original.where(original > 0, torch.nan)
        details["normalised"] = total / positive
        if name == "deletion":
            details["relative_drop"] = details["final_drop"] / positive
        else:
            details["relative_rise"] = details["final_rise"].sign()
    return Scores(score, squared_error.sqrt(), {**details, **shared}, (answers.rests_on,))
