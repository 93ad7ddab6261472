"""Metrics of Quantus itself, or of anybody, called batch by batch with one number a sample back."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
import reprlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from quantus.helpers import asserts, utils
from quantus.metrics.axiomatic.completeness import Completeness
from quantus.metrics.base import Metric
from quantus.metrics.faithfulness.irof import IROF
from quantus.metrics.faithfulness.monotonicity import Monotonicity
from quantus.metrics.faithfulness.pixel_flipping import PixelFlipping
from quantus.metrics.faithfulness.road import ROAD
from quantus.metrics.localisation.attribution_localisation import AttributionLocalisation
from scipy.integrate import trapezoid
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.base import TorchMetric
from quantus_ext.batch import Batch, Call, Explainer, Remake
from quantus_ext.engine import sampling
from quantus_ext.engine.answers import Asked
from quantus_ext.engine.fence import Fence
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.global_state import (
    isolated_random_state,
    seed_global_generators,
    seed_gpu,
)
from quantus_ext.engine.keywords import plain
from quantus_ext.engine.modules import (
    NoModel,
    has_hidden_softmax,
    in_training,
    inseparable,
    is_closed,
    with_any_rows,
)
from quantus_ext.engine.outputs import answering_tensors
from quantus_ext.engine.turns import turns
from quantus_ext.functional.scores import Scores

Reduce = Callable[..., Any]
"""As ``numpy.mean``: curves (n, points) and ``axis=1`` in, n numbers out."""


@dataclass(frozen=True)
class Arrays:
    """Samples as arrays, channels first; nothing in them is the caller's."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray | None
    custom: Any
    index: np.ndarray
    device: torch.device


class Answer(NamedTuple):
    """What a metric says of a batch.

    Attributes
    ----------
    score : numpy.ndarray, float64, shape (n,)
    curve : numpy.ndarray or None
        Shape (n, points), for metrics that give more than a number for each sample.
    is_random : bool
        Whether the metric used a global random state, or says itself that it is random.
    rows : int
        Rows sent through the model.
    """

    score: np.ndarray
    curve: np.ndarray | None
    is_random: bool
    rows: int

    @classmethod
    def joined(cls, answers: Iterable[Answer]) -> Answer:
        """Join what a metric says of parts of a batch."""
        scores, curves, random_ones, rows = zip(*answers, strict=True)
        curve = None if curves[0] is None else np.concatenate(curves)
        return cls(np.concatenate(scores), curve, any(random_ones), sum(rows))


_ONE_AT_A_TIME = (IROF,)
"""Metrics that take a sample's baseline from its batch, though they do not compare samples."""


