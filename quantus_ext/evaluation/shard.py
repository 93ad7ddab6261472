"""One unit of work: a shard of the samples, explained by all explainers, scored by all metrics."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantus_ext import checks
from quantus_ext.arrays import array_of
from quantus_ext.base import TorchMetric
from quantus_ext.batch import Explainer, of_explained_class
from quantus_ext.draws import Draws
from quantus_ext.engine.fence import Fence, listening
from quantus_ext.engine.keywords import part_of
from quantus_ext.engine.shared import SharedAnswers, answers_shared
from quantus_ext.engine.spaces import SPACES
from quantus_ext.evaluation.plan import Cell, Method, Plan, takes
from quantus_ext.evaluation.rows import Data, Rows
from quantus_ext.evaluation.statistics import ROUNDING
from quantus_ext.evaluation.targets import maps_of_classes
from quantus_ext.finetune.training import as_input
from quantus_ext.foreign import Foreign
from quantus_ext.map_scores import MapScores

_TRACEBACK = 4000
"""Characters of a traceback that are kept, its end."""


@dataclass(frozen=True)
class Shard:
    """Some samples on their way to a worker.

    Attributes
    ----------
    start, stop : int
        Places in the order in which samples are scored.
    index : numpy.ndarray of int, shape (n,)
        The samples' numbers.
    x, y : Rows
    s : Rows or None
    maps : dict of int to Rows
        Of the explainers, by place, whose maps are there already.
    """

    start: int
    stop: int
    index: NDArray[np.int64]
    x: Rows
    y: Rows
    s: Rows | None
    maps: dict[int, Rows]

    @classmethod
    def of(
        cls,
        data: Data,
        order: NDArray[np.int64] | None,
        methods: Mapping[int, Method],
        start: int,
        stop: int,
    ) -> Shard:
        """Cut samples out, with their maps by these explainers, as far as there are some.

        Data and maps are in the order in which samples are scored.
        """
        maps = {
            place: method.maps.part(start, stop)
            for place, method in methods.items()
            if method.maps is not None
        }
        index = np.arange(start, stop) if order is None else order[start:stop]
        return cls(start, stop, index, *data.part(start, stop), maps)


@dataclass(frozen=True)
class Scored:
    """What one metric says of one shard by one explainer.

    Attributes
    ----------
    score, error : numpy.ndarray, float64, shape (n,)
        NaN where the metric failed.
    flags : numpy.ndarray, int64, shape (n,)
        What makes scores arbitrary, sums of :class:`quantus_ext.flags.Flag`.
    space : numpy.ndarray, float64, shape (n, 4)
        What maps leave unexplained in each space; see :class:`quantus_ext.spaces.Fit`.
    class_scores, class_errors : numpy.ndarray, float64, shape (n, k), or None
        Of k classes of each sample, whose mean is ``score``.
    n_evaluations : int
        Rows through the model that they rest on.
    n_rows : int
        Rows that were sent for them and for the maps scored together with them; those are counted
        with the first of these.
    seconds : float
    plan : tuple of int and str, or None
        Rows a forward pass and their layout, where the metric says so.
    failure, traceback : str or None
        What it raised.
    """

    score: np.ndarray
    error: np.ndarray
    flags: np.ndarray
    space: np.ndarray
    n_evaluations: int
    n_rows: int
    seconds: float
    plan: tuple[int, str] | None = None
    failure: str | None = None
    traceback: str | None = None
    class_scores: np.ndarray | None = None
    class_errors: np.ndarray | None = None


@dataclass(frozen=True)
class Record:
    """What is known of one shard by one explainer.

    Attributes
    ----------
    method : int
        Place of the explainer.
    start, stop : int
        Places in the order in which samples are scored.
    cells : dict of str to Scored
    maps : dict of int to numpy.ndarray
        Attributions of the samples that are shown as cases.
    seconds : float
        Of the explaining.
    threads : int
        Of torch, while it was computed.
    left : tuple of str
        What explainers and metrics left of which the shard's first record tells.
    """

    method: int
    start: int
    stop: int
    cells: dict[str, Scored]
    maps: dict[int, np.ndarray]
    seconds: float
    threads: int
    left: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Names of the cells that failed."""
        return [name for name, scored in self.cells.items() if scored.failure is not None]


