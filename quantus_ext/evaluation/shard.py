"""One unit of work: a shard of the samples, explained by all explainers, scored by all metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantus_ext import checks
from quantus_ext.base import TorchMetric
from quantus_ext.draws import Draws
from quantus_ext.engine.fence import listening
from quantus_ext.engine.keywords import part_of
from quantus_ext.engine.shared import SharedAnswers, answers_shared
from quantus_ext.evaluation.explaining import Explained, Explaining
from quantus_ext.evaluation.plan import Cell, Plan
from quantus_ext.evaluation.records import Record, Scored, Shard, failed, told
from quantus_ext.evaluation.statistics import ROUNDING
from quantus_ext.foreign import Foreign
from quantus_ext.map_scores import MapScores


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
        self._explaining = Explaining(model, plan)
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
            explained = {
                method: self._explaining.explained(method, shard, x, y) for method in wanted
            }
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
                if (made := self._explaining.explained(method, shard, x, y)).maps is not None
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
                yield method, failed(len(x), 0.0, *failure)
        start = time.perf_counter()
        try:
            found = self._score(cell, good, shard.index, x, y, s) if good else []
        except (Exception, SystemExit) as error:
            if len(good) > 1:
                # Each by itself: one may be at fault for all.
                for method in good:
                    yield from self._scored(cell, [method], explained, shard, x, y, s)
                return
            found = [failed(len(x), time.perf_counter() - start, *told("", error))]
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
        several = y.ndim > 1
        together = isinstance(cell.metric, TorchMetric) and cell.metric.takes_classes
        scored = []
        for place in range(len(maps)):
            # One class, or several whose maps come class by class.
            own = slice(place, None, len(maps))
            scores, errors = found.scores[own].T, found.standard_errors[own].T
            counts = found.n_evaluations[own]
            scored.append(
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
                    class_scores=np.ascontiguousarray(scores) if several else None,
                    class_errors=np.ascontiguousarray(errors) if several else None,
                )
            )
        return scored

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
                    (None, None)
                    if each.function is None
                    else (each.function, self._explaining.keywords(each))
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