class Foreign(TorchMetric):
    """A metric of another package, batch by batch, with one number a sample.

    Global random states are seeded for each batch, and put back; so its own random numbers, as
    whatever it computes across samples, go by batches of ``batch_size``. Its standard errors are
    NaN wherever it touched a global random state, for a number that it did not use as well.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        It stays as it is. Its ``abs`` and normalisation decide how maps are prepared.
    reduce : callable, default ``numpy.mean``
        Makes a number of each curve; called with curves (n, points) and ``axis=1``.
    seed : int or None, default 0
        Of the global random states.
    """

    name = "Foreign"
    clean_rows = 0  # the metric asks the model itself, if at all
    reads_values = False
    computes_spaces = False
    carries_entries = False
    custom_is_index = False
    nan_reason = "their metric gives NaN for them"

    def __init__(
        self, metric: Metric[Any], reduce: Reduce = np.mean, *, seed: int | None = 0
    ) -> None:
        super().__init__(abs=metric.abs, normalise=metric.normalise, seed=seed)
        self.normalise_func = metric.normalise_func
        self.normalise_func_kwargs = metric.normalise_func_kwargs
        self.metric = metric
        self.reduce = reduce
        self._copied: _Copied | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copied": None}

    def for_call(self, call: Call) -> Foreign:
        """See :meth:`quantus_ext.base.TorchMetric.for_call`."""
        other = copy.copy(self)
        other._copied = _Copied(self.metric, call, partial(as_metric_sees, other), self.reduce)
        return other

    def elements(self, batch: Batch) -> None:
        """See :meth:`quantus_ext.base.TorchMetric.elements`: every value, for all that is known."""

    def seen(self, a: Tensor) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.seen`."""
        return torch.from_numpy(as_metric_sees(self, a.cpu().numpy())).to(a)

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        copied = self._copied
        assert copied is not None
        size = 1 if isinstance(self.metric, _ONE_AT_A_TIME) else len(batch.x)
        parts = [slice(start, start + size) for start in range(0, len(batch.x), size)]
        asked = [
            (
                _arrays(batch, part, copied.custom(batch.numbers[part])),
                sampling.state_seed(batch.seed, batch.index[part], sampling.Purpose.GLOBAL_STATE),
            )
            for part in parts
        ]
        each = []
        remade = batch.remade or (_unchanged,) * len(batch.maps)
        for a, explain, remake in zip(batch.maps, batch.explainers, remade, strict=True):
            maps = a.cpu().numpy().copy()
            answer = Answer.joined(
                copied.score(arrays, maps[part], explain, remake, state)
                for part, (arrays, state) in zip(parts, asked, strict=True)
            )
            forward.n_evaluations += answer.rows
            score = torch.from_numpy(answer.score)
            error = torch.full_like(score, torch.nan if answer.is_random else 0.0)
            curve = {} if answer.curve is None else {"curve": torch.from_numpy(answer.curve)}
            rows = torch.zeros_like(score)
            rows[0] = answer.rows
            each.append(Scores(score, error, curve, (Asked({object(): rows}),)))
        return Scores.stack(each)

    def checked_maps(
        self,
        a: Tensor,
        x: Tensor,
        features: Tensor | None = None,
        *,
        index: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.checked_maps`."""
        maps = checks.attributions(a, x, index=index)
        call = None if self._copied is None else self._copied.call
        if call is not None and call.has_attributions and not call.is_part:
            # A valid part does not make the whole valid.
            check_values(self.metric, x.cpu().numpy(), maps.cpu().numpy())
        return maps

    def normalised_maps(self, a: Tensor, *, index: Tensor | None = None) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.normalised_maps`."""
        # In its own type, as in Quantus; see `seen`.
        return a