class Worker:
    """What a worker keeps: everything that is the same for all shards.

    Parameters
    ----------
    model : nn.Module
    plan : Plan
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        # What the metrics of a shard ask, each row once.
        self._shared = SharedAnswers(by_identity=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return Worker, (self.model, self.plan)

    def run(self, shard: Shard, wanted: Mapping[int, Sequence[str]]) -> list[Record]:
        """Explain a shard and score it.

        Parameters
        ----------
        shard : Shard
        wanted : mapping of int to sequence of str
            By the places of the explainers, the names of the cells to compute.
        """
        x, y = shard.x.read(), shard.y.read()
        s = None if shard.s is None else shard.s.read()
        scored: dict[int, dict[str, Scored]] = {method: {} for method in wanted}
        with listening() as heard, answers_shared(self._shared):
            explained = {method: self._explained(method, shard, x, y) for method in wanted}
            for cell in self.plan.cells:
                methods = [method for method in wanted if cell.name in wanted[method]]
                for method, found in self._scored(cell, methods, explained, shard, x, y, s):
                    scored[method][cell.name] = found
        return [
            Record(
                method=method,
                start=shard.start,
                stop=shard.stop,
                cells=scored[method],
                maps=explained[method].cases(self.plan.cases, shard.start, shard.stop),
                seconds=explained[method].seconds,
                threads=torch.get_num_threads(),
                left=tuple(heard) if place == 0 else (),
            )
            for place, method in enumerate(wanted)
        ]

    def draws(self, shard: Shard) -> dict[str, Draws | tuple[str, str]]:
        """Return how many draws these samples say are enough, by the name of the cell.

        Of cells whose metrics ask a pilot; of one that fails what was raised, and its traceback.
        """
        asking = [
            cell
            for cell in self.plan.cells
            if isinstance(cell.metric, TorchMetric)
            and cell.metric.auto_draws is not None
            and cell.failure is None
        ]
        if not asking:
            return {}
        x, y = shard.x.read(), shard.y.read()
        s = None if shard.s is None else shard.s.read()
        found: dict[str, Draws | tuple[str, str]] = {}
        with answers_shared(self._shared):
            explained = {
                method: made.maps
                for method in range(len(self.plan.methods))
                if (made := self._explained(method, shard, x, y)).maps is not None
            }
            for cell in asking if explained else []:
                found[cell.name] = self._draws(cell, explained, shard.index, x, y, s)
        return found

    def _draws(
        self,
        cell: Cell,
        maps: Mapping[int, np.ndarray],
        index: NDArray[np.int64],
        x: np.ndarray,
        y: np.ndarray,
        s: np.ndarray | None,
    ) -> Draws | tuple[str, str]:
        try:
            draws = self._found(cell, maps, index, x, y, s).draws
        except (Exception, SystemExit) as error:
            return told("finding the number of draws failed: ", error)
        assert draws is not None
        return draws

    @property
    def _device(self) -> torch.device:
        return checks.resolve_device(self.model, self.plan.device)

    def _keywords(self, explainer: Method) -> dict[str, Any]:
        if self.plan.device is None or not takes(explainer.function, "device"):
            return explainer.keywords
        return {"device": self.plan.device, **explainer.keywords}

    def _explained(self, method: int, shard: Shard, x: np.ndarray, y: np.ndarray) -> Explained:
        start = time.perf_counter()
        try:
            maps = self._explain(self.plan.methods[method], method, shard, x, y)
        except (Exception, SystemExit) as error:
            failure = told("explaining failed: ", error)
            return Explained(None, time.perf_counter() - start, failure)
        return Explained(maps, time.perf_counter() - start, None, several=y.ndim > 1)

    def _explain(
        self, explainer: Method, method: int, shard: Shard, x: np.ndarray, y: np.ndarray
    ) -> np.ndarray:
        """Return the attributions, shape (n, …), of several classes (n, k, …)."""
        known = shard.maps.get(method)
        maps = None if known is None else known.read()
        if y.ndim == 1:
            return self._explain_class(explainer, maps, shard.index, x, y)
        given: Sequence[np.ndarray | None] = [None] * y.shape[1]
        if maps is not None:
            given = maps_of_classes(explainer.name, maps, x, y.shape[1])
        return np.stack(
            [
                self._explain_class(explainer, own, shard.index, x, column)
                for own, column in zip(given, y.T, strict=True)
            ],
            axis=1,
        )

    def _explain_class(
        self,
        explainer: Method,
        maps: np.ndarray | None,
        index: NDArray[np.int64],
        x: np.ndarray,
        y: np.ndarray,
    ) -> np.ndarray:
        """Return the attributions, made batch by batch from random states of the batch's own."""
        if maps is None:
            call = Explainer(
                explainer.function,
                self._keywords(explainer),
                seed=self.plan.seed,
                fence=Fence(f"the explainer {explainer.name!r}"),
            )
            parts = []
            for first in range(0, len(x), self.plan.batch_size):
                rows = slice(first, first + self.plan.batch_size)
                number = int(index[first])
                made = call.maps(self.model, x[rows], y[rows], number, self._device)
                # A copy, because the explainer may reuse its buffer.
                parts.append(np.array(array_of("what the explainer returns", made)))
                if parts[-1].shape[:1] != (len(x[rows]),):
                    raise ValueError(
                        f"the explainer must return a map for each of {len(x[rows])} samples, "
                        f"returned shape {parts[-1].shape}"
                    )
            maps = np.concatenate(parts)
        if maps.ndim == 3 and x.ndim == 2:
            inputs = as_input(torch.from_numpy(x), self.model, self._device)
            maps = of_explained_class(torch.from_numpy(maps), self.model, inputs, y).numpy()
        if maps.ndim == x.ndim - 1 > 1:
            last = maps.shape[1:] == x.shape[1:-1] != x.shape[2:]
            return maps[..., np.newaxis] if last else maps[:, np.newaxis]
        # Over the embeddings of token ids, or with a value an element: metrics that cannot use
        # them say so.
        return maps

    def _scored(
        self,
        cell: Cell,
        methods: Sequence[int],
        explained: Mapping[int, Explained],
        shard: Shard,
        x: np.ndarray,
        y: np.ndarray,
        s: np.ndarray | None,
    ) -> Iterator[tuple[int, Scored]]:
        """Yield what a metric says of the maps of some explainers, or why it says nothing."""
        good: dict[int, np.ndarray] = {}
        for method in methods:
            failure = explained[method].failure or cell.failure
            maps = explained[method].maps
            if failure is None and maps is not None:
                good[method] = maps
            else:
                assert failure is not None
                yield method, _failed(len(x), 0.0, *failure)
        start = time.perf_counter()
        try:
            found = self._score(cell, good, shard.index, x, y, s) if good else []
        except (Exception, SystemExit) as error:
            if len(good) > 1:
                # Each by itself: one may be at fault for all.
                for method in good:
                    yield from self._scored(cell, [method], explained, shard, x, y, s)
                return
            found = [_failed(len(x), time.perf_counter() - start, *told("", error))]
        yield from zip(good, found, strict=True)

    def _score(
        self,
        cell: Cell,
        maps: Mapping[int, np.ndarray],
        index: NDArray[np.int64],
        x: np.ndarray,
        y: np.ndarray,
        s: np.ndarray | None,
    ) -> list[Scored]:
        """Score the maps of some explainers, by their places, all at once."""
        start = time.perf_counter()
        found = self._found(cell, maps, index, x, y, s)
        took = (time.perf_counter() - start) / len(maps)
        # Another package's metric asks the model in its own way.
        chunks = found.plan if isinstance(cell.metric, TorchMetric) else None
        plan = None if chunks is None else (chunks.chunk_size, chunks.memory_format)
        # Of all maps, as they were asked about together.
        n_rows = [found.n_rows] + [0] * (len(maps) - 1)
        if y.ndim == 1:
            return [
                Scored(
                    score=found.scores[place],
                    error=found.standard_errors[place],
                    flags=found.details["flags"][place],
                    space=found.details["space"][place],
                    n_evaluations=int(found.n_evaluations[place]),
                    n_rows=n_rows[place],
                    seconds=took,
                    plan=plan,
                )
                for place in range(len(maps))
            ]
        together = isinstance(cell.metric, TorchMetric) and cell.metric.takes_classes
        of_classes = []
        for place in range(len(maps)):
            own = slice(place, None, len(maps))
            scores, errors = found.scores[own].T, found.standard_errors[own].T
            counts = found.n_evaluations[own]
            of_classes.append(
                Scored(
                    score=_mean_of_classes(scores),
                    # Classes share draws: of their mean it is not known, but never larger.
                    error=errors.mean(1),
                    flags=np.bitwise_or.reduce(found.details["flags"][own], axis=0),
                    space=_known_mean(found.details["space"][own]),
                    n_evaluations=int(counts.max() if together else counts.sum()),
                    n_rows=n_rows[place],
                    seconds=took,
                    plan=plan,
                    class_scores=np.ascontiguousarray(scores),
                    class_errors=np.ascontiguousarray(errors),
                )
            )
        return of_classes

    def _found(
        self,
        cell: Cell,
        maps: Mapping[int, np.ndarray],
        index: NDArray[np.int64],
        x: np.ndarray,
        y: np.ndarray,
        s: np.ndarray | None,
    ) -> MapScores:
        """Call a metric with the maps of some explainers, by their places.

        Of several classes, first the maps of all explainers for the first class, and so on.
        """
        call = dict(cell.call)
        if checks.is_rows(call.get("custom_batch")):
            custom = call["custom_batch"]
            by_number = isinstance(custom, np.ndarray)
            call["custom_batch"] = custom[index] if by_number else [custom[i] for i in index]
        if np.ndim(call.get("other_class", 0)):
            call["other_class"] = call["other_class"][index]
        if call.get("model_predict_kwargs"):
            call["model_predict_kwargs"] = part_of(call["model_predict_kwargs"], index)
        metric = cell.metric
        if not isinstance(metric, TorchMetric):
            metric = Foreign(metric, seed=self.plan.seed)
        methods = [self.plan.methods[method] for method in maps]

        def score(y: np.ndarray, maps: Sequence[np.ndarray], *, by_class: bool) -> MapScores:
            times = len(maps) // len(methods)
            return metric.score_maps(
                self.model,
                x,
                y,
                maps,
                s,
                device=self.plan.device,
                batch_size=self.plan.batch_size,
                index_batch=index,
                explainers=times
                * [
                    (None, None) if each.function is None else (each.function, self._keywords(each))
                    for each in methods
                ],
                carry_inputs=times * [each.carries_input for each in methods],
                by_class=by_class,
                **call,
            )

        if y.ndim == 1:
            return score(y, list(maps.values()), by_class=False)
        of_classes = [[each[:, place] for each in maps.values()] for place in range(y.shape[1])]
        if metric.takes_classes:
            return score(np.repeat(y, len(maps), axis=1), list(chain(*of_classes)), by_class=True)
        parts = [
            score(column, some, by_class=False)
            for column, some in zip(y.T, of_classes, strict=True)
        ]
        places = np.arange(y.size // len(y) * len(maps)).reshape(-1, len(maps))
        found = MapScores.of_groups(parts, places.tolist())
        # As many as the class needs that needs the most.
        draws = max((each.draws for each in parts if each.draws), key=lambda d: d.n, default=None)
        return replace(found, draws=draws)


@dataclass(frozen=True)
class Explained:
    """The attributions of a shard by one explainer, or why there are none.

    Attributes
    ----------
    maps : numpy.ndarray or None
    seconds : float
    failure : (str, str) or None
        What was raised, and the end of its traceback.
    several : bool
        Whether there are maps of several classes, shape (n, k, …).
    """

    maps: np.ndarray | None
    seconds: float
    failure: tuple[str, str] | None
    several: bool = False

    def cases(self, cases: Sequence[int], start: int, stop: int) -> dict[int, np.ndarray]:
        """Return the maps of those samples that are shown, of several classes for the first."""
        if self.maps is None:
            return {}
        shown = self.maps[:, 0] if self.several else self.maps
        return {case: np.array(shown[case - start]) for case in cases if start <= case < stop}


def _mean_of_classes(scores: np.ndarray) -> np.ndarray:
    """Return means over the last axis; scores of classes that cancel out leave no rounding."""
    mean = scores.mean(1)
    mean[np.abs(mean) < ROUNDING * np.abs(scores).max(1)] = 0.0
    return np.asarray(mean)


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Return means over the first axis of the numbers that are known; NaN where none is."""
    known = np.isfinite(values)
    count = known.sum(0)
    total = np.where(known, values, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def told(before: str, error: BaseException) -> tuple[str, str]:
    """Return what was raised and the end of its traceback."""
    text = "".join(traceback.format_exception(error))
    return f"{before}{type(error).__name__}: {error}", text[-_TRACEBACK:]


def _failed(n: int, seconds: float, failure: str, trace: str) -> Scored:
    unknown = np.full(n, np.nan)
    none = np.zeros(n, dtype=np.int64)
    spaces = np.full((n, len(SPACES)), np.nan)
    return Scored(unknown, unknown, none, spaces, 0, 0, seconds, None, failure, trace)
