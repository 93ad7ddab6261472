"""QGE (Eiras-Franco et al., 2025): any metric, compared with the inverse explanation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
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
from quantus_ext.draws import AutoDraws
from quantus_ext.engine import sampling, shared
from quantus_ext.engine.answers import Asked
from quantus_ext.engine.elements import Elements
from quantus_ext.engine.forward import Forward
from quantus_ext.flags import Cuts
from quantus_ext.foreign import Foreign, Reduce, caveats
from quantus_ext.functional.inverse import KINDS, Kind, make_reference
from quantus_ext.functional.scores import Scores
from quantus_ext.metrics.roar import ROAR

Direction = Literal["higher", "lower"]

_MAP_BYTES = 2**26
"""Of maps and references that are scored at once, at least two of each."""

_ITSELF = -1
"""The draw that is no reference: the explanation itself."""


class QGE(TorchMetric):
    r"""Quality Gap Estimate, ``q(e) - q(inv(e))``; higher is better.

    Equation 5 of Eiras-Franco et al., 2025. Is the explanation ``e`` better than the same values
    given to the variables in reverse order? A score of about 0 means that any other order would do
    as well. If a low ``q`` is good, the sign is flipped, so that a positive score always means
    "better than its inverse".

    Variables are what the metric removes or perturbs at once: pixels with all their channels,
    patches, segments, groups of columns. All values of a variable move together; if two variables
    differ in size, each gets the other's element score instead. For metrics of other packages,
    every value of the map is a variable.

    QGE is 0 for metrics that do not depend on which variable has which value, such as Sparseness,
    Complexity, Effective Complexity and Completeness (where rounding alone can cause ±1), and for
    metrics that compare explanations with each other, since all are inverted, such as MPRT and
    Input Invariance.

    Metrics of this package score the explanation and its reference in one pass, with the same
    draws; ROAR's reference is scored by the model that was trained for ``e``. Any other metric is
    copied, and the copy is called twice from the same global random states, on the attributions as
    the metric sees them (normalised, absolute). Its random numbers, and anything it computes across
    samples, depend on the batches of ``batch_size``. Its standard errors are NaN if it used a
    global random state, even without effect.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        Any metric with one score, or one curve, per sample. It is not changed.
    reference : {"inverse", "random", "negated"}, default "inverse"
        What ``e`` is compared with: its inverse; random orders of its values, whose mean ``q`` is
        subtracted (eq. 7); or ``-e``, for metrics that use ranks only.
    n_references : int, default 1
        The number of random orders.
    signed : bool, default True
        Flip the sign if lower is better; False for equation 5 as written.
    direction : {"higher", "lower"}, optional
        Which ``q`` is better, if not as ``metric`` declares. Wrong declarations of Region
        Perturbation and Consistency in Quantus 0.6 are corrected automatically.
    reduce : callable, default ``numpy.mean``
        Turns curves (n, points) into n numbers, called with ``axis=1``. Metrics of this package
        reduce their own curves.
    **common
        See :class:`quantus_ext.base.TorchMetric`. ``abs``, the normalisation and the chunk size
        default to those of ``metric``. ``seed`` determines ties, random orders and global random
        states.

    Attributes
    ----------
    details : dict of numpy.ndarray
        After a call: ``score``; ``reference``, the mean of ``references``, (n, n_references); and
        the details of the metric for both, prefixed by ``score_`` and ``reference_``.
    inner : quantus.metrics.base.Metric or None
        After a call: the copy of a metric of this package that was used, with its results, such as
        F-Fidelity's ``health`` and ROAR's ``reports``.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid, or ``metric`` has no score per sample.

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
                "metric must give one score per sample: SensitivityN correlates across the "
                "samples, once for each number of features"
            )
        if isinstance(metric, ROAR) and metric.retrain != "once":
            raise ValueError(
                'metric must use one model, so ROAR needs retrain="once", has '
                f"retrain={metric.retrain!r}"
            )
        own_normalisation = {"normalise_func", "normalise_func_kwargs"} & set(common)
        common.setdefault("abs", metric.abs)
        if all(common.get(name) is None for name in own_normalisation):
            common.setdefault("normalise", metric.normalise)
        if isinstance(metric, TorchMetric):
            execution = metric.execution
            # Both set the rows per pass.
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
                f"reduce is not used around {metric.name}, which returns one number per sample: "
                "leave it at numpy.mean"
            )
        for caveat in caveats(metric):
            warnings.warn(caveat, UserWarning, stacklevel=2)
        self.metric = metric
        self.inner: TorchMetric | None = None
        self.reference = reference
        self.signed = checks.flag("signed", signed)
        self.direction = better_scores(metric, direction)
        self.reduce = reduce
        self._describe(metric)

    def _shown_argument(self, name: str) -> Any:
        if name == "direction" and self.direction is better_scores(self.metric, None):
            return None
        if name in ("abs", "normalise") and getattr(self, name) == getattr(self.metric, name):
            return False
        return super()._shown_argument(name)

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
        low, high = adapted.score_range
        self.score_range = (low - high, high - low)
        self.max_difference = 2 * adapted.max_difference
        self.carries_entries = adapted.carries_entries  # type: ignore[misc]
        self.custom_is_index = adapted.custom_is_index
        self.computes_spaces = adapted.computes_spaces

    def for_call(self, call: Call) -> QGE:
        """See :meth:`quantus_ext.base.TorchMetric.for_call`."""
        other = copy.copy(self)
        other.inner = self._adapted.for_call(call)
        # Maps that it trains on or computes itself are prepared like the given ones.
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

    def cuts(self, batch: Batch) -> Cuts | None:
        """See :meth:`quantus_ext.base.TorchMetric.cuts`; they are the metric's own."""
        return self._asked.cuts(batch)

    def seen(self, a: Tensor) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.seen`; it is the metric's own."""
        return self._asked.seen(a)

    @property
    def evaluations_a_sample(self) -> int | None:
        """See :attr:`quantus_ext.base.TorchMetric.evaluations_a_sample`."""
        once = self._adapted.evaluations_a_sample
        return None if once is None else once * (1 + self.n_references)

    @property
    def auto_draws(self) -> AutoDraws | None:  # type: ignore[override]
        """See :class:`quantus_ext.base.TorchMetric`; it is the metric's own."""
        return (self.inner or self._adapted).auto_draws

    @property
    def most_draws(self) -> int:
        """See :attr:`quantus_ext.base.TorchMetric.most_draws`; it is the metric's own."""
        return (self.inner or self._adapted).most_draws

    @property
    def fewest_draws(self) -> int:
        """See :attr:`quantus_ext.base.TorchMetric.fewest_draws`; it is the metric's own."""
        return (self.inner or self._adapted).fewest_draws

    def with_draws(self, n: int) -> QGE:
        """See :meth:`quantus_ext.base.TorchMetric.with_draws`; it is the metric's own."""
        return self._around(lambda metric: metric.with_draws(n))

    def with_auto_draws(self, auto: AutoDraws) -> QGE:
        """See :meth:`quantus_ext.base.TorchMetric.with_auto_draws`; it is the metric's own."""
        return self._around(lambda metric: metric.with_auto_draws(auto))

    def _around(self, changed: Callable[[TorchMetric], TorchMetric]) -> QGE:
        """Return a copy around the metric as a function changes it."""
        other = copy.copy(self)
        if isinstance(self.metric, TorchMetric):
            other.metric = changed(self.metric)
        if self.inner is not None:
            other.inner = changed(self.inner)
        return other

    @property
    def trains(self) -> bool:
        """See :attr:`quantus_ext.base.TorchMetric.trains`; it is the metric's own."""
        return isinstance(self.metric, TorchMetric) and self.metric.trains

    @property
    def learns_labels(self) -> bool:
        """See :attr:`quantus_ext.base.TorchMetric.learns_labels`; it is the metric's own."""
        return isinstance(self.metric, TorchMetric) and self.metric.learns_labels

    def settled(self, model: nn.Module, x: Tensor, y: Tensor, *, train: bool = True) -> QGE:
        """See :meth:`quantus_ext.base.TorchMetric.settled`; it is the metric's own."""
        return self._around(lambda metric: metric.settled(model, x, y, train=train))

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
        spaces = batch.spaces
        parts = []
        one_pass = len(draws) <= block or shared.current() is not None
        with nullcontext() if one_pass else shared.answers_shared():
            for start in range(0, len(draws), block):
                pairs = [(a, draw) for draw in draws[start : start + block] for a in batch.maps]
                stacked = replace(
                    batch,
                    maps=torch.stack([self._compared(*pair, batch, elements) for pair in pairs]),
                    # The maps themselves are the first ones.
                    spaces=spaces if spaces is None or start == 0 else spaces.without_maps(),
                    seed=seed,
                    explainers=batch.explainers * (len(pairs) // len(batch.maps)),
                    remade=tuple(
                        partial(self._compared_again, draw=draw, batch=batch) for _, draw in pairs
                    ),
                )
                try:
                    parts.append(metric.evaluate_batch(forward, stacked))
                except (TypeError, ValueError):
                    # The maps alone raise the error with the shapes that the caller knows.
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
            # Time axis first, so that padding at the end changes no draw.
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
            # The mean of standard errors is not the standard error of the mean.
            if self.n_references == 1 or not name.startswith("error"):
                # Part by part, so that the curves of many references are never in memory at once.
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

    def checked_maps(
        self,
        a: Tensor,
        x: Tensor,
        features: Tensor | None = None,
        *,
        index: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.checked_maps`."""
        return self._asked.checked_maps(a, x, features, index=index)

    def normalised_maps(self, a: Tensor, *, index: Tensor | None = None) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.normalised_maps`."""
        return self._asked.normalised_maps(a, index=index)


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
