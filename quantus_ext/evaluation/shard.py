"""One unit of work: a shard of the samples, explained by one explainer, scored by the metrics."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from quantus.helpers import utils
from quantus.metrics.base import Metric
from torch import nn

from quantus_ext import checks
from quantus_ext.base import TorchMetric
from quantus_ext.engine import sampling
from quantus_ext.engine.forward import clean_memory, clean_outputs_shared
from quantus_ext.engine.modules import parts_with_mode
from quantus_ext.evaluation.plan import Cell, Method, Plan, takes
from quantus_ext.evaluation.rows import Rows
from quantus_ext.foreign import Arrays, Call, ForeignMetric, as_metric_sees, is_rows, seeded

_TRACEBACK = 4000
"""Characters of a traceback that are kept, its end."""


@dataclass(frozen=True)
class Shard:
    """Some samples on their way to a worker.

    Attributes
    ----------
    start, stop : int
        Global indices.
    x, y : Rows
    s : Rows or None
    maps : Rows or None
        Of an explainer whose maps are there already.
    """

    start: int
    stop: int
    x: Rows
    y: Rows
    s: Rows | None
    maps: Rows | None


@dataclass(frozen=True)
class Scored:
    """What one metric says of one shard by one explainer.

    Attributes
    ----------
    score, error : numpy.ndarray, float64, shape (n,)
        NaN where the metric failed.
    n_evaluations : int
        Rows through the model.
    seconds : float
    plan : tuple of int and str, or None
        Rows a forward pass and their layout, where the metric says so.
    failure, traceback : str or None
        What it raised.
    """

    score: np.ndarray
    error: np.ndarray
    n_evaluations: int
    seconds: float
    plan: tuple[int, str] | None = None
    failure: str | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class Record:
    """What is known of one shard by one explainer.

    Attributes
    ----------
    method : int
        Place of the explainer.
    start, stop : int
        Global indices of the samples.
    cells : dict of str to Scored
    maps : dict of int to numpy.ndarray
        Attributions of the samples that are shown as cases.
    seconds : float
        Of the explaining.
    threads : int
        Of torch, while it was computed.
    """

    method: int
    start: int
    stop: int
    cells: dict[str, Scored]
    maps: dict[int, np.ndarray]
    seconds: float
    threads: int

    @property
    def failed(self) -> list[str]:
        """Names of the cells that failed."""
        return [name for name, scored in self.cells.items() if scored.failure is not None]


class Loaded:
    """What a worker keeps: everything that is the same for all shards.

    Parameters
    ----------
    model : nn.Module
    plan : Plan
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        # Clean outputs, for all metrics and for the next explainers of a shard.
        self._clean = clean_memory()

    def __reduce__(self) -> tuple[Any, ...]:
        return Loaded, (self.model, self.plan)

    def run(self, method: int, shard: Shard, names: list[str]) -> Record:
        """Explain a shard and score it by the metrics with these names."""
        explainer = self.plan.methods[method]
        cells = [cell for cell in self.plan.cells if cell.name in names]
        x, y = shard.x.read(), shard.y.read()
        s = None if shard.s is None else shard.s.read()
        start = time.perf_counter()
        maps = None
        failure: tuple[str, str] | None = None
        try:
            maps = self._explain(explainer, shard, x, y)
        except Exception as error:
            failure = told("explaining failed: ", error)
        seconds = time.perf_counter() - start
        scored = {}
        for cell in cells:
            if maps is None:
                assert failure is not None
                scored[cell.name] = _failed(len(x), 0.0, *failure)
                continue
            if cell.failure is not None:
                scored[cell.name] = _failed(len(x), 0.0, *cell.failure)
                continue
            start = time.perf_counter()
            try:
                with clean_outputs_shared(self._clean, by_identity=True):
                    scored[cell.name] = self._score(cell, explainer, shard.start, x, y, s, maps)
            except Exception as error:
                took = time.perf_counter() - start
                scored[cell.name] = _failed(len(x), took, *told("", error))
        return Record(
            method=method,
            start=shard.start,
            stop=shard.stop,
            cells=scored,
            maps={}
            if maps is None
            else {
                case: np.array(maps[case - shard.start])
                for case in self.plan.cases
                if shard.start <= case < shard.stop
            },
            seconds=seconds,
            threads=torch.get_num_threads(),
        )

    @property
    def _device(self) -> torch.device:
        return checks.resolve_device(self.model, self.plan.device)

    def _state(self, first: int, purpose: sampling.Purpose) -> int:
        """Return the global random states' seed for the batch that begins at a sample.

        Explainers and metrics have seeds of their own: a metric that explains again must not get
        the draws that are in the attributions already.
        """
        key = sampling.sample_keys(self.plan.seed, torch.tensor([first]))
        return int(sampling.bits(key, 1, purpose)) & (2**32 - 1)

    def _keywords(self, explainer: Method) -> dict[str, Any]:
        if self.plan.device is None or not takes(explainer.function, "device"):
            return explainer.keywords
        return {"device": self.plan.device, **explainer.keywords}

    def _explain(self, explainer: Method, shard: Shard, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the attributions, made batch by batch from random states of the batch's own."""
        if shard.maps is not None:
            maps = shard.maps.read()
        else:
            assert explainer.function is not None
            parts = []
            for first in range(0, len(x), self.plan.batch_size):
                rows = slice(first, first + self.plan.batch_size)
                state = self._state(shard.start + first, sampling.Purpose.EXPLAINER_STATE)
                with seeded(state, self._device), _kept(self.model):
                    made = explainer.function(
                        # Copies, because functions may write into what they are given.
                        model=self.model,
                        inputs=x[rows].copy(),
                        targets=y[rows].copy(),
                        **self._keywords(explainer),
                    )
                if isinstance(made, torch.Tensor):
                    made = made.detach().cpu().numpy()
                parts.append(np.array(made))
                if len(parts[-1]) != len(x[rows]):
                    raise ValueError(
                        f"the explainer must return a map for each of {len(x[rows])} samples, "
                        f"returned shape {parts[-1].shape}"
                    )
            maps = np.concatenate(parts)
        if maps.ndim > x.ndim:
            # Over the embeddings of token ids; metrics that cannot use them say so.
            return maps
        if maps.shape[1:] == x.shape[2:]:
            # Quantus would not know which axis is missing where axes are equally long.
            return maps[:, np.newaxis]
        expanded: np.ndarray = utils.expand_attribution_channel(maps, x)
        return expanded

    def _score(
        self,
        cell: Cell,
        explainer: Method,
        first: int,
        x: np.ndarray,
        y: np.ndarray,
        s: np.ndarray | None,
        a: np.ndarray,
    ) -> Scored:
        start = time.perf_counter()
        call = {
            name: value[first : first + len(x)]
            if name == "custom_batch" and is_rows(value)
            else value
            for name, value in cell.call.items()
        }
        explain: dict[str, Any] = (
            {}
            if explainer.function is None
            else {
                "explain_func": explainer.function,
                "explain_func_kwargs": self._keywords(explainer),
            }
        )
        if not isinstance(cell.metric, TorchMetric):
            return self._score_foreign(cell.metric, {**call, **explain}, first, x, y, s, a)
        metric = cell.metric
        scores = metric(
            model=self.model,
            x_batch=x,
            y_batch=y,
            a_batch=a,
            s_batch=s,
            device=self.plan.device,
            batch_size=self.plan.batch_size,
            index_batch=np.arange(first, first + len(x)),
            **explain,
            **call,
        )
        # What a metric keeps of its past grows with every shard.
        metric.all_evaluation_scores = []
        chunks = metric.plan
        return Scored(
            np.array(scores, dtype=np.float64),
            np.array(metric.standard_errors, dtype=np.float64),
            metric.n_evaluations,
            time.perf_counter() - start,
            None if chunks is None else (chunks.chunk_size, chunks.memory_format),
        )

    def _score_foreign(
        self,
        metric: Metric[Any],
        call: Mapping[str, Any],
        first: int,
        x: np.ndarray,
        y: np.ndarray,
        s: np.ndarray | None,
        a: np.ndarray,
    ) -> Scored:
        """Call another package's metric batch by batch, from random states of the batch's own."""
        start = time.perf_counter()
        if call.get("channel_first") is False:
            raise ValueError("channel_first must not be False for a metric of another package")
        foreign = ForeignMetric(
            metric,
            Call(
                model=self.model,
                explain_func=call.get("explain_func"),
                explain_func_kwargs=call.get("explain_func_kwargs"),
                model_predict_kwargs=call.get("model_predict_kwargs"),
                softmax=call.get("softmax"),
                device=self.plan.device,
                custom_batch=call.get("custom_batch"),
                has_attributions=True,
            ),
            metric,
            np.mean,
        )
        foreign.check_custom(len(x))
        scores, errors, rows = [], [], 0
        for begin in range(0, len(x), self.plan.batch_size):
            part = slice(begin, begin + self.plan.batch_size)
            arrays = Arrays(
                x=x[part],
                y=y[part],
                s=None if s is None else s[part],
                custom=foreign.next_custom(len(x[part])),
                index=np.arange(first + begin, first + begin + len(x[part])),
                device=self._device,
            )
            maps = as_metric_sees(metric, a[part].copy())
            state = self._state(first + begin, sampling.Purpose.GLOBAL_STATE)
            answer = foreign.score(arrays, maps, _unchanged, state)
            scores.append(answer.score)
            errors.append(np.full(len(answer.score), np.nan if answer.is_random else 0.0))
            rows += answer.rows
        return Scored(
            np.concatenate(scores), np.concatenate(errors), rows, time.perf_counter() - start
        )


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Put back what an explainer leaves in training mode; an error if it changes weights."""
    modes = [(module, module.training) for _, module in parts_with_mode(model)]
    # Inference tensors don't tell whether they were changed.
    weights = [parameter for parameter in model.parameters() if not parameter.is_inference()]
    versions = [parameter._version for parameter in weights]
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training
    if versions != [parameter._version for parameter in weights]:
        raise ValueError("the explainer must leave the model's weights as they are, changes them")


def _unchanged(maps: np.ndarray) -> np.ndarray:
    return maps


def told(before: str, error: Exception) -> tuple[str, str]:
    """Return what was raised and the end of its traceback."""
    text = "".join(traceback.format_exception(error))
    return f"{before}{type(error).__name__}: {error}", text[-_TRACEBACK:]


def _failed(n: int, seconds: float, failure: str, trace: str) -> Scored:
    unknown = np.full(n, np.nan)
    return Scored(unknown, unknown, 0, seconds, None, failure, trace)
