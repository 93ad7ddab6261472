"""MoRF, LeRF and ABPC (M4), Deletion and Insertion (RISE) as Quantus metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from quantus.functions.perturb_func import baseline_replacement_by_indices
from quantus.helpers.enums import ScoreDirection
from typing_extensions import Unpack

from quantus_ext import checks, draws, functional
from quantus_ext.adapters.base import adapter_of
from quantus_ext.adapters.columns import GroupedColumns
from quantus_ext.batch import Batch
from quantus_ext.draws import AutoDraws, Draws
from quantus_ext.engine.elements import Elements
from quantus_ext.engine.forward import Forward
from quantus_ext.functional.removal_curves import CurveScore
from quantus_ext.functional.scores import Scores
from quantus_ext.metrics.removal import RemovalArguments, RemovalMetric
from quantus_ext.perturbation import (
    blur_replacement_by_indices,
    gaussian_blur_replacement_by_indices,
    resolve,
)

Baseline = Literal["black", "mean", "blur", "gaussian_blur"]

STEPS = 20
"""By default."""

_MOST_DRAWS = 50
"""That a pilot calls for."""

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
    n_samples: int | Literal["auto"] | AutoDraws


class RemovalCurve(RemovalMetric):
    r"""Base class of the metrics that summarise a removal curve.

    Parameters
    ----------
    steps : int or sequence of float, optional
        The number of equal steps from nothing to everything, 20 by default: after k steps,
        ``⌊k/steps·t⌋`` of a sample's t elements are removed. Or the fractions themselves; 0 and 1
        are added. Steps that remove the same number of elements are evaluated and counted once.
    baseline : {"black", "mean", "blur", "gaussian_blur"}, optional
        The replacement, instead of ``perturb_func`` and ``perturb_baseline``: 0 in the model's
        input space, the mean of the sample, the mean over a window of side 15, or a Gaussian mean
        over a window of 51 with standard deviation 20.
    features_in_step : int, optional
        Elements removed per step, instead of ``steps``; the last step removes the rest. Not for
        ``element="segment"``, texts and padded series, whose samples differ in their numbers of
        elements.
    n_samples : int, "auto" or AutoDraws, default 1
        Draws per state if ``perturb_func`` is random; with one draw, the standard error is unknown
        (NaN).
    **removal
        See :class:`quantus_ext.metrics.removal.RemovalMetric`.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    score: ClassVar[CurveScore]
    _shown_defaults: ClassVar[Mapping[str, Any]] = {"steps": STEPS}

    def __init__(
        self,
        steps: int | Sequence[float] | None = None,
        *,
        baseline: Baseline | None = None,
        features_in_step: int | None = None,
        n_samples: int | Literal["auto"] | AutoDraws = 1,
        **removal: Unpack[RemovalArguments],
    ) -> None:
        if baseline is not None:
            checks.one_of("baseline", baseline, tuple(_BASELINES))
            for name in ("perturb_func", "perturb_baseline", "perturb_func_kwargs"):
                if name in removal:
                    raise ValueError(f"baseline={baseline!r} replaces {name}: pass one of them")
            removal["perturb_func"], removal["perturb_baseline"] = _BASELINES[baseline]
        super().__init__(**removal)
        self.fractions = checks.grid("steps", STEPS if steps is None else steps)
        self.features_in_step = None
        if features_in_step is not None:
            if steps is not None:
                raise ValueError(
                    "features_in_step replaces steps: leave one out of "
                    f"features_in_step={checks.shown(features_in_step)} and "
                    f"steps={checks.shown(steps)}"
                )
            if self.element == "segment":
                raise ValueError(
                    'features_in_step needs equal numbers of elements, unlike element="segment"'
                )
            self.features_in_step = checks.positive_integer("features_in_step", features_in_step)
        self.n_samples, self.auto_draws = draws.read("n_samples", n_samples, _MOST_DRAWS)

    def _shown_argument(self, name: str) -> Any:
        if name == "steps":
            count = len(self.fractions) - 1
            is_even = self.fractions == checks.grid("steps", count)
            return count if is_even else self.fractions
        return super()._shown_argument(name)

    @property
    def evaluations_a_sample(self) -> int | None:
        """See :attr:`quantus_ext.base.TorchMetric.evaluations_a_sample`."""
        if self.features_in_step is not None:
            return None
        return 1 + (1 + (self.score == "abpc")) * len(self.fractions) * self.n_samples

    def known_draws(self) -> Draws | None:
        """See :meth:`quantus_ext.base.TorchMetric.known_draws`; nothing is drawn but noise."""
        if self.auto_draws is not None and not resolve(self.perturb_func).random:
            return Draws(1, "nothing is random")
        return super().known_draws()

    def fractions_of(self, elements: Elements) -> Sequence[float]:
        """See :meth:`quantus_ext.metrics.removal.RemovalMetric.fractions_of`."""
        if self.features_in_step is None:
            return self.fractions
        t = elements.largest
        return [*(k / t for k in range(0, t, self.features_in_step)), 1.0]

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        elements = self.elements(batch)
        has_equal_numbers = isinstance(
            adapter_of(batch.model).feature_mask, (GroupedColumns, type(None))
        )
        if self.features_in_step is not None and not has_equal_numbers:
            raise ValueError(
                "features_in_step needs equal numbers of elements per sample, unlike texts "
                "and padded series: use steps"
            )
        return functional.removal_curves(
            forward,
            batch.x,
            batch.maps,
            batch.y,
            fractions=self.fractions_of(elements),
            scores=[self.score],
            elements=elements,
            perturbation=self.perturbation(batch.model),
            n_draws=self.n_samples,
            **batch.known,
        )[self.score]


