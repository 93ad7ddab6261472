"""How far an evaluation is: evaluations of the model, and about how long the rest takes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from quantus_ext.engine.progress import counting_rows, progress_bar
from quantus_ext.evaluation.estimate import Estimate, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantus_ext.evaluation.records import Record

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} evaluations, {elapsed}{postfix}"


class Progress(AbstractContextManager["Progress"]):
    """A bar that counts evaluations, from the first of them on where the work is done here.

    Other processes and threads tell of theirs when a shard is finished.

    Parameters
    ----------
    cost : Estimate or None
        Of the whole work; nothing is shown without one.
    n : int
        Samples.
    """

    def __init__(self, cost: Estimate | None, n: int) -> None:
        self._cost = cost
        self._n = n
        self._left = n
        self._rows = 0
        """Evaluations of finished shards."""
        self._live = 0
        """Evaluations of a shard that is not finished."""
        self._known = 0
        """Samples that were not to be scored, as a store has them."""
        self._start = time.perf_counter()
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        total = 0 if self._cost is None else self._cost.n_evaluations
        shown = self._cost is not None
        bar = progress_bar(shown=shown, total=total, unit_scale=True, desc="evaluate")
        bar.bar_format = _FORMAT
        self._bar = self._stack.enter_context(bar)
        if shown:
            self._stack.enter_context(counting_rows(self._sent))
        self._start = time.perf_counter()
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def skip(self, samples: int) -> None:
        """Take note of samples whose scores are there already."""
        self._known += samples
        self._left -= samples
        self._show()

    def finish(self, records: Sequence[Record]) -> None:
        """Take note of a shard that is finished."""
        first = records[0]
        self._left -= first.stop - first.start
        self._rows += sum(each.n_rows for record in records for each in record.cells.values())
        self._live = 0
        self._show()

    def _sent(self, rows: int) -> None:
        self._live += rows
        self._show()

    def _show(self) -> None:
        if self._cost is None:
            return
        planned = self._cost.n_evaluations * self._left / self._n
        done = self._rows + min(self._live, round(planned))
        self._bar.total = self._rows + round(planned)
        seconds = self._cost.seconds * (self._n - self._known) / self._n
        left = time_left(done, self._bar.total, time.perf_counter() - self._start, seconds)
        self._bar.set_postfix_str(f"about {duration(left)} left", refresh=False)
        self._bar.update(done - self._bar.n)


def time_left(done: int, total: int, elapsed: float, announced: float) -> float:
    """Return the seconds that the rest takes: as announced at first, as measured in the end.

    Examples
    --------
    >>> from quantus_ext.evaluation.progress import time_left
    >>> [time_left(done, 100, elapsed, 60.0) for done, elapsed in ((0, 0.0), (50, 40.0), (100, 80))]
    [60.0, 35.0, 0.0]
    """
    share = done / total if total else 1.0
    # The whole time: the estimate for what is not done yet, and what is done at its own pace.
    whole = (1 - share) * announced + elapsed
    return (1 - share) * whole
