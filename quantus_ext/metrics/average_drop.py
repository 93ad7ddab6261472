"""Average drop and increase (Grad-CAM++) and average gain (Opti-CAM) as Quantus metrics."""

from __future__ import annotations

from typing import ClassVar

from quantus.helpers.enums import ScoreDirection
from typing_extensions import Unpack

from quantus_ext import functional
from quantus_ext.adapters.base import adapter_of
from quantus_ext.base import TorchMetric
from quantus_ext.batch import Batch
from quantus_ext.engine.forward import Forward
from quantus_ext.flags import Cuts
from quantus_ext.functional.average_drop import MaskScore
from quantus_ext.functional.scores import Scores
from quantus_ext.metrics.removal import RemovalArguments, RemovalMetric


class WeightedInput(RemovalMetric):
    r"""Base class of the metrics that weight the input by the map.

    The map, scaled to [0, 1] over each sample's elements, says how much of each element stays; the
    rest is what ``perturb_func`` makes of it, 0 by default. Maps that are not negative, as those of
    CAM methods, can be used as they are. Of a signed map, the most negative element loses
    everything, and one of attribution 0 keeps a part; with ``abs=True`` the sign does not count.
    The embeddings of texts are weighted, and padding and special tokens stay.

    Parameters
    ----------
    **removal
        See :class:`quantus_ext.metrics.removal.RemovalMetric`. With a random ``perturb_func`` one
        draw is made, and the standard error is unknown (NaN).

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid; in a call, if inputs cannot be weighted: graphs, prompts, and
        tables with categories.
    """

    score: ClassVar[MaskScore]
    score_range = (0.0, 1.0)
    nan_reason = (
        "the model's outputs for them are not all finite, or are no probabilities: a drop needs an "
        "output above 0, a gain one from 0 to below 1, so leave softmax=False out"
    )

    def __init__(self, **removal: Unpack[RemovalArguments]) -> None:
        super().__init__(**removal)
        self.over_embeddings = True

    @property
    def evaluations_a_sample(self) -> int | None:
        """See :attr:`quantus_ext.base.TorchMetric.evaluations_a_sample`."""
        return 2

    def cuts(self, batch: Batch) -> Cuts | None:
        """See :meth:`quantus_ext.base.TorchMetric.cuts`; nothing is ranked."""
        return TorchMetric.cuts(self, batch)

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        adapter = adapter_of(batch.model)
        if adapter.takes_presence or adapter.coded:
            raise ValueError(
                f"{self.name} needs inputs that can be weighted, which those of a "
                f"{type(adapter).__name__} cannot: use Deletion or Fidelity"
            )
        return functional.average_drop(
            forward,
            batch.x,
            batch.maps,
            batch.y,
            scores=[self.score],
            elements=self.elements(batch),
            perturbation=self.perturbation(batch.model),
            **batch.known,
        )[self.score]


class AverageDrop(WeightedInput):
    r"""Average drop: the share of the output that is lost when the map weights the input.

    ``max(f(x) - f(m·x), 0) / f(x)`` (Chattopadhay et al., 2018), lower is better; ``m`` is the map
    scaled to [0, 1]. The mean over samples is what torch-cam and xplique return. ``details`` has
    ``drop``, ``increase``, ``gain``, ``original_score`` and ``masked_score``.

    See :class:`~quantus_ext.metrics.average_drop.WeightedInput` for the arguments.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from quantus_ext import AverageDrop
    >>> model = torch.nn.Linear(6, 2).eval()
    >>> x, y = np.random.default_rng(0).uniform(size=(3, 6)), np.array([0, 1, 0])
    >>> metric = AverageDrop()
    >>> scores = metric(model, x, y, x * model.weight.detach().numpy()[y])
    >>> sorted(metric.details)
    ['drop', 'flags', 'gain', 'increase', 'masked_score', 'original_score', 'space']
    """

    name = "Average Drop"
    score = "drop"
    score_direction = ScoreDirection.LOWER


class AverageIncrease(WeightedInput):
    r"""Average increase: whether the output rises when the map weights the input.

    ``1(f(m·x) > f(x))`` (Chattopadhay et al., 2018), higher is better; also called increase in
    confidence. See :class:`AverageDrop`.
    """

    name = "Average Increase"
    score = "increase"
    score_direction = ScoreDirection.HIGHER


class AverageGain(WeightedInput):
    r"""Average gain: the rise of the output when the map weights the input, of what was missing.

    ``max(f(m·x) - f(x), 0) / (1 - f(x))`` (Zhang et al., 2024), higher is better. See
    :class:`AverageDrop`.
    """

    name = "Average Gain"
    score = "gain"
    score_direction = ScoreDirection.HIGHER