class _Copied:
    """A copy of a metric that scores attributions as they are, sample by sample.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        It is copied; normalisation, absolute values, aggregation and progress bars are switched
        off in the copy.
    call : Call
        The rest of the arguments of the metric's call.
    prepare : callable
        What is done to maps that the metric makes itself.
    reduce : callable
        Makes a number of each curve.

    Raises
    ------
    TypeError
        If the metric cannot be copied.
    """

    def __init__(self, metric: Metric[Any], call: Call, prepare: Remake, reduce: Reduce) -> None:
        # The copy does not need past results, which can be long.
        past = (metric.evaluation_scores, metric.all_evaluation_scores)
        without = {
            id(scores): type(scores)() for scores in past if isinstance(scores, (list, dict))
        }
        try:
            self.metric = cast(Any, copy.deepcopy(metric, without))
        except (TypeError, ValueError, RuntimeError, pickle.PicklingError) as error:
            raise TypeError(
                "metric must be one that copy.deepcopy copies, so that it stays as it is; "
                f"{type(metric).__name__} is not: {error}"
            ) from error
        self.metric.abs = self.metric.normalise = self.metric.return_aggregate = False
        self.metric._display_progressbar = False
        if isinstance(metric, ROAD):
            # It would average over the samples, percentage by percentage.
            self.metric.custom_postprocess = _nothing
            # That of an earlier call, perhaps of other images.
            self.metric.a_size = None
        fix_seeds(self.metric)
        self.call = call
        self._fence = Fence(f"the metric {type(metric).__name__}")
        self.prepare = prepare
        self.reduce = reduce
        self._parameters = _call_parameters(type(metric))

    def custom(self, numbers: Tensor) -> Any:
        """Return the rows of ``custom_batch`` of a batch, sliced where Quantus would slice it."""
        custom = self.call.custom_batch
        return custom[int(numbers[0]) : int(numbers[-1]) + 1] if checks.is_rows(custom) else custom

    def score(
        self, batch: Arrays, a: np.ndarray, explainer: Explainer, compare: Remake, seed: int
    ) -> Answer:
        """Call the metric on a batch.

        Parameters
        ----------
        batch : Arrays
        a : numpy.ndarray, shape of ``batch.x`` or with one channel
            Attributions, as the metric's formula shall see them; it may write into them.
        explainer : Explainer
            For metrics that explain again.
        compare : callable
            Done to all attributions that the metric has made of its own accord, once prepared.
        seed : int
            Of the global random states during the call, below 2**32.

        Returns
        -------
        Answer

        Raises
        ------
        ValueError
            If Quantus refuses the attributions, or the scores are not one a sample.
        """
        # As Quantus sends them.
        few = torch.tensor(batch.x[:2], dtype=torch.float32, device=batch.device)
        with (
            self._fence.around(self.call.model),
            isolated_random_state(batch.device),
            _any_values_pass(),
            _areas_on_any_numpy(),
            _rows_counted(self.call, batch, few) as (model, rows),
        ):
            arguments = self._arguments(model, batch, a, explainer, compare)
            seed_global_generators(seed)
            seed_gpu(seed, batch.device)
            before = _global_states(batch.device)
            try:
                result = self.metric(**arguments)
            except AssertionError as error:
                raise ValueError(
                    f"{type(self.metric).__name__} refuses the batch of samples "
                    f"{batch.index.tolist()}: {error}"
                ) from error
            except Exception as error:
                self._refuse_no_model(error)
                raise
            is_random = before != _global_states(batch.device)
        if isinstance(self.metric, TorchMetric):
            # It restores the global states itself; NaN counts as random too.
            is_random |= not (self.metric.standard_errors == 0).all()
        try:
            values = _one_row_a_sample(result, batch.index, type(self.metric).__name__)
        except ValueError as error:
            self._refuse_no_model(error)
            raise
        if values.ndim == 1:
            return Answer(values, None, is_random, sum(rows))
        return Answer(self._reduced(values), values, is_random, sum(rows))

    def _refuse_no_model(self, error: Exception) -> None:
        """Raise TypeError for what may have come of there being no model."""
        if isinstance(self.call.model, NoModel) and not isinstance(error, TypeError):
            raise TypeError(
                f"model must be a torch.nn.Module if {type(self.metric).__name__} needs one, is "
                f"None: {type(error).__name__}: {error}"
            ) from error

    def _arguments(
        self,
        model: nn.Module,
        batch: Arrays,
        a: np.ndarray,
        explainer: Explainer,
        compare: Remake,
    ) -> dict[str, Any]:
        call = self.call
        device = call.device
        if device is None and batch.device.type != "cpu":
            # Quantus moves nothing to the device of the model unless it is told to.
            device = str(batch.device)
        arguments = {
            "model": model,
            # Some metrics write into what they are given.
            "x_batch": batch.x.copy(),
            "y_batch": batch.y.copy(),
            "a_batch": a,
            "s_batch": None if batch.s is None else batch.s.copy(),
            "channel_first": True,
            "explain_func": self._explain_func(batch, explainer, compare),
            "explain_func_kwargs": dict(explainer.keywords) or None,
            "model_predict_kwargs": plain(call.model_predict_kwargs or {}) or None,
            "softmax": call.softmax,
            "device": device,
            "batch_size": len(batch.x),
            "custom_batch": batch.custom,
            "index_batch": batch.index,
        }
        smooth = getattr(self.metric, "explain_smooth_batch", None)
        if smooth is not None:
            # Smooth MPRT goes past explain_func to quantus.explain, for its first maps too.
            own = type(self.metric).explain_smooth_batch
            self.metric.explain_smooth_batch = lambda **keywords: compare(
                self.prepare(own(self.metric, **keywords))
            )
            if not call.has_attributions:
                arguments["a_batch"] = None
        return {
            name: value
            for name, value in arguments.items()
            if name in self._parameters
            and (value is not None or self._parameters[name].default is inspect.Parameter.empty)
        }

    def _explain_func(
        self, batch: Arrays, explainer: Explainer, compare: Remake
    ) -> Callable[..., np.ndarray] | None:
        explain_func, n, here = explainer.function, len(batch.x), threading.get_ident()
        if explain_func is None:
            return None

        def explain(model: nn.Module, inputs: Any, targets: Any, **keywords: Any) -> np.ndarray:
            if len(inputs) != n and n > 1:
                raise ValueError(
                    f"explain_func is asked for {len(inputs)} maps within a batch of {n} samples, "
                    "so it isn't known which sample is which: call with batch_size=1"
                )
            # Its side effects would reach the metric's next evaluation. A metric's own threads,
            # which it waits for, share its turn.
            is_own = threading.get_ident() == here
            with explainer.fence.around(model) if is_own else nullcontext():
                maps = explain_func(model=model, inputs=inputs, targets=targets, **keywords)
            if isinstance(maps, Tensor):
                maps = maps.detach().cpu()
            return compare(self.prepare(np.asarray(maps)))

        return explain

    def _reduced(self, curves: np.ndarray) -> np.ndarray:
        scores = np.asarray(self.reduce(curves, axis=1), dtype=np.float64)
        if scores.shape != curves.shape[:1]:
            raise ValueError(
                f"reduce must make one number of each of the {len(curves)} curves, "
                f"gave shape {scores.shape}"
            )
        return scores


