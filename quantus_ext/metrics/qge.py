"""QGE (Eiras-Franco et al., 2025): any metric, compared with the inverse explanation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import torch
from quantus.helpers.enums import DataType, EvaluationCategory, ModelType, ScoreDirection
from quantus.metrics.base import Metric
from quantus.metrics.faithfulness.region_perturbation import RegionPerturbation
from quantus.metrics.faithfulness.sensitivity_n import SensitivityN
from quantus.metrics.robustness.consistency import Consistency
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.base import Batch, CommonArguments, TorchMetric
from quantus_ext.engine import sampling
from quantus_ext.engine.forward import Forward
from quantus_ext.foreign import Arrays, Call, ForeignMetric, Reduce
from quantus_ext.functional.inverse import KINDS, Kind, make_reference
from quantus_ext.functional.scores import Scores

Direction = Literal["higher", "lower"]


class QGE(TorchMetric):
    r"""Quality Gap Estimate, ``q(e) - q(inv(e))`` (equation 5); higher is better.

    It answers whether a score is good: is the explanation ``e`` better than the same values given
    to the variables in the opposite order? About 0 says that the order could as well be any other.
    Where a low ``q`` is good the difference is turned, so that positive always reads "better than
    its inverse".

    It is 0 for metrics that do not depend on which variable has which value, as Sparseness,
    Complexity and Effective Complexity; and for those that compare the ranks of two
    explanations, both of which are inverted, as MPRT.

    Metrics of this package score the explanation and its reference in one pass, with the same
    draws. Any other metric of Quantus's kind is copied, and the copy is called twice on the
    attributions as it would see them, normalised and absolute, from the same global random
    states; its own random numbers, as whatever it computes across samples, go by batches of
    ``batch_size``.

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
        Makes a number of each curve; called with curves (n, points) and ``axis=1``.
    **common
        See :class:`quantus_ext.base.TorchMetric`. ``abs`` and the normalisation are the metric's
        own by default; ``seed`` decides on ties, random orders and global random states.

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
    data_applicability = {  # noqa: RUF012
        DataType.IMAGE,
        DataType.TIMESERIES,
        DataType.TABULAR,
        DataType.TEXT,
    }
    model_applicability = {ModelType.TORCH}  # noqa: RUF012
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
        common.setdefault("abs", metric.abs)
        common.setdefault("normalise", metric.normalise)
        own_normalisation = {"normalise_func", "normalise_func_kwargs"} & set(common)
        super().__init__(**common)
        if not own_normalisation:
            self.normalise_func = metric.normalise_func
            self.normalise_func_kwargs = metric.normalise_func_kwargs
        checks.one_of("reference", reference, KINDS)
        self.n_references = checks.positive_integer("n_references", n_references)
        if self.n_references > 1 and reference != "random":
            raise ValueError(
                f'n_references above 1 needs reference="random", is {n_references} with '
                f"{reference!r}"
            )
        if not callable(reduce):
            raise TypeError(f"reduce must be callable, is {reduce!r}")
        self.metric = metric
        self.reference = reference
        self.signed = signed
        self.direction = _direction(metric, direction)
        self.reduce = reduce
        self._foreign: ForeignMetric | None = None
        self._describe(metric)

    def _describe(self, metric: Metric[Any]) -> None:
        """Declare for the instance what Quantus declares for a class."""
        self.name = f"QGE ({metric.name})"  # type: ignore[misc]
        self.data_applicability = metric.data_applicability  # type: ignore[misc]
        self.evaluation_category = metric.evaluation_category  # type: ignore[misc]
        if not self.signed:
            self.score_direction = self.direction  # type: ignore[misc]
        self.nan_reason = "their metric gives NaN for them or for what they are compared with"  # type: ignore[misc]
        if isinstance(metric, TorchMetric):
            self.default_softmax = metric.default_softmax  # type: ignore[misc]

    @property
    def is_native(self) -> bool:
        """Whether explanation and reference go through this package's engine in one pass."""
        if isinstance(self.metric, QGE):
            return self.metric.is_native
        return isinstance(self.metric, TorchMetric)

    def __call__(
        self,
        model: nn.Module,
        x_batch: np.ndarray | Tensor,
        y_batch: np.ndarray | Tensor | None,
        a_batch: np.ndarray | Tensor | None = None,
        s_batch: np.ndarray | Tensor | None = None,
        channel_first: bool | None = None,
        explain_func: Callable[..., Any] | None = None,
        explain_func_kwargs: Mapping[str, Any] | None = None,
        model_predict_kwargs: Mapping[str, Any] | None = None,
        softmax: bool | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        custom_batch: Any = None,
        index_batch: np.ndarray | Tensor | None = None,
    ) -> list[float]:
        """Score explanations; see :meth:`quantus_ext.base.TorchMetric.__call__`.

        Around a metric of another package ``custom_batch`` is that metric's own.
        """
        if not self.is_native:
            call = Call(
                model=model,
                explain_func=explain_func,
                explain_func_kwargs=explain_func_kwargs,
                model_predict_kwargs=model_predict_kwargs,
                softmax=softmax,
                device=device,
                custom_batch=custom_batch,
                has_attributions=a_batch is not None,
            )
            self._foreign = ForeignMetric(self.metric, call, self._as_metric_sees, self.reduce)
            custom_batch = None
        try:
            return super().__call__(
                model,
                x_batch,
                y_batch,
                a_batch,
                s_batch,
                channel_first,
                explain_func,
                explain_func_kwargs,
                model_predict_kwargs,
                softmax,
                device,
                batch_size,
                custom_batch,
                index_batch,
            )
        finally:
            self._foreign = None

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """See :meth:`quantus_ext.base.TorchMetric.model_to_ask`; it is the metric's own."""
        if self.is_native and isinstance(self.metric, TorchMetric):
            return self.metric.model_to_ask(model, x, y)
        return model

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        references = [
            make_reference(batch.a, self.reference, draw=draw, seed=batch.seed, index=batch.index)
            for draw in range(self.n_references)
        ]
        maps = torch.stack([batch.a, *references])
        if self._foreign is None:
            return self._gap(self._in_one_pass(forward, batch, maps))
        return self._gap(self._one_by_one(self._foreign, forward, batch, maps))

    def _in_one_pass(self, forward: Forward, batch: Batch, maps: Tensor) -> Scores:
        """Return what the metric says of m maps of each of n samples, shape (m, n, …)."""
        m, n = maps.shape[:2]
        s = batch.s
        if isinstance(s, Tensor):
            s = torch.cat([s] * m)
        elif s is not None:
            s = np.concatenate([s] * m)
        metric = cast("TorchMetric", copy.copy(self.metric))
        scores = metric.evaluate_batch(
            forward,
            replace(
                batch,
                x=torch.cat([batch.x] * m),
                y=torch.cat([batch.y] * m),
                a=maps.flatten(0, 1),
                s=s,
                clean=torch.cat([batch.clean] * m),
                index=torch.cat([batch.index] * m),
                seed=sampling.fresh_seed() if metric.seed is None else metric.seed,
            ),
        )
        return Scores(
            scores.score.unflatten(0, (m, n)),
            scores.standard_error.unflatten(0, (m, n)),
            {name: value.unflatten(0, (m, n)) for name, value in scores.details.items()},
        )

    def _one_by_one(
        self, foreign: ForeignMetric, forward: Forward, batch: Batch, maps: Tensor
    ) -> Scores:
        """Return the same as :meth:`_in_one_pass`, from calls of the copied metric."""
        first_key = sampling.sample_keys(batch.seed, batch.index[:1])
        state = int(sampling.bits(first_key, 1, sampling.Purpose.REFERENCE_STATE)) & (2**32 - 1)
        arrays = Arrays(
            x=batch.x.cpu().numpy(),
            y=batch.y.cpu().numpy(),
            s=batch.s.cpu().numpy() if isinstance(batch.s, Tensor) else batch.s,
            custom=foreign.next_custom(len(batch.x)),
            index=batch.index.cpu().numpy(),
            device=batch.x.device,
        )

        def compared(draw: int) -> Callable[[np.ndarray], np.ndarray]:
            def compare(made: np.ndarray) -> np.ndarray:
                return make_reference(
                    torch.from_numpy(made),
                    self.reference,
                    draw=draw,
                    seed=batch.seed,
                    index=batch.index.cpu().expand(len(made)),
                ).numpy()

            return compare

        comparisons = [lambda made: made, *(compared(draw) for draw in range(self.n_references))]
        answers = [
            foreign.score(arrays, a, compare, state)
            for a, compare in zip(maps.cpu().numpy(), comparisons, strict=True)
        ]
        forward.n_evaluations += sum(answer.rows for answer in answers)
        scores = torch.from_numpy(np.stack([answer.score for answer in answers]))
        error = torch.nan if any(answer.is_random for answer in answers) else 0.0
        curves = [answer.curve for answer in answers if answer.curve is not None]
        details = {"curve": torch.from_numpy(np.stack(curves))} if curves else {}
        return Scores(scores, torch.full_like(scores, error), details)

    def _gap(self, quality: Scores) -> Scores:
        """Compare the first map of each sample with the mean of the others (equations 5, 7)."""
        score, references = quality.score[0].double(), quality.score[1:].double()
        turned = self.signed and self.direction is ScoreDirection.LOWER
        gap = references.mean(0) - score if turned else score - references.mean(0)
        # The draws are shared, so two standard errors don't say what that of the difference is;
        # only where nothing else is random do the references give it.
        order_error = torch.zeros_like(score)
        if self.reference == "random":
            spread = (
                references.std(0) if self.n_references > 1 else torch.full_like(score, torch.nan)
            )
            order_error = spread / self.n_references**0.5
        is_fixed = (quality.standard_error == 0).all(0)
        details = {"score": score, "reference": references.mean(0)}
        for name, value in quality.details.items():
            details[f"score_{name}"] = value[0]
            details[f"reference_{name}"] = value[1:].double().mean(0)
        return Scores(gap, torch.where(is_fixed, order_error, torch.nan), details)

    def _prepared(self, a: Tensor, x: Tensor, first: int = 0) -> Tensor:
        if self.is_native:
            return super()._prepared(a, x, first)
        maps = checks.attributions(a, x, first=first).cpu().numpy()
        return torch.from_numpy(self._as_metric_sees(maps)).to(a)

    def _as_metric_sees(self, maps: np.ndarray) -> np.ndarray:
        """Normalise all maps at once, as Quantus does, and take absolute values."""
        if self.normalise and self.normalise_func is not None:
            maps = self.normalise_func(maps.copy())
        return np.abs(maps) if self.abs else maps


def _direction(metric: Metric[Any], direction: Direction | ScoreDirection | None) -> ScoreDirection:
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
