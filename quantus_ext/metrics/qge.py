"""QGE (Eiras-Franco et al., 2025): any metric, compared with the inverse explanation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from quantus.helpers.enums import EvaluationCategory, ScoreDirection
from quantus.metrics.base import Metric
from quantus.metrics.faithfulness.region_perturbation import RegionPerturbation
from quantus.metrics.faithfulness.sensitivity_n import SensitivityN
from quantus.metrics.robustness.consistency import Consistency
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.base import CommonArguments, TorchMetric
from quantus_ext.batch import Batch, Call
from quantus_ext.engine import sampling, shared
from quantus_ext.engine.answers import Asked
from quantus_ext.engine.elements import Elements
from quantus_ext.engine.forward import Forward
from quantus_ext.foreign import Foreign, Reduce
from quantus_ext.functional.inverse import KINDS, Kind, make_reference
from quantus_ext.functional.scores import Scores
from quantus_ext.metrics.roar import ROAR

Direction = Literal["higher", "lower"]

_MAP_BYTES = 2**26
"""Of maps and references that are scored at once, at least two of each."""

_ITSELF = -1
"""The draw that is no reference: the explanation itself."""


class QGE(TorchMetric):
    r"""Quality Gap Estimate, ``q(e) - q(inv(e))`` (equation 5); higher is better.

    It answers whether a score is good: is the explanation ``e`` better than the same values given
    to the variables in the opposite order? About 0 says that the order could as well be any other.
    Variables are what the metric removes or perturbs at once: pixels with all their channels,
    patches, segments, the columns of a feature. All values of one change place together with
    those of another; where the two are of unlike size, each gets the other's element score in
    place of its values. For metrics of other packages every value of the map is a variable.
    Where a low ``q`` is good the difference is turned, so that positive always reads "better than
    its inverse".

    It is 0 for metrics that do not depend on which variable has which value, as Sparseness,
    Complexity, Effective Complexity and Completeness (where the inverse's sum differs by rounding
    alone, as a chance ±1); and for those that compare explanations with each other, all of which
    are inverted, as MPRT and Input Invariance.

    Metrics of this package score the explanation and its reference in one pass, with the same
    draws; ROAR's reference is scored by the model that was trained for ``e``. Any other metric of
    Quantus's kind is copied, and the copy is called twice on the attributions as it would see
    them, normalised and absolute, from the same global random states; its own random numbers, as
    whatever it computes across samples, go by batches of ``batch_size``. Its standard errors are
    NaN wherever it touched a global random state, for a number that it did not use as well.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        Any metric with one score, or one curve, a sample. It stays as it is.
    reference : {"inverse", "random", "negated"}, default "inverse"
        What ``e`` is compared with: its inverse; random orders of its values, ``q(e)`` less their
        mean ``q`` (equation 7); or ``-e``, for metrics that read ranks only.
    n_references : int, default 1
        How many random orders.
    signed : bool, default True
        Turn the difference where lower is better; False for equation 5 as written.
    direction : {"higher", "lower"}, optional
        Which ``q`` is better, if not the one that ``metric`` declares. What Region Perturbation
        and Consistency declare wrongly in Quantus 0.6 is corrected without it.
    reduce : callable, default ``numpy.mean``
        Makes a number of each curve; called with curves (n, points) and ``axis=1``. Metrics of
        this package reduce theirs themselves.
    **common
        See :class:`quantus_ext.base.TorchMetric`. ``abs``, the normalisation and the chunk size
        are the metric's own by default; ``seed`` decides on ties, random orders and global random
        states.

    Attributes
    ----------
    details : dict of numpy.ndarray
        After a call: ``score``; ``reference``, the mean of the ``references``, (n, n_references);
        and what the metric has as its details, of both, with these two words in front.
    inner : quantus.metrics.base.Metric or None
        After a call, the copy of a metric of this package that was asked, with what it keeps of
        the call: F-Fidelity's ``health``, ROAR's ``reports``.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules, or ``metric`` has no score a sample.

    Examples
    --------
    The first explanation has the largest weight on top, the second the smallest:

    >>> import numpy as np, quantus, torch
    >>> from quantus_ext import QGE
    >>> model = torch.nn.Linear(3, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[4.0, 2.0, 1.0], [0.0, 0.0, 0.0]]))
    >>> metric = QGE(quantus.FaithfulnessEstimate(normalise=False, perturb_baseline=0.0))
    >>> maps = np.array([[4.0, 2.0, 1.0], [1.0, 2.0, 4.0]], dtype=np.float32)
    >>> scores = metric(model, np.ones((2, 3), dtype=np.float32), np.array([0, 0]), maps)
    >>> [round(score, 3) for score in scores]
    [1.929, -1.929]
    """

    name = "QGE"
    score_direction = ScoreDirection.HIGHER
    evaluation_category = EvaluationCategory.NONE

    def __init__(
        self,
        metric: Metric[Any],
        reference: Kind = "inverse",
        n_references: int = 1,
        *,
        signed: bool = True,
        direction: Direction | ScoreDirection | None = None,
        reduce: Reduce = np.mean,
        **common: Unpack[CommonArguments],
    ) -> None:
        if not isinstance(metric, Metric):
            raise TypeError(
                f"metric must be an instance of a Quantus metric, is {type(metric).__name__}"
            )
        if isinstance(metric, SensitivityN):
            raise ValueError(
                "metric must give a score a sample: SensitivityN correlates across the samples, "
                "once for each number of features"
            )
        if isinstance(metric, ROAR) and metric.retrain != "once":
            raise ValueError(
                'metric must be asked with one model, so ROAR with retrain="once", has '
                f"retrain={metric.retrain!r}"
            )
        own_normalisation = {"normalise_func", "normalise_func_kwargs"} & set(common)
        common.setdefault("abs", metric.abs)
        if all(common.get(name) is None for name in own_normalisation):
            common.setdefault("normalise", metric.normalise)
        if isinstance(metric, TorchMetric):
            execution = metric.execution
            # Both say how many rows a pass takes.
            if not {"chunk_size", "plan"} & common.keys():
                common["chunk_size"], common["plan"] = execution.chunk_size, execution.plan
            common.setdefault("precision", execution.precision)
            common.setdefault("compile", execution.compile)
        if "normalise_func_kwargs" in common:
            common.setdefault("normalise_func", metric.normalise_func)
        super().__init__(**common)
        if not own_normalisation:
            self.normalise_func = metric.normalise_func
            self.normalise_func_kwargs = metric.normalise_func_kwargs
        checks.one_of("reference", reference, KINDS)
        self.n_references = checks.positive_integer("n_references", n_references)
        if self.n_references > 1 and reference != "random":
            raise ValueError(
                f'n_references above 1 needs reference="random", is {self.n_references} with '
                f"{reference!r}"
            )
        reduce = checks.function("reduce", reduce)
        if reduce is not np.mean and isinstance(metric, TorchMetric):
            raise ValueError(
                f"reduce is not used around {metric.name}, which gives one number a sample: leave "
                "it at numpy.mean"
            )
        self.metric = metric
        self.inner: TorchMetric | None = None
        self.reference = reference
        self.signed = checks.flag("signed", signed)
        self.direction = better_scores(metric, direction)
        self.reduce = reduce
        self._describe(metric)

    @property
    def over_embeddings(self) -> bool:  # type: ignore[override]
        """See :class:`quantus_ext.base.TorchMetric`; it is the metric's own."""
        return (self.inner or self._adapted).over_embeddings

    @property
    def _adapted(self) -> TorchMetric:
        """The metric, in the form of this package's."""
        if isinstance(self.metric, TorchMetric):
            return self.metric
        return Foreign(self.metric, self.reduce, seed=self.seed)

    def _describe(self, metric: Metric[Any]) -> None:
        """Declare for the instance what Quantus declares for a class."""
        self.name = f"QGE ({metric.name})"  # type: ignore[misc]
        self.data_applicability = metric.data_applicability  # type: ignore[misc]
        self.evaluation_category = metric.evaluation_category  # type: ignore[misc]
        if not self.signed:
            self.score_direction = self.direction  # type: ignore[misc]
        self.nan_reason = "their metric gives NaN for them or for what they are compared with"  # type: ignore[misc]
        adapted = self._adapted
        self.default_softmax = adapted.default_softmax  # type: ignore[misc]
        self.asks_model = adapted.asks_model  # type: ignore[misc]
        self.clean_rows = adapted.clean_rows  # type: ignore[misc]
        self.reads_labels = adapted.reads_labels  # type: ignore[misc]
        self.reads_values = adapted.reads_values
        self.carries_entries = adapted.carries_entries  # type: ignore[misc]
        self.custom_is_index = adapted.custom_is_index

    def for_call(self, call: Call) -> QGE:
        """See :meth:`quantus_ext.base.TorchMetric.for_call`."""
        other = copy.copy(self)
        other.inner = self._adapted.for_call(call)
        # Maps that it trains on or makes itself are prepared as those that it is given.
        other.inner.abs, other.inner.normalise = self.abs, self.normalise
        other.inner.normalise_func = self.normalise_func
        return other

    def keep_of(self, scored: QGE) -> None:
        """See :meth:`quantus_ext.base.TorchMetric.keep_of`."""
        self.inner = scored.inner

    def reading(self, carry_inputs: bool | None) -> QGE:
        """See :meth:`quantus_ext.base.TorchMetric.reading`; it is the metric's own."""
        other = copy.copy(self)
        other.inner = self._asked.reading(carry_inputs)
        return other

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """See :meth:`quantus_ext.base.TorchMetric.model_to_ask`; it is the metric's own."""
        return self._asked.model_to_ask(model, x, y)

    def elements(self, batch: Batch) -> Elements | None:
        """See :meth:`quantus_ext.base.TorchMetric.elements`; they are the metric's own."""
        return self._asked.elements(batch)

    def seen(self, a: Tensor) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.seen`; it is the metric's own."""
        return self._asked.seen(a)

    @property
    def evaluations_a_sample(self) -> int | None:
        """See :attr:`quantus_ext.base.TorchMetric.evaluations_a_sample`."""
        once = self._adapted.evaluations_a_sample
        return None if once is None else once * (1 + self.n_references)

    @property
    def trains(self) -> bool:
        """See :attr:`quantus_ext.base.TorchMetric.trains`; it is the metric's own."""
        return isinstance(self.metric, TorchMetric) and self.metric.trains

    def settled(self, model: nn.Module, x: Tensor, y: Tensor, *, train: bool = True) -> QGE:
        """See :meth:`quantus_ext.base.TorchMetric.settled`; it is the metric's own."""
        ready = copy.copy(self)
        if isinstance(self.metric, TorchMetric):
            ready.metric = self.metric.settled(model, x, y, train=train)
        return ready

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`.

        Maps and references go together; further references in blocks, so that memory does not
        grow with their number.
        """
        metric = self._asked
        seed = sampling.fresh_seed() if metric.seed is None else metric.seed
        elements = metric.elements(batch)
        block = max(2, _MAP_BYTES // (batch.maps.numel() * batch.maps.element_size()))
        draws = range(_ITSELF, self.n_references)
        parts = []
        one_pass = len(draws) <= block or shared.current() is not None
        with nullcontext() if one_pass else shared.answers_shared():
            for start in range(0, len(draws), block):
                pairs = [(a, draw) for draw in draws[start : start + block] for a in batch.maps]
                stacked = replace(
                    batch,
                    maps=torch.stack([self._compared(*pair, batch, elements) for pair in pairs]),
                    seed=seed,
                    explainers=batch.explainers * (len(pairs) // len(batch.maps)),
                    remade=tuple(
                        partial(self._compared_again, draw=draw, batch=batch) for _, draw in pairs
                    ),
                )
                try:
                    parts.append(metric.evaluate_batch(forward, stacked))
                except (TypeError, ValueError):
                    # The maps by themselves give the error with the shapes that the caller knows.
                    metric.evaluate_batch(forward, batch)
                    raise
        return self._gap(parts, len(batch.maps))

    def _compared(
        self, a: Tensor, draw: int, batch: Batch, elements: Elements | None = None
    ) -> Tensor:
        """Return a reference of the explanations ``a``, or ``a`` where ``draw`` says so.

        Variables are the ``elements``, or by default the single values.
        """
        if draw == _ITSELF:
            return a
        reference = partial(
            make_reference,
            kind=self.reference,
            draw=draw,
            seed=batch.seed,
            index=batch.index.to(a.device).expand(len(a)),
        )
        if elements is not None:
            return reference(a, elements=elements)
        among = batch.counted.to(a.device).expand(a.shape)
        if a.ndim == 3:
            # Time by time, so that padding at the end moves nothing.
            return reference(a.transpose(1, 2), among=among.transpose(1, 2)).transpose(1, 2)
        return reference(a, among=among)

    def _compared_again(self, made: np.ndarray, draw: int, batch: Batch) -> np.ndarray:
        """Do the same to maps that the metric has made; one that is not finite stays."""
        maps = torch.from_numpy(np.array(made, order="C"))
        known = maps.flatten(1).isfinite().all(1)
        return torch.where(
            known.reshape(-1, *[1] * (maps.ndim - 1)),
            self._compared(maps.nan_to_num(), draw, batch),
            maps,
        ).numpy()

    def _gap(self, parts: Sequence[Scores], m: int) -> Scores:
        """Compare m maps with the mean of their references (equations 5, 7)."""
        # By draw, the maps themselves first.
        scores = torch.cat([part.score.double().unflatten(0, (-1, m)) for part in parts])
        errors = torch.cat([part.standard_error.unflatten(0, (-1, m)) for part in parts])
        score, references = scores[0], scores[1:]
        mean = references.mean(0)
        gap = score - mean
        if self.signed and self.direction is ScoreDirection.LOWER:
            gap = -gap
        # The draws are shared, so two standard errors don't say what that of the difference is;
        # only where nothing else is random do the references give it.
        order_error = torch.zeros_like(score)
        if self.reference == "random":
            spread = (
                references.std(0) if self.n_references > 1 else torch.full_like(score, torch.nan)
            )
            order_error = spread / self.n_references**0.5
        is_fixed = (errors == 0).all(0)
        details = {"score": score, "reference": mean, "references": references.movedim(0, 2)}
        for name, first in parts[0].details.items():
            own = first[:m]
            details[f"score_{name}"] = own
            # A mean of standard errors is none of the mean.
            if self.n_references == 1 or not name.startswith("error"):
                # Of each part by itself: curves of many references need not be in memory at once.
                rest = [first[m:], *(part.details[name] for part in parts[1:])]
                sums = [each.double().unflatten(0, (-1, m)).sum(0) for each in rest if len(each)]
                details[f"reference_{name}"] = torch.stack(sums).sum(0) / self.n_references
        asked = (
            Asked.of_all(
                part.asked[place] for part in parts for place in range(own, len(part.asked), m)
            )
            for own in range(m)
        )
        return Scores(gap, torch.where(is_fixed, order_error, torch.nan), details, tuple(asked))

    @property
    def _asked(self) -> TorchMetric:
        """The metric, ready for the call."""
        assert self.inner is not None
        return self.inner

    def at_positions(self, a: Tensor, x: Tensor, s: np.ndarray | Tensor | None) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.at_positions`; they are the metric's own."""
        return self._asked.at_positions(a, x, s)

    def _checked(
        self, a: Tensor, x: Tensor, features: Tensor | None = None, *, first: int = 0
    ) -> Tensor:
        return self._asked._checked(a, x, features, first=first)

    def _normalised(self, a: Tensor, *, first: int) -> Tensor:
        return self._asked._normalised(a, first=first)


def better_scores(
    metric: Metric[Any], direction: Direction | ScoreDirection | None
) -> ScoreDirection:
    """Return which scores of ``metric`` are better: as told, as corrected or as declared."""
    if direction is not None:
        value = direction.value if isinstance(direction, ScoreDirection) else direction
        checks.one_of("direction", value, [known.value for known in ScoreDirection])
        return ScoreDirection(value)
    # Quantus 0.6 declares both LOWER: one is a drop of the output after removing what is most
    # relevant, the other how often equal explanations have equal predictions.
    if isinstance(metric, RegionPerturbation) and metric.order == "morf":
        return ScoreDirection.HIGHER
    if isinstance(metric, Consistency):
        return ScoreDirection.HIGHER
    declared = getattr(metric, "score_direction", None)
    if not isinstance(declared, ScoreDirection):
        raise ValueError(
            f"direction must be given: {type(metric).__name__}.score_direction is {declared!r}"
        )
    return declared