def caveats(metric: Metric[Any]) -> Iterator[str]:
    """Yield why the scores of a metric of Quantus, as it is set, say nothing about explanations.

    Examples
    --------
    >>> import quantus
    >>> from quantus_ext.foreign import caveats
    >>> [said] = caveats(quantus.Completeness())
    >>> said[:41]
    'Completeness compares sums of maps with f'
    """
    baseline = getattr(getattr(metric, "perturb_func", None), "keywords", {}).get(
        "perturb_baseline"
    )
    if isinstance(metric, Monotonicity) and baseline not in ("random", "uniform"):
        yield (
            f"Monotonicity with perturb_baseline={baseline!r} is True for every map, because it "
            "replaces the baseline by itself: use MonotonicityCorrelation, or MoRF of this package"
        )
    if isinstance(metric, PixelFlipping) and baseline == "mean":
        yield (
            "PixelFlipping with perturb_baseline='mean' takes the mean of what is left at each "
            "step, so where a curve ends depends on the map: pass a number, or use MoRF of this "
            "package"
        )
    if isinstance(metric, AttributionLocalisation) and metric.weighted:
        yield (
            "AttributionLocalisation with weighted=True divides by sizes of other samples of the "
            "batch, and by nothing in batches of one or two: pass weighted=False"
        )
    if isinstance(metric, Completeness) and (metric.normalise or metric.abs):
        yield (
            "Completeness compares sums of maps with f(x) - f(baseline) after it has normalised "
            "them: pass normalise=False, abs=False"
        )


