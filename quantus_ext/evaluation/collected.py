"""What has come back from workers and from a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantus_ext.card import card_of
from quantus_ext.draws import Draws
from quantus_ext.engine.spaces import SPACES, Space
from quantus_ext.evaluation.case import Case
from quantus_ext.evaluation.failure import Failure
from quantus_ext.evaluation.plan import Plan
from quantus_ext.evaluation.records import Record
from quantus_ext.evaluation.result import Evaluation
from quantus_ext.evaluation.rows import Data, Rows
from quantus_ext.evaluation.stopping import Stopping

MOST_COMPARED = 1000
"""Samples, the first that are scored, of which is kept what maps leave unexplained."""

Key = tuple[int, int]
"""Explainer and first sample."""


class Collected:
    """What has come back so far: scores in arrays, and of each shard what is not there."""

    def __init__(self, plan: Plan, n: int, n_classes: int | None = None) -> None:
        self.plan = plan
        self.n = n
        self.order = plan.order(n)
        shape = (len(plan.methods), len(plan.cells))
        self.scores = np.full((*shape, n), np.nan)
        self.errors = np.full((*shape, n), np.nan)
        self.classes: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        if n_classes is not None:
            scores, errors = np.full((2, *shape, n, n_classes), np.nan)
            self.classes = scores, errors
        self.flags = np.zeros((*shape, n), dtype=np.int64)
        self.space = np.full((*shape, min(n, MOST_COMPARED), len(SPACES)), np.nan)
        self.n_evaluations = np.zeros(shape, dtype=np.int64)
        self.n_rows = 0
        self.seconds = np.zeros(shape)
        self.draws: dict[str, Draws] = {}
        self._unfinished: dict[Key, Record] = {}
        self._maps: dict[tuple[int, int], np.ndarray] = {}
        self._places = {cell.name: place for place, cell in enumerate(plan.cells)}

    def take(self, record: Record, wanted: Collection[str] | None = None) -> Record:
        """Take what a worker or the store says; return all that is known of that shard.

        Parameters
        ----------
        record : Record
        wanted : collection of str, optional
            The cells whose scores are to be had, by default all that it has.
        """
        rows = slice(record.start, record.stop)
        samples = rows if self.order is None else self.order[rows]
        for name, scored in record.cells.items():
            if wanted is not None and name not in wanted:
                continue
            place = (record.method, self._places[name])
            self.scores[place][samples] = scored.score
            self.errors[place][samples] = scored.error
            if self.classes is not None and scored.class_scores is not None:
                self.classes[0][place][samples] = scored.class_scores
                self.classes[1][place][samples] = scored.class_errors
            self.flags[place][samples] = scored.flags
            compared = self.space[place][record.start : record.stop]
            compared[:] = scored.space[: len(compared)]
            self.n_evaluations[place] += scored.n_evaluations
            self.n_rows += scored.n_rows
            self.seconds[place] += scored.seconds
        for case, maps in record.maps.items():
            self._maps[record.method, case] = maps
        key = (record.method, record.start)
        before = self._unfinished.pop(key, None)
        if before is not None:
            # What failed was tried again, or what was not asked for is now.
            record = replace(record, cells={**before.cells, **record.cells})
        if record.failed or len(record.cells) < len(self.plan.cells):
            self._unfinished[key] = record
        return record

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cells failed, on some samples at least, shape (e, m)."""
        found = np.zeros(self.seconds.shape, dtype=bool)
        for (method, _), record in self._unfinished.items():
            found[method, [self._places[name] for name in record.failed]] = True
        return found

    def failures(self) -> Iterator[Failure]:
        """Yield what failed, explainer by explainer."""
        for _, record in sorted(self._unfinished.items()):
            for name in record.failed:
                scored = record.cells[name]
                yield Failure(
                    explainer=self.plan.methods[record.method].name,
                    metric=name,
                    start=record.start,
                    stop=record.stop,
                    error=str(scored.failure),
                    traceback=str(scored.traceback),
                )

    def _pilots(self) -> dict[str, Any]:
        """Return what pilots have found, if any was asked."""
        found = {name: asdict(draws) for name, draws in self.draws.items()}
        return {"draws": found} if found else {}

    def cases(self, x: Rows, y: Rows) -> Iterator[Case]:
        """Yield the samples to show, with the maps that there are."""
        for case in self.plan.cases:
            maps = {
                method.name: self._maps[place, case]
                for place, method in enumerate(self.plan.methods)
                if (place, case) in self._maps
            }
            label = int(y.part(case, case + 1).read().flat[0])
            number = case if self.order is None else int(self.order[case])
            yield Case(number, np.array(x.part(case, case + 1).read()[0]), label, maps)

    def evaluation(
        self,
        data: Data,
        *,
        settings: dict[str, Any],
        confidence: float,
        agg_func: Callable[..., Any] | None,
        scored: Mapping[str, Space],
        stopping: Stopping | None = None,
    ) -> Evaluation:
        """Return all of it, with what was asked for; data in the order of the plan.

        ``scored`` has the space that each metric reads, as far as it reads one.
        """
        plan = self.plan
        by_class: dict[str, NDArray[Any]] = {}
        if self.classes is not None:
            classes = data.y.read()
            if self.order is not None:
                classes = classes[np.argsort(self.order)]
            by_class = {
                "classes": classes,
                "class_scores": self.classes[0],
                "class_errors": self.classes[1],
            }
        return Evaluation(
            explainers=tuple(method.name for method in plan.methods),
            metrics=tuple(cell.name for cell in plan.cells),
            directions={cell.name: cell.direction for cell in plan.cells},
            scores=self.scores,
            standard_errors=self.errors,
            flags=self.flags,
            space=self.space,
            scored=scored,
            n_evaluations=self.n_evaluations,
            n_rows=self.n_rows,
            carry_inputs=tuple(method.carries_input for method in plan.methods),
            seconds=self.seconds,
            failures=tuple(self.failures()),
            settings={**settings, **self._pilots()},
            confidence=confidence,
            cases=tuple(self.cases(data.x, data.y)),
            columns=tuple(cell.names for cell in plan.cells),
            cards={cell.name: card_of(cell.metric) for cell in plan.cells},
            agg_func=agg_func,
            stopping=stopping,
            **by_class,
        )