class MoRF(RemovalCurve):
    """MoRF: the mean drop of the output while the most relevant elements are removed first.

    ``1/(L+1) Σ_k (f(x⁰) - f(xᵏ))`` over equal steps, including both end points (M4, Li et al.,
    2023); higher is better. For uneven steps, the states are weighted so that a straight curve
    keeps its mean; see ``quantus_ext.functional.removal_curves.mean_weights``.

    See :class:`~quantus_ext.metrics.removal_curves.RemovalCurve` for the arguments. ``details`` has
    ``curve``, ``fractions``, ``original_score``, ``baseline_score`` and ``final_drop``.
    """

    name = "MoRF"
    score = "morf"
    max_difference = 1.0
    score_direction = ScoreDirection.HIGHER
    score_range = (-1.0, 1.0)


class LeRF(RemovalCurve):
    """LeRF: the mean drop while the least relevant elements are removed first; lower is better.

    See :class:`MoRF`.
    """

    name = "LeRF"
    score = "lerf"
    max_difference = 1.0
    score_direction = ScoreDirection.LOWER
    score_range = (-1.0, 1.0)


class ABPC(RemovalCurve):
    """ABPC: the area between the two removal curves, ``MoRF - LeRF``; higher is better.

    A random order scores 0 on average. ``details`` has ``morf``, ``lerf``, ``curve_morf``,
    ``curve_lerf``, ``fractions``, ``original_score``, ``baseline_score`` and ``final_drop``. See
    :class:`~quantus_ext.metrics.removal_curves.RemovalCurve` for the arguments.
    """

    name = "ABPC"
    score = "abpc"
    score_direction = ScoreDirection.HIGHER
    score_range = (-1.0, 1.0)


class AreaUnderCurve(RemovalCurve):
    """Base class of the metrics that are the area under a removal curve.

    Parameters
    ----------
    return_auc_per_sample : bool, default True
        As in Quantus's Pixel-Flipping. It must be True, because a score is a number; the curves are
        in ``details["curve"]``.
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
    """Deletion: the area under the output while the most relevant elements are removed.

    Lower is better. The area is over the fractions that are actually removed, from 0 to 1, by the
    trapezoidal rule (RISE, Petsiuk et al., 2018), so it does not depend on the number of steps for
    a straight curve. ``details`` has ``curve``, ``fractions``, ``original_score``,
    ``baseline_score`` and ``final_drop``, and as shares of the original output ``normalised``, the
    area, and ``relative_drop``. See :class:`~quantus_ext.metrics.removal_curves.AreaUnderCurve` for
    the arguments.
    """

    name = "Deletion"
    score = "deletion"
    score_direction = ScoreDirection.LOWER
    score_range = (0.0, 1.0)


class Insertion(AreaUnderCurve):
    """Insertion: the area under the output while the most relevant elements are restored.

    Higher is better. The curve starts with everything removed. ``details`` as for
    :class:`Deletion`, with ``final_rise`` and ``relative_rise`` instead of the drops.
    """

    name = "Insertion"
    score = "insertion"
    score_direction = ScoreDirection.HIGHER
    score_range = (0.0, 1.0)