def as_metric_sees(metric: Metric[Any], maps: np.ndarray) -> np.ndarray:
    """Return the maps of a batch, normalised and absolute where a metric has its maps so.

    The one place where maps for another package's metric are prepared. They are normalised all
    at once, as Quantus does, so a batch scores as in a call of Quantus with that batch alone, and
    what else is called, or in which shards, does not matter.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        Its ``abs``, ``normalise`` and ``normalise_func`` decide.
    maps : numpy.ndarray, shape (n, \\*map)
        Not written to.
    """
    # Dividing by the maximum of zeros would leave NaN.
    if metric.normalise and metric.normalise_func is not None and maps.any():
        maps = metric.normalise_func(maps.copy())
    return np.abs(maps) if metric.abs else maps


def _arrays(batch: Batch, part: slice, custom: Any) -> Arrays:
    s = None if batch.s is None else batch.s[part]
    return Arrays(
        x=batch.x[part].cpu().numpy(),
        y=batch.y[part].cpu().numpy(),
        s=s.cpu().numpy() if isinstance(s, Tensor) else s,
        custom=custom,
        index=batch.index[part].cpu().numpy(),
        device=batch.x.device,
    )


def check_values(metric: Metric[Any], x: np.ndarray, a: np.ndarray) -> None:
    """Raise ValueError for the attributions of a whole call that Quantus refuses.

    Those that are all zero, all one, of one value or all negative.
    """
    try:
        asserts.assert_attributions(x_batch=x, a_batch=a)
    except AssertionError as error:
        raise ValueError(f"{type(metric).__name__} refuses a_batch: {error}") from error


@contextmanager
def _any_values_pass() -> Iterator[None]:
    """Let Quantus check the shapes of attributions within, and not their values.

    It checks the values of each call. Within QGE a call is a batch, so that the batch size would
    decide whether a map of zeros is an error. Calls of other threads are checked as ever.
    """
    strict, here = asserts.assert_attributions, threading.get_ident()

    def lenient(x_batch: Any, a_batch: Any) -> None:
        if threading.get_ident() != here:
            strict(x_batch=x_batch, a_batch=a_batch)
            return
        fine = np.zeros(np.shape(a_batch))
        if fine.size > 1:
            fine.flat[-1] = 0.5
            strict(x_batch=x_batch, a_batch=fine)

    def put_back() -> None:
        asserts.assert_attributions = strict

    with turns.undoing(put_back):
        asserts.assert_attributions = lenient
        yield


@contextmanager
def _areas_on_any_numpy() -> Iterator[None]:
    """Let Quantus compute areas under curves where numpy has no ``trapz``, which 2.4 removed.

    Other threads get the same areas meanwhile, in place of an error.
    """
    if hasattr(np, "trapz"):
        yield
        return
    own = utils.calculate_auc

    def calculate_auc(values: Any, dx: int = 1, batched: bool = False) -> Any:
        return trapezoid(np.array(values), dx=dx, axis=1 if batched else -1)

    def put_back() -> None:
        utils.calculate_auc = own

    with turns.undoing(put_back):
        utils.calculate_auc = calculate_auc
        yield


def fix_seeds(metric: Any, seed: int | None = None) -> None:
    """Give nested metrics without a seed one, so that all maps of a call get the same draws.

    ``seed`` is that one; by default it is fresh.
    """
    while isinstance(metric, TorchMetric):
        if metric.seed is None:
            metric.seed = sampling.fresh_seed() if seed is None else seed
        metric = getattr(metric, "metric", None)


def _call_parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a metric's call, past overrides that only hand them on."""
    calls = (inspect.signature(base.__call__).parameters for base in cls.__mro__)
    return next(parameters for parameters in calls if "model" in parameters)


def _unchanged(maps: np.ndarray) -> np.ndarray:
    return maps


def _nothing(**data: Any) -> None:
    return None


