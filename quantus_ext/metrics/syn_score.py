"""SynScore (M4) as a Quantus metric."""

from __future__ import annotations

import numpy as np
import torch
from quantus.helpers.enums import EvaluationCategory, ScoreDirection
from torch import Tensor
from typing_extensions import Unpack

from quantus_ext import checks, functional
from quantus_ext.base import CommonArguments, TorchMetric
from quantus_ext.batch import Batch
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.functional.scores import Scores
from quantus_ext.functional.syn_score import Measure


class SynScore(TorchMetric):
    r"""SynScore: how well the map ranks the elements of a planted truth above the others.

    For models that are known to use what ``s_batch`` marks, as those of
    :func:`quantus_ext.protocols.plant_shortcut`. Higher is better. Attributions are summed over
    channels and ranked as they come: pass ``abs=True`` where the sign does not matter. The model is
    not asked, and may be None with attributions that are passed.

    Parameters
    ----------
    measure : {"auroc", "ap"}, default "auroc"
        See :func:`quantus_ext.functional.syn_score`.
    **common
        See :class:`quantus_ext.base.TorchMetric`.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules; on a call, if ``s_batch`` is missing, is not of
        shape (n, \*spatial), with or without a channel axis of length 1, or holds anything but 0
        and 1.
    """

    name = "SynScore"
    score_direction = ScoreDirection.HIGHER
    score_range = (0.0, 1.0)
    evaluation_category = EvaluationCategory.LOCALISATION
    reads_values = False
    clean_rows = 0
    reads_labels = False
    nan_reason = "s_batch marks none of their elements, or all"

    def __init__(self, measure: Measure = "auroc", **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        checks.one_of("measure", measure, ("auroc", "ap"))
        self.measure = measure

    def elements(self, batch: Batch) -> Elements:
        """See :meth:`quantus_ext.base.TorchMetric.elements`: positions over all channels."""
        return elements_of(batch.x, features=batch.features)

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        elements = self.elements(batch)
        truth = _truth(batch.s, (len(batch.x), *elements.mask_shape), batch.x.device)
        # An element of several positions is planted where any of them is.
        planted = elements.scores(truth.reshape(len(truth), *elements.mask_shape).double()) > 0
        each = [
            functional.syn_score(elements.scores(a), planted, measure=self.measure)
            for a in batch.maps
        ]
        return Scores.stack(each)


def _truth(s: np.ndarray | Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the planted elements, shape (n, t)."""
    if s is None:
        raise ValueError("s_batch must mark the planted elements, is None")
    without_channel = (shape[0], *shape[2:]) if len(shape) > 2 else shape
    truth = checks.without_channel(torch.as_tensor(checks.mask("s_batch", s)), without_channel)
    if tuple(truth.shape) != without_channel:
        raise ValueError(
            f"s_batch must have shape {without_channel} or {shape}, has {tuple(truth.shape)}"
        )
    return truth.to(device).flatten(1)
