"""Tasks on joblib's backends: sent out, taken in, and sent again where workers died."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend

from quantus_ext.evaluation.payload import Payload, Task, Unusable, work
from quantus_ext.evaluation.records import Record, Shard

_ATTEMPTS = 3
"""Times in a row that workers may die before a single shard is finished."""

_ROUND = 4
"""Tasks a worker, at once, on backends that give results back only when all are done."""


class WorkerError(RuntimeError):
    """Workers cannot do their work, or die again and again."""


def finished(
    payload: Payload,
    todo: dict[int, Task],
    shard_of: Callable[[Task], Shard],
    n_jobs: int | None,
) -> Generator[list[Record], None, None]:
    """Yield shards as workers finish them; tasks of workers that died are sent again.

    Parameters
    ----------
    payload : Payload
    todo : dict of int to Task
        By their first samples; what is finished is taken out.
    shard_of : callable
        Cuts out a task's samples.
    n_jobs : int, optional

    Raises
    ------
    WorkerError
        If workers cannot work, or die again and again.
    """
    backend, _ = get_active_backend()
    if effective_n_jobs(n_jobs) > 1 and not getattr(backend, "supports_sharedmem", False):
        # What cannot travel is no worker's fault.
        payload.data()
    attempts = 0
    while todo:
        unfinished = len(todo)
        lost = None
        try:
            for records in _dispatched(payload, list(todo.values()), shard_of, n_jobs):
                if isinstance(records, Unusable):
                    raise WorkerError(f"a worker cannot work: {records.reason}")
                if not isinstance(records, list):
                    # What Dask gives for a task whose data went with a worker.
                    raise RuntimeError(f"in place of a result came {records!r}")
                del todo[records[0].start]
                yield records
        except WorkerError:
            raise
        except Exception as error:
            lost = error
        if lost is None:
            continue
        attempts = attempts + 1 if len(todo) == unfinished else 1
        message = f"a worker died ({type(lost).__name__}: {lost})"
        if attempts == _ATTEMPTS:
            raise WorkerError(f"{message}, {attempts} times before a task was finished") from lost
        warnings.warn(
            f"{message}; the {len(todo)} shards that are not finished are sent again",
            RuntimeWarning,
            stacklevel=3,
        )


def _dispatched(
    payload: Payload,
    tasks: Sequence[Task],
    shard_of: Callable[[Task], Shard],
    n_jobs: int | None,
) -> Iterator[Any]:
    """Yield what workers return, in no order; shards are cut out only when they are sent."""

    def calls(some: Iterable[Task]) -> Iterator[Any]:
        return (delayed(work)(payload, shard_of(task), task) for task in some)

    # One task a batch, so that each result is written as soon as it is there.
    settings = {"n_jobs": n_jobs, "batch_size": 1}
    workers = effective_n_jobs(n_jobs)
    backend, _ = get_active_backend()
    if workers == 1 or backend.supports_return_generator:
        with _sent(payload, backend):
            parallel = Parallel(**settings, return_as="generator_unordered")
            with closing(parallel(calls(tasks))) as results:
                yield from results
        return
    remaining = iter(tasks)
    while some := list(islice(remaining, _ROUND * workers)):
        yield from Parallel(**settings)(calls(some))


@contextmanager
def _sent(payload: Payload, backend: Any) -> Iterator[None]:
    """Send the payload to all of Dask's workers, so that none takes the only one with it."""
    client = getattr(backend, "client", None)
    if client is None:
        yield
        return
    settings = {
        "wait_for_workers_timeout": backend.wait_for_workers_timeout,
        **backend.submit_kwargs,
    }
    with parallel_config(backend="dask", client=client, scatter=[payload], **settings):
        yield
