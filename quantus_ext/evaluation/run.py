"""``evaluate``: explainers × metrics × shards on joblib's backends."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend
from torch import nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of
from quantus_ext.base import TorchMetric
from quantus_ext.engine import sampling
from quantus_ext.engine.progress import progress_bar
from quantus_ext.engine.turns import turns
from quantus_ext.evaluation.collected import Collected, Key
from quantus_ext.evaluation.estimate import Estimate, estimate, planned, settled_cells
from quantus_ext.evaluation.payload import Payload, Task, Unusable, locks_cleared, work
from quantus_ext.evaluation.plan import (
    Cell,
    Metrics,
    Plan,
    cells_of,
    identity,
    known_models,
    methods_of,
    with_calls_read,
)
from quantus_ext.evaluation.result import Evaluation, Failure, checked_confidence
from quantus_ext.evaluation.rows import Data, Rows
from quantus_ext.evaluation.shard import Record, Shard, Worker
from quantus_ext.evaluation.store import Store
from quantus_ext.finetune.training import as_input
from quantus_ext.foreign import fix_seeds
from quantus_ext.identity import probe_rows


class WorkerError(RuntimeError):
    """Workers cannot do their work, or die again and again."""


_DEFAULT_BATCH_SIZE = 64

_DEFAULT_BATCHES = 4
"""Batches a shard, by default."""

_MOST_THREADS = 1024

_MOST_WORKERS = 65_536

_MOST_TOLD = 20
"""Different errors that a warning holds."""

_ATTEMPTS = 3
"""Times in a row that workers may die before a single shard is finished."""

_ROUND = 4
"""Tasks a worker, at once, on backends that give results back only when all are done."""

Array = Any
"""An array, tensor, data frame, list, or the path of an ``.npy`` file."""


@overload
def evaluate(*arguments: Any, dry_run: Literal[True], **keywords: Any) -> Estimate: ...
@overload
def evaluate(*arguments: Any, return_as_df: Literal[True], **keywords: Any) -> pd.DataFrame: ...
@overload
def evaluate(
    metrics: Metrics,
    xai_methods: Mapping[str, Any],
    model: nn.Module,
    x_batch: Array,
    y_batch: Array,
    s_batch: Array | None = None,
    agg_func: Callable[..., Any] | None = None,
    explain_func_kwargs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    return_as_df: Literal[False] | None = None,
    verbose: bool | None = None,
    progress: bool | None = None,
    *,
    softmax: bool | None = None,
    multiply_by_inputs: Mapping[str, bool] | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    n_jobs: int | None = None,
    threads: int | None = None,
    device: str | torch.device | None = None,
    devices: Sequence[str] | None = None,
    store: str | Path | None = None,
    seed: int | None = 0,
    confidence: float = 0.95,
    cases: int = 3,
    dry_run: Literal[False] = False,
) -> Evaluation: ...
def evaluate(  # type: ignore[misc] # the first two signatures name only what decides
    metrics: Metrics,
    xai_methods: Mapping[str, Any],
    model: nn.Module,
    x_batch: Array,
    y_batch: Array,
    s_batch: Array | None = None,
    agg_func: Callable[..., Any] | None = None,
    explain_func_kwargs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    return_as_df: bool | None = None,
    verbose: bool | None = None,
    progress: bool | None = None,
    *,
    softmax: bool | None = None,
    multiply_by_inputs: Mapping[str, bool] | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    n_jobs: int | None = None,
    threads: int | None = None,
    device: str | torch.device | None = None,
    devices: Sequence[str] | None = None,
    store: str | Path | None = None,
    seed: int | None = 0,
    confidence: float = 0.95,
    cases: int = 3,
    dry_run: bool = False,
) -> Evaluation | Estimate | pd.DataFrame:
    """Score explainers by metrics, shard by shard, on one machine or many.

    Takes what ``quantus.evaluate`` takes, with the same meaning. Each explainer explains each
    shard once, for all metrics. A metric that fails fails in its cell alone, and a warning at the
    end names what failed. Where the work runs
    is joblib's matter: ``n_jobs`` processes by default, and whatever
    ``joblib.parallel_config(backend=...)`` says.

    Scores of this package's metrics do not depend on the shards. Other packages' metrics and
    explainers are called batch by batch, ``batch_size`` samples at a time, from global random
    states of the batch's own, so that theirs don't either; but they depend on ``batch_size``
    wherever they draw random numbers or compute across samples.

    Parameters
    ----------
    metrics : dict of str to Metric, or list of Metric
        Of this package, of Quantus or of one's own. They stay as they are: copies are called.
    xai_methods : dict
        By name a function as ``quantus.explain``; a dict of that one's keywords, ``method`` being
        the name unless it is among them; ``{"explain_func": ..., "explain_func_kwargs": ...}``; or
        attributions, as an array or the path of an ``.npy`` file.
    model : torch.nn.Module
        In evaluation mode.
    x_batch : array, tensor, table, list or path of an .npy file
        Inputs, as a metric's call takes them. From a file each worker reads its own shards.
        Whatever has a shape and slices does.
    y_batch : array, tensor, list or path, of int, shape (n,) or (n, 1)
        Explained classes.
    s_batch : array, tensor, list or path, optional
        Segmentations.
    agg_func : callable, optional
        Aggregates the scores of a cell in :meth:`Evaluation.to_dict`, which has the form that
        ``quantus.evaluate`` returns.
    explain_func_kwargs : dict, optional
        Keywords of explanation functions of one's own that have none among ``xai_methods``. They
        get ``method``, the name, as well if they take it and it is not among their keywords.
    call_kwargs : dict of str to dict, optional
        Arguments of the metrics' calls, by a name; with several, each makes a column of its own.
    return_as_df : bool, optional
        Return what ``quantus.evaluate`` does with it, a table of lists or of what ``agg_func``
        makes of them.
    verbose : bool, optional
        Say first what it will cost, from a few samples, and show progress. ``progress`` is its
        old name.
    softmax : bool, optional
        Of all calls of metrics: probabilities rather than logits; each metric's own default if
        None. In ``call_kwargs`` calls have one of their own.
    multiply_by_inputs : mapping of str to bool, optional
        Of explainers, whether their maps carry the input as a factor, as those of Integrated
        Gradients and SHAP do; metrics with ``multiply_by_inputs`` read them so. By default known of
        ``quantus.explain`` and of captum's explainers, and else the metric's own.
    batch_size : int, optional
        Samples that a metric or an explainer is called with at once. By default 64, or the largest
        number up to 64 that divides the ``shard_size`` that is given.
    shard_size : int, optional
        Samples a task, a multiple of ``batch_size``; four times that by default.
    n_jobs : int, optional
        Workers; 1 unless ``joblib.parallel_config`` says otherwise.
    threads : int, optional
        Of torch in each worker. Bits of a score can depend on it; by default as the backend has
        it.
    device : str or torch.device, optional
        As in a metric's call: the model's.
    devices : sequence of str, optional
        As ``["cuda:0", "cuda:1"]``: the workers of each machine share them out, one each.
    store : str or Path, optional
        A folder, or an address that fsspec knows, where finished shards go. A run that was cut
        off is called again and goes on from them; what failed is tried again. Each use asks the
        model for 8 samples and compares its answers with those that the store keeps.
    seed : int or None, default 0
        Of the global random states of explainers and other packages' metrics. Metrics of this
        package have their own; one with ``seed=None`` gets a fresh one, the same for all shards
        and kept in the store.
    confidence : float, default 0.95
        Of the intervals in the result.
    cases : int, default 3
        Samples, evenly spaced, whose attributions are kept for :meth:`Evaluation.to_html`.
    dry_run : bool, default False
        Say what it would cost, and return that.

    Returns
    -------
    Evaluation
        An :class:`Estimate` with ``dry_run``, a DataFrame with ``return_as_df``.

    Raises
    ------
    TypeError, ValueError
        If an argument breaks a rule, or the store belongs to another evaluation.
    StoreError
        If the store cannot be written; what it holds is kept.

    Examples
    --------
    >>> import numpy as np, torch, quantus_ext
    >>> weights = np.array([[0, 0, 0, 0], [4, 3, 2, 1]], dtype="float32")
    >>> model = torch.nn.Linear(4, 2, bias=False).eval()
    >>> model.load_state_dict({"weight": torch.from_numpy(weights)})
    <All keys matched successfully>
    >>> x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    >>> evaluation = quantus_ext.evaluate(
    ...     {"MoRF": quantus_ext.MoRF(4)},
    ...     {"right": weights[1] * x, "wrong": -weights[1] * x},
    ...     model,
    ...     x,
    ...     np.ones(8, dtype=int),
    ... )
    >>> evaluation.ranking().order("MoRF")
    ('right', 'wrong')
    """
    checks.module("model", model)
    with turns.asking(model):
        checks.evaluation_mode(model)
    batch_size, shard_size = _sizes(batch_size, shard_size)
    confidence = checked_confidence(confidence)
    agg_func = checks.optional(checks.function, "agg_func", agg_func)
    return_as_df = checks.optional(checks.flag, "return_as_df", return_as_df)
    dry_run = checks.flag("dry_run", dry_run)
    store = checks.optional(checks.address, "store", store)
    n_jobs = checks.optional(_workers, "n_jobs", n_jobs)
    threads = checks.optional(_threads, "threads", threads)
    devices = checks.optional(_devices, "devices", devices)
    if devices is not None and device is not None:
        raise ValueError("device and devices are both given, pass one")
    # It goes on to explainers and metrics as it came.
    checks.optional(checks.torch_device, "device", device)
    verbose = checks.optional(checks.flag, "verbose", verbose)
    progress = checks.optional(checks.flag, "progress", progress)
    if progress is not None:
        warnings.warn("progress is Quantus's old name of verbose", DeprecationWarning, stacklevel=2)
        verbose = progress if verbose is None else verbose
    seed = checks.seed(seed)
    softmax = checks.optional(checks.flag, "softmax", softmax)
    adapter = adapter_of(model)
    data = Data.of(adapter.encoded(x_batch), adapter.encoded_labels(y_batch), s_batch)
    n_cases = min(len(data), checks.natural("cases", cases))
    plan = Plan(
        methods=tuple(methods_of(xai_methods, explain_func_kwargs, len(data), multiply_by_inputs)),
        cells=tuple(cells_of(metrics, call_kwargs, softmax)),
        batch_size=batch_size,
        shard_size=shard_size,
        seed=sampling.fresh_seed() if seed is None else seed,
        device=device,
        cases=tuple(np.linspace(0, len(data) - 1, n_cases).round().astype(int).tolist()),
    )
    plan = with_calls_read(plan, model, data.x)
    n_tasks = len(plan.shards(len(data)))
    if dry_run or verbose:
        cost = estimate(plan, model, data, workers=effective_n_jobs(n_jobs), n_tasks=n_tasks)
        sys.stdout.write(f"{cost}\n")
        if dry_run:
            return cost

    kept, about, fresh = _identified(plan, model, data, store, seed)
    for cell in plan.cells:
        fix_seeds(cell.metric, fresh)
    if seed is None:
        plan = replace(plan, seed=fresh)
    result = Collected(plan, len(data))
    todo = _missing(result, kept, threads)
    # What is read from or cut out for each shard does not travel with the model.
    light = replace(plan, methods=tuple(replace(method, maps=None) for method in plan.methods))
    if todo.tasks:
        light = _ready(light, todo, model, data)
    payload = Payload(Worker(model, light), devices)
    left = _finish(result, kept, todo, payload, data, n_jobs, verbose=bool(verbose))
    evaluation = result.evaluation(data, settings=about, confidence=confidence, agg_func=agg_func)
    for message in left:
        warnings.warn(message, UserWarning, stacklevel=2)
    _warn_of(evaluation.failures)
    return evaluation.as_quantus_frame() if return_as_df else evaluation


class _Todo(NamedTuple):
    """What no store has: tasks by their first sample, and the shards of explainers to be kept."""

    tasks: dict[int, Task]
    unknown: set[Key]


def _identified(
    plan: Plan, model: nn.Module, data: Data, store: str | Path | None, seed: int | None
) -> tuple[Store | None, dict[str, Any], int]:
    """Return the store, what the evaluation is known by in it, and a seed for what has none."""
    n = len(data)
    # Answers are what a store knows a model by; without one a pass says what it leaves in it.
    asked = list(range(min(n, 2))) if store is None else probe_rows(n)
    rows = np.concatenate([data.x.part(row, row + 1).read() for row in asked])
    with turns.asking(model):
        known = known_models(plan, model, rows, asked, of_metrics=store is not None)
        arrays = {"x_batch": data.x, "y_batch": data.y, "s_batch": data.s}
        about = identity(plan, known["model"], arrays, seed)
    fresh = sampling.fresh_seed()
    if store is None:
        return None, about, fresh
    kept = Store(store, about, fresh, known, asked)
    return kept, about, kept.seed


def _missing(result: Collected, kept: Store | None, threads: int | None) -> _Todo:
    """Take what the store has, and return the rest."""
    plan = result.plan
    names = tuple(cell.name for cell in plan.cells)
    todo = _Todo({}, set())
    for start, stop in plan.shards(result.n):
        wanted = {}
        for method in range(len(plan.methods)):
            record = None if kept is None else kept.read(method, start, stop)
            if record is not None:
                result.take(record)
            wanted[method] = names if record is None else tuple(record.failed)
        missing = {(method, start) for method, own in wanted.items() if own}
        if names in wanted.values():
            # Asked about as it would have been as a whole, because which rows share a pass is a
            # matter of rounding; what is there already stays.
            wanted = dict.fromkeys(wanted, names)
        if missing:
            own_cells = {method: own for method, own in wanted.items() if own}
            todo.tasks[start] = Task(start, stop, own_cells, threads)
            todo.unknown.update(missing)
    return todo


def _ready(plan: Plan, todo: _Todo, model: nn.Module, data: Data) -> Plan:
    """Return the plan with the cells that are needed, trained and measured."""
    needed = {name for task in todo.tasks.values() for own in task.wanted.values() for name in own}
    plan = replace(plan, cells=tuple(cell for cell in plan.cells if cell.name in needed))
    plan = replace(plan, cells=_settled(plan, model, data.x, data.y))
    return replace(plan, cells=tuple(planned(cell, plan, model, data.x) for cell in plan.cells))


def _finish(
    result: Collected,
    kept: Store | None,
    todo: _Todo,
    payload: Payload,
    data: Data,
    n_jobs: int | None,
    *,
    verbose: bool,
) -> list[str]:
    """Have the tasks done and kept; return what is to be said of what they left."""
    left: dict[str, None] = {}

    def shard_of(task: Task) -> Shard:
        methods = {method: result.plan.methods[method] for method in task.wanted}
        return Shard.of(data, methods, task.start, task.stop)

    with (
        locks_cleared(payload.key),
        progress_bar(shown=verbose, total=len(todo.tasks), unit="shard", desc="evaluate") as bar,
        closing(_records(payload, todo.tasks, shard_of, n_jobs)) as finished,
    ):
        for records in finished:
            for record in records:
                left.update(dict.fromkeys(record.left))
                if (record.method, record.start) not in todo.unknown:
                    continue
                complete = result.take(record)
                if kept is not None:
                    kept.write(complete)
            bar.update()
    return list(left)


def _workers(name: str, value: object) -> int:
    """Return a number of workers as joblib takes it: negative ones count from the last core."""
    number = checks.integer(name, value)
    if not -_MOST_WORKERS <= number <= _MOST_WORKERS or number == 0:
        raise ValueError(
            f"{name} must be between 1 and {_MOST_WORKERS:,}, or negative, as -1 for all cores; is "
            f"{checks.shown(value)}"
        )
    return number


def _threads(name: str, value: object) -> int:
    number = checks.positive_integer(name, value)
    if number > _MOST_THREADS:
        raise ValueError(f"{name} must be at most {_MOST_THREADS:,}, is {number}")
    return number


def _devices(name: str, value: object) -> list[str]:
    """Return names of devices, each once."""
    named = [str(checks.torch_device(name, each)) for each in checks.items(name, value)]
    if not named:
        raise ValueError(f"{name} must be a list of at least one device, is empty")
    if len(set(named)) < len(named):
        raise ValueError(f"{name} must hold each device once, holds {', '.join(named)}")
    return named


def _sizes(batch_size: int | None, shard_size: int | None) -> tuple[int, int]:
    """Return the samples of a batch and of a shard; what is not given fits what is."""
    if shard_size is not None:
        shard_size = checks.positive_integer("shard_size", shard_size)
    if batch_size is None:
        largest = _DEFAULT_BATCH_SIZE
        if shard_size is not None:
            largest = next(n for n in range(min(largest, shard_size), 0, -1) if shard_size % n == 0)
        batch_size = largest
    batch_size = checks.positive_integer("batch_size", batch_size)
    if shard_size is None:
        return batch_size, _DEFAULT_BATCHES * batch_size
    if shard_size % batch_size:
        raise ValueError(
            f"shard_size must be a multiple of batch_size, {batch_size}, is {shard_size}"
        )
    return batch_size, shard_size


def _warn_of(failures: Sequence[Failure]) -> None:
    """Say which cells failed, and why."""
    cells: dict[tuple[str, str], dict[str, None]] = {}
    for failure in failures:
        cells.setdefault((failure.explainer, failure.error), {})[failure.metric] = None
    if not cells:
        return
    told = [
        f"{explainer} by {', '.join(metrics)} ({error})"
        for (explainer, error), metrics in cells.items()
    ]
    more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    warnings.warn(
        "some scores are NaN, and without a rank, because of errors: "
        f"{'; '.join(told[:_MOST_TOLD])}{more}. All are in evaluation.failures, with their "
        "tracebacks",
        RuntimeWarning,
        stacklevel=3,
    )


def _settled(plan: Plan, model: nn.Module, x: Rows, y: Rows) -> tuple[Cell, ...]:
    """Return the cells, with what would be trained on each shard trained on the whole set."""
    if not any(isinstance(c.metric, TorchMetric) and c.metric.trains for c in plan.cells):
        # The whole set is in memory only for a metric that trains.
        return plan.cells
    device = checks.resolve_device(model, plan.device)
    whole = as_input(torch.as_tensor(x.read()), model, device)
    return settled_cells(plan, model, whole, torch.as_tensor(y.read()).to(device), train=True)


def _records(
    payload: Payload,
    todo: dict[int, Task],
    shard_of: Callable[[Task], Shard],
    n_jobs: int | None,
) -> Generator[list[Record], None, None]:
    """Yield shards as workers finish them; tasks of workers that died are sent again."""
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