def _one_row_a_sample(result: Any, index: np.ndarray, name: str) -> np.ndarray:
    """Return scores (n,) or curves (n, points) from whatever a metric returns."""
    n = len(index)
    if isinstance(result, Mapping):
        # MPRT: for each layer the scores of all samples.
        columns = [_numbers(column, f"{name}'s {key!r}") for key, column in result.items()]
        if not columns or any(column.shape != (n,) for column in columns):
            raise ValueError(
                f"{name} gives a dict whose values are not one number for each of the {n} "
                "samples, so there is nothing to compare sample by sample"
            )
        return np.stack(columns, 1)
    try:
        items = list(result)
    except TypeError:
        raise ValueError(
            f"{name} gives {reprlib.repr(result)}, not a score for each of the {n} samples"
        ) from None
    if len(items) == 1 and getattr(items[0], "ndim", 0) == 2 and len(items[0]) == n:
        # ROAD: one array for the whole batch.
        items = list(items[0])
    if len(items) != n:
        raise ValueError(
            f"{name} gives {len(items)} scores for {n} samples, so there is nothing to compare "
            "sample by sample"
        )
    rows = [
        _numbers(item, f"{name}'s score of sample {sample}")
        for sample, item in zip(index, items, strict=True)
    ]
    lengths = {row.size for row in rows if row.ndim}
    if not lengths:
        return np.array(rows)
    # A sample without a score may have a NaN instead of a curve.
    points = max(lengths)
    rows = [np.full(points, row) if row.ndim == 0 and np.isnan(row) else row for row in rows]
    if any(row.size != points for row in rows):
        raise ValueError(f"{name} gives curves of different lengths, which don't compare")
    return np.stack([row.ravel() for row in rows])


def _numbers(value: Any, name: str) -> np.ndarray:
    """Return float64 of any shape; None is NaN."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be a number or a curve of numbers, is {reprlib.repr(value)}"
        ) from error


class _Counted(nn.Module):
    """A script or an exported program, which take no such hook, in a form that Quantus takes.

    It shows its softmax where Quantus looks for one. Quantus's copies without it are refused.
    """

    def __init__(
        self,
        model: nn.Module,
        count: Callable[..., None],
        check: Callable[..., None],
        *,
        softmax: bool,
    ) -> None:
        super().__init__()
        self.model = with_any_rows(model)
        self.count = count
        self.check = check
        self.training = in_training(model)
        self.shown = nn.Softmax(-1) if softmax else None

    def forward(self, *args: Any, **keywords: Any) -> Any:
        if isinstance(self.shown, nn.Identity):
            raise inseparable()
        self.count(self, args, keywords)
        outputs = self.model(*args, **keywords)
        self.check(self, args, outputs)
        return outputs


@contextmanager
def _rows_counted(call: Call, batch: Arrays, x: Tensor) -> Iterator[tuple[nn.Module, list[int]]]:
    """Count rows by hooks that are gone afterwards; copies made meanwhile count as well.

    What the model answers also says whether it has the explained classes. ``x`` are a few rows.
    """
    model = call.model
    rows: list[int] = []

    def count(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        tensors = [v for v in (*args, *keywords.values()) if isinstance(v, Tensor)]
        rows.append(len(tensors[0]) if tensors else 0)

    def check(_: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        if isinstance(outputs, Tensor) and outputs.ndim == 2:
            checks.labels_below(batch.y, outputs.shape[1], index=batch.index)
            checks.no_softmax_of_one(bool(call.softmax), outputs.shape[1])

    softmax = not isinstance(model, NoModel) and has_hidden_softmax(model, x)
    if is_closed(model) or softmax:
        yield _Counted(model, count, check, softmax=softmax), rows
        return
    with answering_tensors(model):
        handles = [
            model.register_forward_pre_hook(count, with_kwargs=True),
            model.register_forward_hook(check),
        ]
        try:
            yield model, rows
        finally:
            for handle in handles:
                handle.remove()


def _global_states(device: torch.device) -> tuple[Any, ...]:
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 - the one that Quantus uses
    on_device = torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else []
    of_torch = torch.get_rng_state().numpy().tobytes()
    words = legacy["state"]["key"].tobytes(), legacy["state"]["pos"], legacy["gauss"]
    return random.getstate(), words, of_torch, on_device
