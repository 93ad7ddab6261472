"""Fidelity, R-Fidelity and F-Fidelity (Zheng et al., ICLR 2025) as Quantus metrics."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from quantus.helpers.enums import ScoreDirection
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks, draws, functional
from quantus_ext.adapters.base import adapter_of
from quantus_ext.adapters.tokens import refuse_embeddings
from quantus_ext.batch import Batch
from quantus_ext.draws import AutoDraws
from quantus_ext.engine.elements import Elements
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.modules import without_keywords
from quantus_ext.finetune import (
    FineTuner,
    Health,
    MaskSampler,
    TuningReport,
    health_report,
    resolve_tuned_model,
    segments_of,
    tuning_seed,
)
from quantus_ext.finetune.known import refuse_bent
from quantus_ext.finetune.training import check_labels
from quantus_ext.functional.fidelity_sizes import Sign, removal_counts
from quantus_ext.functional.removal import Output
from quantus_ext.functional.scores import Scores
from quantus_ext.metrics.removal import RemovalArguments, RemovalMetric

SPARSITY = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Explanation sizes of the paper: 5 % to 95 % in steps of 5 %."""

_MOST_DRAWS = 50
"""The paper's, which is also the most that a pilot calls for."""

_REPORTED = 5
"""Numbers of removed elements, at most, for which the health report measures the models."""


class FidelityArguments(RemovalArguments, total=False):
    """Keyword arguments of every metric of the family; see :class:`Fidelity`."""

    score: Sign
    output: Output


