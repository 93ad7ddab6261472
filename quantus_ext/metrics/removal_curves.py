"""MoRF, LeRF and ABPC (M4), Deletion and Insertion (RISE) as Quantus metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from quantus.functions.perturb_func import baseline_replacement_by_indices
from quantus.helpers.enums import ScoreDirection
from typing_extensions import Unpack

from quantus_ext import checks, functional
from quantus_ext.adapters.base import adapter_of
from quantus_ext.adapters.columns import GroupedColumns
from quantus_ext.batch import Batch
from quantus_ext.engine.forward import Forward
from quantus_ext.functional.removal_curves import CurveScore
from quantus_ext.functional.scores import Scores
from quantus_ext.metrics.removal import RemovalArguments, RemovalMetric
from quantus_ext.perturbation import (
    blur_replacement_by_indices,
    gaussian_blur_replacement_by_indices,
)

Baseline = Literal["black", "mean", "blur", "gaussian_blur"]

STEPS = 20
"""By default."""

_BASELINES: dict[Baseline, tuple[Callable[..., Any], float | str | None]] = {
    "black": (baseline_replacement_by_indices, 0.0),
    "mean": (baseline_replacement_by_indices, "mean"),
    "blur": (blur_replacement_by_indices, None),
    "gaussian_blur": (gaussian_blur_replacement_by_indices, None),
}


class CurveArguments(RemovalArguments, total=False):
    """Keyword arguments of every removal curve; see :class:`RemovalCurve`."""

    baseline: Baseline | None
    features_in_step: int | None
    n_samples: int


class RemovalCurve(RemovalMetric):
    r"""Base of the metrics that sum over a removal curve.

    Parameters
    ----------
    steps : int or sequence of float, optional
        Equal steps from nothing to everything, 20 by default, ``⌊k/steps·t⌋`` of a sample's t
        elements after k of them; or the fractions themselves, to which 0 and 1 are added where
        they are missing. Steps that come to as many elements are one state, which is asked for and
        counts once.
    baseline : {"black", "mean", "blur", "gaussian_blur"}, optional
        What removed elements become, in place of ``perturb_func`` and ``perturb_baseline``: 0 in
        the model's space, the sample's mean, the mean of a 15-sided window around each, or a
        Gaussian mean, 51 wide with a standard deviation of 20.
    features_in_step : int, optional
        So many elements a step, in place of ``steps``; the last step takes what is left. Not for
        ``element="segment"``, texts and padded series: samples have different numbers.
    n_samples : int, default 1
        Draws of each state where ``perturb_func`` is random; with one, the standard error is
        unknown (NaN).
    **removal
        See :class:`quantus_ext.metrics.removal.RemovalMetric`.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules.
    """

    score: ClassVar[CurveScore]

    def __init__(
        self,
        steps: int | Sequence[float] | None = None,
        *,
        baseline: Baseline | None = None,
        features_in_step: int | None = None,
        n_samples: int = 1,
        **removal: Unpack[RemovalArguments],
    ) -> None:
        if baseline is not None:
            checks.one_of("baseline", baseline, tuple(_BASELINES))
            for name in ("perturb_func", "perturb_baseline", "perturb_func_kwargs"):
                if name in removal:
                    raise ValueError(f"baseline={baseline!r} stands in for {name}: give one")
            removal["perturb_func"], removal["perturb_baseline"] = _BASELINES[baseline]
        super().__init__(**removal)
        self.fractions = checks.grid("steps", STEPS if steps is None else steps)
        self.features_in_step = None
        if features_in_step is not None:
            if steps is not None:
                raise ValueError(
                    "features_in_step stands in for steps: leave one out of "
                    f"features_in_step={checks.shown(features_in_step)} and "
                    f"steps={checks.shown(steps)}"
                )
            if self.element == "segment":
                raise ValueError(
                    'features_in_step needs samples with as many elements, not element="segment"'
                )
            self.features_in_step = checks.positive_integer("features_in_step", features_in_step)
        self.n_samples = checks.positive_integer("n_samples", n_samples)

    @property
    def evaluations_a_sample(self) -> int | None:
        """See :attr:`quantus_ext.base.TorchMetric.evaluations_a_sample`."""
        if self.features_in_step is not None:
            return None
        return 1 + (1 + (self.score == "abpc")) * len(self.fractions) * self.n_samples

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        elements = self.elements(batch)
        fractions = self.fractions
        if self.features_in_step is not None:
            t = elements.largest
            if not isinstance(adapter_of(batch.model).feature_mask, (GroupedColumns, type(None))):
                raise ValueError(
                    "features_in_step needs samples with as many elements, which texts and padded "
                    "series have not: use steps"
                )
            fractions = [*(k / t for k in range(0, t, self.features_in_step)), 1.0]
        return functional.removal_curves(
            forward,
            batch.x,
            batch.maps,
            batch.y,
            fractions=fractions,
            scores=[self.score],
            elements=elements,
            perturbation=self.perturbation(batch.model),
            n_draws=self.n_samples,
            **batch.known,
        )[self.score]


class MoRF(RemovalCurve):
    """MoRF: how far the output drops, on average, as the most relevant elements go first.

    ``1/(L+1) Σ_k (f(x⁰) - f(xᵏ))`` over equal steps with both ends, as M4 has it; higher is
    better. Where what is removed is not evenly spaced, as in fractions of one's own or where steps
    do not divide the elements, the states are weighted so that a straight curve keeps its mean; see
    ``quantus_ext.functional.removal_curves.mean_weights``.

    See :class:`~quantus_ext.metrics.removal_curves.RemovalCurve` for its arguments; ``details`` has
    ``curve``, ``fractions``, ``original_score``, ``baseline_score`` and ``final_drop``.
    """

    name = "MoRF"
    score = "morf"
    max_difference = 1.0
    score_direction = ScoreDirection.HIGHER
    score_range = (-1.0, 1.0)


class LeRF(RemovalCurve):
    """LeRF: how far the output drops as the least relevant elements go first; lower is better.

    See :class:`MoRF`.
    """

    name = "LeRF"
    score = "lerf"
    max_difference = 1.0
    score_direction = ScoreDirection.LOWER
    score_range = (-1.0, 1.0)


class ABPC(RemovalCurve):
    """ABPC: the area between the two perturbation curves, ``MoRF - LeRF``; higher is better.

    A random order scores 0 on average. ``details`` has ``morf``, ``lerf``, ``curve_morf``,
    ``curve_lerf``, ``fractions``, ``original_score``, ``baseline_score`` and ``final_drop``. See
    :class:`~quantus_ext.metrics.removal_curves.RemovalCurve` for its arguments.
    """

    name = "ABPC"
    score = "abpc"
    score_direction = ScoreDirection.HIGHER
    score_range = (-1.0, 1.0)


class AreaUnderCurve(RemovalCurve):
    """Base of the metrics that are the area under a removal curve.

    Parameters
    ----------
    return_auc_per_sample : bool, default True
        As Quantus's Pixel-Flipping has it. A score is a number here, so it must be True; the
        curves are in ``details["curve"]``.
    steps, **curve
        See :class:`~quantus_ext.metrics.removal_curves.RemovalCurve`.
    """

    def __init__(
        self,
        steps: int | Sequence[float] | None = None,
        *,
        return_auc_per_sample: bool = True,
        **curve: Unpack[CurveArguments],
    ) -> None:
        if not checks.flag("return_auc_per_sample", return_auc_per_sample):
            raise ValueError(
                'return_auc_per_sample must be True, is False: the curves are in details["curve"]'
            )
        super().__init__(steps, **curve)


class Deletion(AreaUnderCurve):
    """Deletion: the area under the output as the most relevant elements go; lower is better.

    Over the fractions that are really removed, from 0 to 1, by the trapezoid rule (Petsiuk et al.,
    2018), so that a straight curve's area does not depend on the number of steps. ``details`` has
    ``curve``, ``fractions``, ``original_score``, ``baseline_score`` and ``final_drop``. See
    :class:`~quantus_ext.metrics.removal_curves.AreaUnderCurve` for its arguments.
    """

    name = "Deletion"
    score = "deletion"
    score_direction = ScoreDirection.LOWER
    score_range = (0.0, 1.0)


class Insertion(AreaUnderCurve):
    """Insertion: the area under the output as the most relevant elements come; higher is better.

    It begins with everything removed. ``details`` as for :class:`Deletion`, with ``final_rise`` in
    place of ``final_drop``.
    """

    name = "Insertion"
    score = "insertion"
    score_direction = ScoreDirection.HIGHER
    score_range = (0.0, 1.0)
