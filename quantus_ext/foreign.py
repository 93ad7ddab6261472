"""Metrics of Quantus itself, or of anybody, called batch by batch with one number a sample back."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from quantus.metrics.base import Metric
from quantus.metrics.faithfulness.road import ROAD
from torch import nn

from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators

Maps = Callable[[np.ndarray], np.ndarray]
"""Attributions of a batch in, others of the same shape out."""

Reduce = Callable[..., Any]
"""As ``numpy.mean``: curves (n, points) and ``axis=1`` in, n numbers out."""


@dataclass(frozen=True)
class Call:
    """What a metric's call was given beside the batch; see ``TorchMetric.__call__``."""

    model: nn.Module
    explain_func: Callable[..., Any] | None
    explain_func_kwargs: Mapping[str, Any] | None
    model_predict_kwargs: Mapping[str, Any] | None
    softmax: bool | None
    device: str | torch.device | None
    custom_batch: Any
    has_attributions: bool


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
        Whether the metric used a global random state.
    rows : int
        Rows sent through the model.
    """

    score: np.ndarray
    curve: np.ndarray | None
    is_random: bool
    rows: int


class ForeignMetric:
    """A copy of a metric that scores attributions as they are, sample by sample.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric
        It is copied; normalisation, absolute values, aggregation and progress bars are switched
        off in the copy.
    call : Call
        The rest of the arguments of the metric's call.
    prepare : callable
        What the metric would do to attributions: normalise, take absolute values.
    reduce : callable
        Makes a number of each curve.
    """

    def __init__(self, metric: Metric[Any], call: Call, prepare: Maps, reduce: Reduce) -> None:
        # Past results can be long, and the copy has no use for them.
        past = (metric.evaluation_scores, metric.all_evaluation_scores)
        without = {
            id(scores): type(scores)() for scores in past if isinstance(scores, (list, dict))
        }
        self.metric = cast(Any, copy.deepcopy(metric, without))
        self.metric.abs = self.metric.normalise = self.metric.return_aggregate = False
        self.metric._display_progressbar = False
        if isinstance(metric, ROAD):
            # It would leave the mean over the samples for each percentage.
            self.metric.custom_postprocess = _nothing
        self.call = call
        self.prepare = prepare
        self.reduce = reduce
        self._parameters = inspect.signature(type(metric).__call__).parameters
        self._start = 0

    def next_custom(self, n: int) -> Any:
        """Return the next ``n`` rows of ``custom_batch``, sliced where Quantus would slice it."""
        custom = self.call.custom_batch
        start, self._start = self._start, self._start + n
        is_rows = isinstance(custom, (Sequence, np.ndarray)) and not isinstance(custom, str)
        return custom[start : self._start] if is_rows else custom

    def score(self, batch: Arrays, a: np.ndarray, compare: Maps, seed: int) -> Answer:
        """Call the metric on a batch.

        Parameters
        ----------
        batch : Arrays
        a : numpy.ndarray, shape of ``batch.x`` or with one channel
            Attributions, as the metric's formula shall see them; it may write into them.
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
        arguments = self._arguments(batch, a, compare)
        with _isolated(batch.device), _rows_counted(self.call.model) as rows:
            _seed(seed, batch.device)
            before = _global_states(batch.device)
            try:
                result = self.metric(**arguments)
            except AssertionError as error:
                raise ValueError(
                    f"{type(self.metric).__name__} refuses the batch of samples "
                    f"{batch.index.tolist()}: {error}"
                ) from error
            is_random = before != _global_states(batch.device)
        values = _one_row_a_sample(result, len(batch.x), type(self.metric).__name__)
        if values.ndim == 1:
            return Answer(values, None, is_random, sum(rows))
        return Answer(self._reduced(values), values, is_random, sum(rows))

    def _arguments(self, batch: Arrays, a: np.ndarray, compare: Maps) -> dict[str, Any]:
        call = self.call
        device = call.device
        if device is None and batch.device.type != "cpu":
            # Quantus moves nothing to the device of the model unless it is told to.
            device = str(batch.device)
        arguments = {
            "model": call.model,
            # Some metrics write into what they are given.
            "x_batch": batch.x.copy(),
            "y_batch": batch.y.copy(),
            "a_batch": a,
            "s_batch": None if batch.s is None else batch.s.copy(),
            "channel_first": True,
            "explain_func": self._explain_func(batch, compare),
            "explain_func_kwargs": dict(call.explain_func_kwargs or {}) or None,
            "model_predict_kwargs": dict(call.model_predict_kwargs or {}) or None,
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

    def _explain_func(self, batch: Arrays, compare: Maps) -> Callable[..., np.ndarray] | None:
        explain_func, n = self.call.explain_func, len(batch.x)
        if explain_func is None:
            return None

        def explain(model: nn.Module, inputs: Any, targets: Any, **keywords: Any) -> np.ndarray:
            if len(inputs) != n and n > 1:
                raise ValueError(
                    f"explain_func is asked for {len(inputs)} maps within a batch of {n} samples, "
                    "so it isn't known which sample is which: call with batch_size=1"
                )
            maps = explain_func(model=model, inputs=inputs, targets=targets, **keywords)
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


def _nothing(**data: Any) -> None:
    return None


def _one_row_a_sample(result: Any, n: int, name: str) -> np.ndarray:
    """Return scores (n,) or curves (n, points) from whatever a metric returns."""
    if isinstance(result, Mapping):
        # MPRT: for each layer the scores of all samples.
        if any(np.shape(column) != (n,) for column in result.values()):
            raise ValueError(
                f"{name} gives a dict whose values are not one number for each of the {n} "
                "samples, so there is nothing to compare sample by sample"
            )
        return np.stack([np.asarray(column, dtype=np.float64) for column in result.values()], 1)
    items = list(result)
    if len(items) == 1 and np.ndim(items[0]) == 2 and len(items[0]) == n:
        # ROAD: one array for the whole batch.
        items = list(items[0])
    if len(items) != n:
        raise ValueError(
            f"{name} gives {len(items)} scores for {n} samples, so there is nothing to compare "
            "sample by sample"
        )
    if all(np.ndim(item) == 0 for item in items):
        return np.array(items, dtype=np.float64)
    curves = [np.asarray(item, dtype=np.float64).ravel() for item in items]
    if len({len(curve) for curve in curves}) != 1:
        raise ValueError(f"{name} gives curves of different lengths, which don't compare")
    return np.stack(curves)


@contextmanager
def _rows_counted(model: nn.Module) -> Iterator[list[int]]:
    """Count rows by a hook that is gone afterwards; copies made meanwhile count as well."""
    rows: list[int] = []

    def count(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        tensors = [v for v in (*args, *keywords.values()) if isinstance(v, torch.Tensor)]
        rows.append(len(tensors[0]) if tensors else 0)

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


@contextmanager
def _isolated(device: torch.device) -> Iterator[None]:
    """Put every global random state back on leaving, that of the model's device included."""
    devices = [device] if device.type == "cuda" else []
    with isolated_random_state(), torch.random.fork_rng(devices=devices):
        yield


def _seed(seed: int, device: torch.device) -> None:
    seed_global_generators(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _global_states(device: torch.device) -> tuple[Any, ...]:
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 - the one that Quantus uses
    on_device = torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else []
    words = legacy["state"]["key"].tobytes(), legacy["state"]["pos"], legacy["gauss"]
    return random.getstate(), words, torch.get_rng_state().tolist(), on_device
