"""The explanations of a call: maps that are given, or made batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantus_ext import checks
from quantus_ext.batch import Explainer
from quantus_ext.samples import Samples

ExplainCall = tuple[Callable[..., Any] | None, Mapping[str, Any] | None]
"""``explain_func`` and its keywords."""


@dataclass(frozen=True)
class Explanation:
    """One explanation of all samples of a call.

    Attributes
    ----------
    map : Tensor or None
        Attributions, channels first; None where the explainer makes them.
    explainer : Explainer
        What made them, or will.
    carries_input : bool or None
        Whether they carry the input factor; None for what the metric says.
    first : Tensor or None
        What the explainer has made of the first samples already.
    """

    map: Tensor | None
    explainer: Explainer
    carries_input: bool | None
    first: Tensor | None = None

    @classmethod
    def of_call(
        cls,
        maps: Sequence[np.ndarray | Tensor | None],
        made_by: Sequence[Explainer],
        carry_inputs: Sequence[bool | None] | None,
        samples: Samples,
        batch_size: int,
    ) -> list[Explanation]:
        """Take maps and what made them; see ``TorchMetric.score_maps``.

        Where an explainer is to put the model into evaluation mode it explains the first batch.
        """
        flags = carry_inputs or [None] * len(maps)
        taken = []
        for place, (values, explain, flag) in enumerate(zip(maps, made_by, flags, strict=True)):
            if values is None:
                # Checked before anything is trained or evaluated.
                explain.require()
            own = None if values is None else samples.for_maps([place]).map_of(values)
            taken.append(cls(own, explain, flag))
        if samples.is_told and samples.y is not None:
            some = slice(0, batch_size)
            labels = torch.from_numpy(samples.y[some]).to(samples.device)
            taken = [
                each
                if each.map is not None
                else replace(each, first=each._made(samples, some, labels))
                for each in taken
            ]
            checks.evaluation_mode(samples.model)
        return taken

    def part(self, places: NDArray[np.int64]) -> Explanation:
        """Return the explanation of some samples."""
        values = self.map
        if values is not None:
            values = values[torch.from_numpy(places).to(values.device)]
        return replace(self, map=values, first=None)

    def of_rows(self, samples: Samples, rows: slice, labels: Tensor) -> Tensor:
        """Return the map of some samples, which the explainer makes, over what is perturbed."""
        made = self.first if rows.start == 0 else None
        return samples.laid_out(self._made(samples, rows, labels) if made is None else made)

    def _made(self, samples: Samples, rows: slice, labels: Tensor) -> Tensor:
        first = int(samples.index[rows.start])
        return self.explainer(samples.model, samples.explained[rows], labels, first)


def alike(explanations: Sequence[Explanation]) -> list[list[int]]:
    """Return the places of those that can be scored as one set: of one shape, and read alike."""
    groups: dict[tuple[Hashable, bool | None], list[int]] = {}
    for place, each in enumerate(explanations):
        # The shape of maps that are still to be computed is unknown.
        kind = place if each.map is None else (tuple(each.map.shape), each.map.dtype)
        groups.setdefault((kind, each.carries_input), []).append(place)
    return list(groups.values())