class Fidelity(RemovalMetric):
    r"""Fidelity: whether the prediction changes without the explanation and stays with it alone.

    ``Fid⁺ = 1(y = f(x)) - 1(y = f(x without the top s))``, higher is better, and
    ``Fid⁻ = 1(y = f(x)) - 1(y = f(only the top s))``, lower is better (Zheng et al., 2025, eq.
    1-2), averaged over the distinct explanation sizes. R-Fidelity and F-Fidelity are subclasses.

    Parameters
    ----------
    sparsity : float or sequence of float, default 0.05, 0.10, …, 0.95
        Explanation sizes as fractions of the elements, ``s = ⌊sparsity·t⌋``. A size that several
        fractions share counts once.
    score : {"plus", "minus", "gap"}, default "plus"
        Which score is returned: Fid⁺, Fid⁻, or Fid⁺ - Fid⁻. One call computes all; see ``details``.
    output : {"label", "probability"}, default "label"
        Compare labels, ``1(y = f(·))``, or use the softmax probability of y.
    **removal
        See :class:`quantus_ext.metrics.removal.RemovalMetric`. Fidelity makes one draw, so with a
        random ``perturb_func`` its standard error comes from how much neighbouring sizes differ.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    name = "Fidelity"
    score_direction = ScoreDirection.HIGHER
    score_range = (-1.0, 1.0)
    max_difference = 1.0
    reads_values = False

    alpha: tuple[float, float] = (1.0, 1.0)
    beta: float = 1.0
    n_samples: int = 1
    tolerance: float | None = None

    def __init__(
        self,
        sparsity: float | Sequence[float] = SPARSITY,
        *,
        score: Sign = "plus",
        output: Output = "label",
        **removal: Unpack[RemovalArguments],
    ) -> None:
        super().__init__(**removal)
        self.sparsity = checks.fractions("sparsity", sparsity)
        checks.one_of("score", score, ("plus", "minus", "gap"))
        checks.one_of("output", output, ("label", "probability"))
        self.score = score
        self.output = output
        self.reads_values = output != "label"
        if score == "gap":
            self.max_difference = 2.0
        if score == "minus":
            # Quantus declares it for the class; here it depends on which score is returned.
            self.score_direction = ScoreDirection.LOWER  # type: ignore[misc]

    @property
    def evaluations_a_sample(self) -> int | None:
        """See :attr:`quantus_ext.base.TorchMetric.evaluations_a_sample`."""
        return 1 + 2 * len(self.sparsity) * self.n_samples

    @property
    def fewest_draws(self) -> int:
        """See :attr:`quantus_ext.base.TorchMetric.fewest_draws`."""
        # Several sizes, drawn once each, tell how much draws differ.
        return 1 if len(set(self.sparsity)) > 1 else draws.FEWEST

    def fractions_of(self, elements: Elements) -> Sequence[float]:
        """See :meth:`quantus_ext.metrics.removal.RemovalMetric.fractions_of`."""
        return self.sparsity

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        if self.output == "label" and batch.clean.shape[1] == 1:
            raise ValueError("output='label' needs a model with at least two outputs, it has one")
        adapter = adapter_of(batch.model)
        if self.output == "label" and not adapter.one_label:
            raise ValueError(
                "output='label' needs a model whose largest output is its answer, which that of a "
                f"{type(adapter).__name__} is not: use output='probability'"
            )
        computed = batch.spaces is not None and batch.spaces.column is not None
        if self.output == "probability" and not computed and not _are_probabilities(batch.clean):
            raise ValueError(
                "output='probability' needs probabilities, which the outputs with softmax=False "
                "or output='logit' are not: leave these out, or score this metric by a call "
                "without them"
            )
        return functional.fidelity(
            forward,
            batch.x,
            batch.maps,
            batch.y,
            sparsity=self.sparsity,
            elements=self.elements(batch),
            perturbation=self.perturbation(batch.model),
            alpha=self.alpha,
            beta=self.beta,
            n_draws=self.n_samples,
            score=self.score,
            output=self.output,
            tolerance=self.tolerance,
            **batch.known,
        )


class RFidelity(Fidelity):
    r"""R-Fidelity: Fidelity that removes a random part of the explanation, or of the rest.

    Each draw removes ``⌊α⁺s⌋`` of the top s for Fid⁺, and ``⌈α⁻(t - s)⌉`` of the others for Fid⁻,
    so that inputs stay closer to the training data (Zheng et al., 2025, eq. 3-4).

    Parameters
    ----------
    sparsity : float or sequence of float
        See :class:`Fidelity`.
    alpha : float or (float, float), default 0.5
        The fraction that a draw removes, or (α⁺, α⁻). 1 is Fidelity.
    n_samples : int, "auto" or AutoDraws, default 50
        Largest number of draws per sample, size and sign. Up to 1,024 subsets are drawn without
        replacement; if there are no more subsets than draws, all are used. The standard errors of
        one draw come from how much neighbouring sizes differ. ``"auto"``: as few as
        the means over samples need, found by a pilot; see :class:`~quantus_ext.draws.AutoDraws`.
    tolerance : float, optional
        Target standard error of a sample's score: drawing stops when it is reached, checked at
        fixed counts from 8 per size on.
    **fidelity
        See :class:`Fidelity`.
    """

    name = "R-Fidelity"

    def _shown_argument(self, name: str) -> Any:
        if name == "alpha" and self.alpha[0] == self.alpha[1]:
            return self.alpha[0]
        return super()._shown_argument(name)

    def __init__(
        self,
        sparsity: float | Sequence[float] = SPARSITY,
        *,
        alpha: float | tuple[float, float] = 0.5,
        n_samples: int | Literal["auto"] | AutoDraws = _MOST_DRAWS,
        tolerance: float | None = None,
        **fidelity: Unpack[FidelityArguments],
    ) -> None:
        super().__init__(sparsity, **fidelity)
        pair = checks.fractions("alpha", alpha)
        if len(pair) > 2:
            raise ValueError(f"alpha must be one number or two, has {len(pair)}")
        self.alpha = (pair[0], pair[-1])
        self.n_samples, self.auto_draws = draws.read("n_samples", n_samples, _MOST_DRAWS)
        self.tolerance = checks.optional(checks.positive_number, "tolerance", tolerance)
        draws.refuse_both("n_samples", self.auto_draws, self.tolerance)


class FFidelity(RFidelity):
    r"""F-Fidelity: R-Fidelity of a copy of the model that was fine-tuned under masks.

    The copy is trained on inputs with up to ``⌊βt⌋`` randomly masked elements (Zheng et al., 2025,
    eq. 5), and no draw removes more than that (eq. 6, Alg. 1). The maps explain the original model;
    the copy only evaluates the masked inputs.

    Parameters
    ----------
    sparsity, alpha, n_samples, tolerance
        See :class:`RFidelity`.
    fine_tune : FineTuner, callable, torch.nn.Module or None
        A :class:`quantus_ext.FineTuner` with training data, a function
        ``(model, mask_sampler) -> model``, or a fine-tuned model. None tunes on the inputs of the
        call: scores then compare explainers on these inputs only, and a warning says so. With
        ``element="segment"`` it must be a function or a model, because training data have no
        segment maps.
    beta : float, default 0.1
        β, the largest fraction of elements that is masked.
    **fidelity
        See :class:`Fidelity`.

    Attributes
    ----------
    health : Health
        After a call: how well the original and the tuned model tolerate masks. A call that fails
        leaves the previous one.
    healths : list of Health
        Of all calls so far, for :func:`quantus_ext.metaquantus.healing`.
    """

    name = "F-Fidelity"

    def __init__(
        self,
        sparsity: float | Sequence[float] = SPARSITY,
        *,
        fine_tune: FineTuner | nn.Module | Callable[..., nn.Module] | None = None,
        beta: float = 0.1,
        alpha: float | tuple[float, float] = 0.5,
        n_samples: int | Literal["auto"] | AutoDraws = _MOST_DRAWS,
        tolerance: float | None = None,
        **fidelity: Unpack[FidelityArguments],
    ) -> None:
        super().__init__(
            sparsity, alpha=alpha, n_samples=n_samples, tolerance=tolerance, **fidelity
        )
        self.beta = checks.fraction("beta", beta)
        check_fine_tune(fine_tune)
        self.fine_tune = fine_tune
        self.health: Health | None = None
        self.healths: list[Health] = []

    def keep_of(self, scored: FFidelity) -> None:
        """See :meth:`quantus_ext.base.TorchMetric.keep_of`."""
        self.health = scored.health
        if scored.health is not None:
            self.healths.append(scored.health)

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """Return the fine-tuned copy, and store its health report."""
        tuned, masks, report = self._tuned(model, x, y)
        with checks.about_model("fine_tune"):
            self.health = health_report(
                model,
                tuned,
                x,
                y,
                masks,
                self._removals(x, masks),
                report,
                precision=self.execution.precision,
            )
        return tuned

    @property
    def trains(self) -> bool:
        """See :attr:`quantus_ext.base.TorchMetric.trains`."""
        return not isinstance(self.fine_tune, nn.Module)

    @property
    def learns_labels(self) -> bool:
        """See :attr:`quantus_ext.base.TorchMetric.learns_labels`."""
        return self.fine_tune is None

    def settled(self, model: nn.Module, x: Tensor, y: Tensor, *, train: bool = True) -> FFidelity:
        """See :meth:`quantus_ext.base.TorchMetric.settled`."""
        tuned = self._tuned(model, x, y)[0] if train else model
        ready = copy.copy(self)
        # A ready model is called with the keywords of each call.
        ready.fine_tune = without_keywords(tuned)
        return ready

    def _tuned(
        self, model: nn.Module, x: Tensor, y: Tensor
    ) -> tuple[nn.Module, MaskSampler, TuningReport | None]:
        check_labels(model, x, y)
        fine_tune = self.fine_tune
        if fine_tune is None:
            warnings.warn(
                "fine_tune is None: the copy is tuned on the inputs to be scored, so scores "
                "compare explainers on this set only",
                UserWarning,
                stacklevel=4,
            )
            fine_tune = FineTuner(x, y, display_progressbar=self.display_progressbar)
        if not isinstance(fine_tune, (FineTuner, nn.Module)):
            refuse_bent(model, x, x.device)
        adapter = adapter_of(model)
        refuse_embeddings(model, self.name)
        masks = MaskSampler(
            perturbation=self.perturbation(model),
            beta=self.beta,
            element=self.element,
            patch_size=self.patch_size,
            feature_mask=adapter.feature_mask,
            segments=segments_of(fine_tune, self.element),
            seed=tuning_seed(fine_tune),
        )
        tuned, report = resolve_tuned_model(fine_tune, model, masks)
        if adapter.takes_ids and not adapter_of(tuned).takes_ids:
            raise ValueError(
                "fine_tune must give a model of token ids as the explained one is, an adapter "
                f"around the tuned model, gives a {type(tuned).__name__}"
            )
        return tuned, masks, report

    def _removals(self, x: Tensor, masks: MaskSampler) -> list[float]:
        """Return shares of a sample's elements that draws remove: all, or about five of them."""
        if self.element == "segment":
            return []
        t = masks.elements(x).largest
        sizes = [removal_counts(t, share, self.alpha, self.beta) for share in self.sparsity]
        counts = sorted({count for size in sizes for count in (size.plus, size.minus)})
        chosen = np.linspace(0, len(counts) - 1, min(len(counts), _REPORTED)).round().astype(int)
        return [counts[place] / t for place in chosen]


def check_fine_tune(fine_tune: object) -> None:
    """Raise TypeError for what gives no tuned model."""
    if not (fine_tune is None or callable(fine_tune)) or isinstance(fine_tune, type):
        raise TypeError(
            "fine_tune must be a FineTuner, a torch.nn.Module or a callable "
            f"(model, mask_sampler) -> model, is {checks.shown(fine_tune)}"
        )


def _are_probabilities(outputs: Tensor) -> bool:
    known = outputs[outputs.isfinite().all(1)]
    # Not that they sum to 1: those of several heads, or of labels that don't exclude each other,
    # are probabilities too.
    return bool(((known >= 0) & (known <= 1 + 1e-2)).all())
