"""The result of scoring several maps of the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from quantus_ext.draws import Draws
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.plan import Plan
from quantus_ext.engine.spaces import Space
from quantus_ext.functional.scores import Scores
from quantus_ext.shown import ShownByArguments


@dataclass(frozen=True, repr=False)
class MapScores(ShownByArguments):
    """Scores of m maps of each of n samples.

    Attributes
    ----------
    scores, standard_errors : numpy.ndarray, float64, shape (m, n)
    details : dict of numpy.ndarray, shape (m, n, …)
        Further results of the same evaluations.
    n_evaluations : numpy.ndarray of int, shape (m,)
        Rows that the scores of each map are based on, as if it were scored alone.
    n_rows : int
        Rows actually sent through the model.
    plan : Plan or None
        The rows per pass and the layout used.
    draws : Draws or None
        How many draws a pilot found to be enough.
    scored : str or None
        The space of outputs that scores read; None for labels, or where that is not known.
    """

    scores: np.ndarray
    standard_errors: np.ndarray
    details: dict[str, np.ndarray]
    n_evaluations: np.ndarray
    n_rows: int
    plan: Plan | None
    draws: Draws | None = None
    scored: Space | None = None

    @classmethod
    def of_batches(cls, results: Sequence[tuple[Scores, int, int]], forward: Forward) -> MapScores:
        """Concatenate batches.

        Parameters
        ----------
        results : sequence of (Scores, int, int)
            For each batch: its scores (m, n), its clean rows, and the other rows sent.
        forward : Forward
            The model.
        """
        batches = [scores for scores, _, _ in results]
        counts = sum(
            clean
            + np.array([int(asked.count().sum()) for asked in scores.asked] or [sent], dtype=int)
            for scores, clean, sent in results
        )
        n_maps = len(batches[0].score)
        return cls(
            scores=torch.cat([batch.score for batch in batches], 1).cpu().numpy(),
            standard_errors=torch.cat([batch.standard_error for batch in batches], 1).cpu().numpy(),
            details={
                name: torch.cat([batch.details[name] for batch in batches], 1).cpu().numpy()
                for name in batches[0].details
            },
            n_evaluations=np.broadcast_to(counts, n_maps),
            n_rows=forward.n_evaluations,
            plan=forward.plan,
        )

    def without_errors(self) -> MapScores:
        """Return the scores with unknown standard errors (NaN)."""
        unknown = {
            name: np.full_like(values, np.nan) if "error" in name else values
            for name, values in self.details.items()
        }
        errors = np.full_like(self.standard_errors, np.nan)
        return replace(self, standard_errors=errors, details=unknown)

    @classmethod
    def of_groups(cls, groups: Sequence[MapScores], places: Sequence[Sequence[int]]) -> MapScores:
        """Put groups of maps together, each with the places of its maps among all."""
        order = np.argsort(np.concatenate(places))
        names = set.intersection(*({*group.details} for group in groups))
        return cls(
            scores=np.concatenate([group.scores for group in groups])[order],
            standard_errors=np.concatenate([group.standard_errors for group in groups])[order],
            details={
                name: np.concatenate([group.details[name] for group in groups])[order]
                for name in groups[0].details
                if name in names
            },
            n_evaluations=np.concatenate([group.n_evaluations for group in groups])[order],
            n_rows=sum(group.n_rows for group in groups),
            plan=groups[-1].plan,
            scored=groups[-1].scored,
        )
