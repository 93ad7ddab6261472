"""Whether scores have changed since a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from quantus.helpers.enums import ScoreDirection

from quantus_ext import checks
from quantus_ext.evaluation.statistics import holm, shift, sign_of
from quantus_ext.evaluation.tables import markdown, number, plain

if TYPE_CHECKING:
    from quantus_ext.evaluation.result import Evaluation

Verdict = Literal["same", "better", "worse", "changed", "unknown"]


@dataclass(frozen=True)
class Drifted:
    """The scores of one explainer by one metric, compared with the baseline's.

    Attributes
    ----------
    explainer, metric : str
    mean_baseline, mean : float
    effect : float
        Cliff's delta, positive for better, from -1 to 1.
    distance : float
        The Kolmogorov-Smirnov distance, from 0 to 1.
    p_level, p_shape : float
        P-values of the two tests, corrected for the number of all tests.
    verdict : {"same", "better", "worse", "changed", "unknown"}
        "changed" if only the distribution differs and not its level; "unknown" if scores are
        missing.
    """

    explainer: str
    metric: str
    mean_baseline: float
    mean: float
    effect: float
    distance: float
    p_level: float
    p_shape: float
    verdict: Verdict


@dataclass(frozen=True)
class Drift:
    """What has changed since a baseline.

    Attributes
    ----------
    rows : tuple of Drifted
        For each explainer and metric that both evaluations have.
    alpha : float
    missing : tuple of str
        Pairs of explainer and metric that only one of the two evaluations has.
    """

    rows: tuple[Drifted, ...]
    alpha: float
    missing: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict on a pair, of "worse", "unknown", "changed", "better", "same"."""
        found = {row.verdict for row in self.rows}
        order: tuple[Verdict, ...] = ("worse", "unknown", "changed", "better")
        return next((verdict for verdict in order if verdict in found), "same")

    @property
    def alarm(self) -> bool:
        """Whether anything has changed or cannot be compared."""
        return self.verdict != "same" or bool(self.missing)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each pair."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_markdown(self) -> str:
        """Return a table, changes first."""
        rows = sorted(self.rows, key=lambda row: row.verdict == "same")
        return markdown(
            ["explainer", "metric", "baseline", "now", "effect", "p, level", "p, shape", "verdict"],
            [
                [
                    plain(row.explainer),
                    plain(row.metric),
                    *map(number, (row.mean_baseline, row.mean, row.effect)),
                    *map(number, (row.p_level, row.p_shape)),
                    row.verdict if row.verdict == "same" else f"**{row.verdict}**",
                ]
                for row in rows
            ],
        )


def check_settings(alpha: object = 0.05, smallest_effect: object = 0.0) -> tuple[float, float]:
    """Return settings of :func:`drift`; ValueError or TypeError if they are out of range."""
    effect = checks.finite_number("smallest_effect", smallest_effect)
    if not 0 <= effect < 1:
        raise ValueError(f"smallest_effect must be at least 0 and below 1, is {smallest_effect}")
    return checks.fraction("alpha", alpha), effect


def check_comparable(
    baseline: Evaluation, explainers: Sequence[str], directions: Mapping[str, ScoreDirection]
) -> list[tuple[str, str]]:
    """Return what a baseline has in common with an evaluation; ValueError if that is nothing.

    Parameters
    ----------
    baseline : Evaluation
    explainers : sequence of str
    directions : mapping of str to ScoreDirection
        Of all metrics.
    """
    known = {(e, m) for e in baseline.explainers for m in baseline.metrics}
    common = [(e, m) for e in explainers for m in directions if (e, m) in known]
    if not common:
        raise ValueError(
            "baseline must have an explainer and a metric of the same names, has "
            f"{', '.join(baseline.explainers)} and {', '.join(baseline.metrics)}"
        )
    for _, metric in common:
        if baseline.directions[metric] is not directions[metric]:
            raise ValueError(f"baseline's {metric!r} has the other direction")
    return common


def drift(
    baseline: Evaluation, now: Evaluation, *, alpha: float = 0.05, smallest_effect: float = 0.0
) -> Drift:
    """Compare two evaluations; see :meth:`quantus_ext.Evaluation.drift`."""
    # Here because it imports this module.
    from quantus_ext.evaluation.result import Evaluation

    if not isinstance(baseline, Evaluation):
        raise TypeError(
            f"baseline must be an Evaluation, as of from_json, is {checks.shown(baseline)}"
        )
    alpha, smallest_effect = check_settings(alpha, smallest_effect)
    pairs = [(e, m) for e in now.explainers for m in now.metrics]
    known = {(e, m) for e in baseline.explainers for m in baseline.metrics}
    common = check_comparable(baseline, now.explainers, now.directions)
    both = []
    for explainer, metric in common:
        both.append([each.scores_asked(explainer, metric) for each in (baseline, now)])
    finite = [[values[np.isfinite(values)] for values in pair] for pair in both]
    shifts = [shift(*pair) if all(map(len, pair)) else None for pair in finite]
    found_p = np.array([_p_values(found) for found in shifts])
    # Fewer draws spread scores more widely around the same mean.
    other_draws = [_draws(baseline, metric) != _draws(now, metric) for _, metric in common]
    found_p[other_draws, 1] = np.nan
    p = holm(found_p.ravel()).reshape(-1, 2)
    rows = []
    for (explainer, metric), (old, new), (kept_old, kept_new), found, (level, shape) in zip(
        common, both, finite, shifts, p, strict=True
    ):
        sign = sign_of(now.directions[metric])
        effect = np.nan if found is None else sign * found.effect
        distance = np.nan if found is None else found.distance
        verdict: Verdict = "same"
        lost = [1 - np.isfinite(values).mean() for values in (old, new)]
        moved = level <= alpha and abs(effect) >= smallest_effect
        # Missing scores don't hide that the others are worse.
        if moved and effect < 0:
            verdict = "worse"
        elif found is None or lost[1] > lost[0]:
            verdict = "unknown"
        elif moved:
            verdict = "better"
        elif shape <= alpha and distance >= smallest_effect:
            verdict = "changed"
        rows.append(
            Drifted(
                explainer=explainer,
                metric=metric,
                mean_baseline=_mean(kept_old),
                mean=_mean(kept_new),
                effect=float(effect),
                distance=float(distance),
                p_level=float(level),
                p_shape=float(shape),
                verdict=verdict,
            )
        )
    missing = sorted(known.symmetric_difference(pairs))
    return Drift(tuple(rows), alpha, tuple(f"{e}, {m}" for e, m in missing))


def _draws(evaluation: Evaluation, metric: str) -> object:
    """Return how many draws a pilot has found, None where none was asked."""
    return evaluation.settings.get("draws", {}).get(metric, {}).get("n")


def _p_values(found: object) -> tuple[float, float]:
    return (np.nan, np.nan) if found is None else (found.level, found.shape)  # type: ignore[attr-defined]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
