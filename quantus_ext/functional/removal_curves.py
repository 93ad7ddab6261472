r"""MoRF, LeRF and ABPC (M4) and Deletion and Insertion (RISE): sums over removal curves.

A curve is the model's output ``f(xᵏ)`` for the explained class as a growing share of the elements
is removed, most relevant first (``morf``) or least relevant first (``lerf``), or restored, most
relevant first (``insertion``). The scores are linear in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.functional.removal import Region, answers_without
from quantus_ext.functional.scores import Scores

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
    seed: int = 0,
    index: Tensor | None = None,
    clean: Tensor | None = None,
) -> dict[CurveScore, Scores]:
    r"""Compute several scores from the same evaluations.

    With ``L + 1`` states ``x⁰ = x, …, x^L`` of which the last has lost everything,
    ``MoRF = 1/(L+1) Σ_k (f(x⁰) - f(xᵏ))`` with the most relevant removed first, ``LeRF`` the same
    with the least relevant first, ``ABPC = MoRF - LeRF``. ``Deletion`` is the area under the curve
    of MoRF over fractions in [0, 1], by the trapezoid rule, and ``Insertion`` that of the curve
    which restores the most relevant first.

    Parameters
    ----------
    forward : Forward or callable
        The model: rows in, (rows, classes) out.
    x : Tensor, shape (n, F), (n, C, T) or (n, C, H, W)
        Inputs.
    a : Tensor, shape of ``x`` or with one channel
        Attributions; only their ranks count.
    y : Tensor, int64, shape (n,)
        Explained classes.
    fractions : sequence of float
        Shares of the elements, from 0 to 1, increasing; ``⌊fraction·t⌋`` go or are restored.
    scores : sequence of {"morf", "lerf", "abpc", "deletion", "insertion"}
        Which; states that several of them need are evaluated once.
    elements : Elements, optional
        By default each position is one, over all channels.
    perturbation : Perturbation, optional
        What removed elements become; by default 0.
    n_draws : int, default 1
        Draws of each state where the perturbation is random; which draws depends on what other
        scores are asked for.
    seed, index, clean
        As for :func:`quantus_ext.functional.infidelity`.

    Returns
    -------
    dict of Scores
        By name. ``details`` has ``curve`` (for ABPC ``curve_morf`` and ``curve_lerf``),
        ``fractions``, both of shape (n, L + 1), ``original_score``, ``baseline_score`` with
        everything removed, and their difference, ``final_drop`` (``final_rise`` for Insertion).

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
    if len(fractions) < 2 or fractions[0] != 0 or fractions[-1] != 1:
        raise ValueError(f"fractions must go from 0 to 1, are {list(fractions)}")
    forward = forward if isinstance(forward, Forward) else Forward(forward)
    elements = elements or elements_of(x)
    names = list(dict.fromkeys(curve for score in scores for curve in CURVES[score]))
    totals = elements.totals()
    answers = answers_without(
        forward,
        x,
        a,
        y,
        [_removed(name, share, totals) for name in names for share in fractions],
        elements=elements,
        perturbation=perturbation,
        output="probability",
        n_draws=n_draws,
        seed=seed,
        index=index,
        clean=clean,
    )
    points = len(fractions)
    curves = dict(zip(names, answers.without.split(points, 1), strict=True))
    errors = dict(zip(names, answers.squared_error.split(points, 1), strict=True))
    grid = torch.tensor(list(fractions), dtype=torch.float64, device=x.device)
    return {name: _score(name, curves, errors, grid, answers.original) for name in scores}


def _removed(curve: Curve, fraction: float, totals: list[int]) -> Region:
    """Return what is gone from each sample at a fraction of a curve."""
    counts = [(t, sampling.snapped_floor(fraction * t)) for t in totals]
    match curve:
        case "morf":
            return Region.of((0, count, count) for t, count in counts)
        case "lerf":
            return Region.of((t - count, t, count) for t, count in counts)
        case "insertion":
            return Region.of((count, t, t - count) for t, count in counts)


def _score(
    name: CurveScore,
    curves: dict[Curve, Tensor],
    errors: dict[Curve, Tensor],
    fractions: Tensor,
    original: Tensor,
) -> Scores:
    step = fractions.diff()
    area = torch.cat([step, step.new_zeros(1)]) + torch.cat([step.new_zeros(1), step])
    weights = area / 2 if name in ("deletion", "insertion") else torch.ones_like(fractions)
    weights = weights / weights.sum()
    sums = {curve: (curves[curve] * weights).sum(1) for curve in CURVES[name]}
    squared_error = torch.stack([(errors[c] * weights**2).sum(1) for c in CURVES[name]]).sum(0)
    shared = {
        "fractions": fractions.expand(len(original), -1),
        "original_score": original,
    }
    if name == "abpc":
        # Drops from the same original: it cancels.
        score = sums["lerf"] - sums["morf"]
        details = {
            "morf": original - sums["morf"],
            "lerf": original - sums["lerf"],
            "curve_morf": curves["morf"],
            "curve_lerf": curves["lerf"],
            "baseline_score": curves["morf"][:, -1],
            "final_drop": original - curves["morf"][:, -1],
        }
        return Scores(score, squared_error.sqrt(), {**details, **shared})
    (curve_name,) = CURVES[name]
    curve = curves[curve_name]
    baseline = curve[:, 0] if name == "insertion" else curve[:, -1]
    details = {
        "curve": curve,
        "baseline_score": baseline,
        ("final_rise" if name == "insertion" else "final_drop"): original - baseline,
    }
    area_under = sums[curve_name]
    score = original - area_under if name in ("morf", "lerf") else area_under
    return Scores(score, squared_error.sqrt(), {**details, **shared})
