"""``evaluate``: explainers × metrics × shards on joblib's backends."""

from __future__ import annotations

import math
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
from quantus_ext.draws import Draws, pilot_samples
from quantus_ext.engine import sampling
from quantus_ext.engine.spaces import SPACES, Space
from quantus_ext.engine.turns import turns
from quantus_ext.evaluation.collected import Collected, Key
from quantus_ext.evaluation.estimate import Estimate, estimate, planned, settled_cells
from quantus_ext.evaluation.explainers import CONSTANT, named, surprises
from quantus_ext.evaluation.failure import Failure
from quantus_ext.evaluation.labels import Labels
from quantus_ext.evaluation.payload import Payload, Task, Unusable, locks_cleared, work
from quantus_ext.evaluation.plan import (
    Cell,
    Metrics,
    Plan,
    cells_of,
    for_a_ranking,
    identity,
    known_models,
    methods_of,
    with_calls_read,
)
from quantus_ext.evaluation.progress import Progress
from quantus_ext.evaluation.records import Record, Shard
from quantus_ext.evaluation.result import Evaluation, checked_confidence
from quantus_ext.evaluation.rows import Data, Rows
from quantus_ext.evaluation.shard import Worker
from quantus_ext.evaluation.statistics import sign_of
from quantus_ext.evaluation.stopping import Looks, StoppingRule, rounds
from quantus_ext.evaluation.store import Store
from quantus_ext.evaluation.targets import classes_of
from quantus_ext.finetune.training import as_input
from quantus_ext.flags import Flag
from quantus_ext.foreign import caveats, fix_seeds
from quantus_ext.identity import probe_rows
from quantus_ext.spaces import NAMES


class WorkerError(RuntimeError):
    """Workers cannot do their work, or die again and again."""


_DEFAULT_BATCH_SIZE = 64

_DEFAULT_BATCHES = 4
"""Batches a shard, by default."""

_SMALL_BATCH_SIZE = 32
"""Of a batch, and of a shard, where the ranking decides when to stop."""

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
    y_batch: Array | None = None,
    s_batch: Array | None = None,
    agg_func: Callable[..., Any] | None = None,
    explain_func_kwargs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    return_as_df: Literal[False] | None = None,
    verbose: bool | None = None,
    progress: bool | None = None,
    *,
    softmax: bool | None = None,
    output: Space | None = None,
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
    until: Literal["ranked"] | None = None,
    smallest_difference: float | Mapping[str, float] | None = None,
    score_bounds: Mapping[str, tuple[float, float]] | None = None,
    cases: int = 3,
    names: Sequence[str] | None = None,
    tokens: Sequence[Sequence[str]] | Callable[[list[int]], Sequence[str]] | None = None,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    targets: str | Sequence[int] | Array | None = None,
    dry_run: Literal[False] = False,
) -> Evaluation: ...
def evaluate(  # type: ignore[misc] # the first two signatures name only what decides
    metrics: Metrics,
    xai_methods: Mapping[str, Any],
    model: nn.Module,
    x_batch: Array,
    y_batch: Array | None = None,
    s_batch: Array | None = None,
    agg_func: Callable[..., Any] | None = None,
    explain_func_kwargs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    return_as_df: bool | None = None,
    verbose: bool | None = None,
    progress: bool | None = None,
    *,
    softmax: bool | None = None,
    output: Space | None = None,
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
    until: Literal["ranked"] | None = None,
    smallest_difference: float | Mapping[str, float] | None = None,
    score_bounds: Mapping[str, tuple[float, float]] | None = None,
    cases: int = 3,
    names: Sequence[str] | None = None,
    tokens: Sequence[Sequence[str]] | Callable[[list[int]], Sequence[str]] | None = None,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    targets: str | Sequence[int] | Array | None = None,
    dry_run: bool = False,
) -> Evaluation | Estimate | pd.DataFrame:
    """Score explainers by metrics, shard by shard, on one machine or many.

    Takes the arguments of ``quantus.evaluate``, with the same meaning. Each explainer runs once per
    shard, for all metrics. If a metric or an explainer raises an error, only its own cells fail,
    and a warning at the end names them. joblib runs the work: ``n_jobs`` processes by default, or
    ``joblib.parallel_config(backend=...)``.

    Scores of this package's metrics do not depend on the shards. Metrics of other packages and
    explainers are called with ``batch_size`` samples at a time, from global random states seeded
    per batch, so theirs do not either; but they depend on ``batch_size`` if they draw random
    numbers or compute across samples.

    Parameters
    ----------
    metrics : dict of str to Metric, or list of Metric
        Of this package, of Quantus or your own. Copies are called; the metrics stay unchanged.
    xai_methods : dict
        By name: a function like ``quantus.explain``; a dict of its keyword arguments, where
        ``method`` is the name by default; ``{"explain_func": ..., "explain_func_kwargs": ...}``; or
        attributions, as an array or the path of an ``.npy`` file.
    model : torch.nn.Module
        In evaluation mode.
    x_batch : array, tensor, table, list or path of an .npy file
        Inputs, as in a metric's call, or anything with a shape and slices. From a file, each worker
        loads its own shards.
    y_batch : array, tensor, list or path, of int, shape (n,) or (n, 1)
        Explained classes; None with ``targets``.
    s_batch : array, tensor, list or path, optional
        Segmentations.
    agg_func : callable, optional
        Aggregates the scores of a cell in :meth:`Evaluation.to_dict`, which returns the result of
        ``quantus.evaluate``.
    explain_func_kwargs : dict, optional
        Keyword arguments of explanation functions that have none in ``xai_methods``. ``method``,
        the name, is added if the function takes it and it is not among them.
    call_kwargs : dict of str to dict, optional
        Arguments for the calls of the metrics, under names of your choice. With several names, each
        gives every metric a column of its own.
    return_as_df : bool, optional
        Return the data frame of ``quantus.evaluate``, with lists or the results of ``agg_func``.
    verbose : bool, optional
        Estimate the cost first, from a few samples, and show progress. ``progress`` is the former
        name.
    softmax : bool, optional
        For all calls of metrics: use probabilities instead of logits; None for each metric's
        default. In ``call_kwargs``, each call can have its own.
    output : {"logit", "probability", "log_probability", "contrast"}, optional
        For all calls of metrics: what of the explained class is scored, in place of ``softmax``.
        ``other_class`` goes into ``call_kwargs``. A warning at the end says which maps clearly
        explain another of these than a metric scores; see :meth:`Evaluation.spaces`.
    multiply_by_inputs : mapping of str to bool, optional
        Whether an explainer's maps include the input as a factor, as those of Integrated Gradients
        and SHAP do, for metrics with ``multiply_by_inputs``. By default known for
        ``quantus.explain`` and for captum's explainers, otherwise the metric's setting.
    batch_size : int, optional
        Samples per call of a metric or an explainer. By default 64, with ``until`` 32, or the
        largest number up to that which divides ``shard_size``.
    shard_size : int, optional
        Samples per task, a multiple of ``batch_size``; by default four times ``batch_size``, with
        ``until`` the same as ``batch_size``.
    n_jobs : int, optional
        Workers; by default 1, or as in ``joblib.parallel_config``.
    threads : int, optional
        torch's threads in each worker; by default the backend decides. The last bits of a score can
        depend on it.
    device : str or torch.device, optional
        As in a metric's call: the model's.
    devices : sequence of str, optional
        For example ``["cuda:0", "cuda:1"]``: the workers of each machine get one each.
    store : str or Path, optional
        A folder, or an address that fsspec supports, for finished shards. Repeat the call to resume
        an interrupted run; failed cells are computed again. Each use evaluates the model on 8
        samples and compares the answers with the stored ones.
    seed : int or None, default 0
        For the global random states of explainers and metrics of other packages. Metrics of this
        package have their own seed; for ``seed=None``, one is drawn, used for all shards and kept
        in the store.
    confidence : float, default 0.95
        Of the intervals in the result; with ``until``, of all verdicts on pairs together.
    until : "ranked", optional
        Score the samples in random order, shard by shard, and stop when the ranking is known: an
        explainer that a metric has separated from every other one is not evaluated by it any more.
        The result is the same for any number of workers, and the error rates account for the
        repeated looks.
    smallest_difference : float or mapping of str to float, optional
        With ``until``, for all metrics or by column: two explainers whose mean scores are known to
        differ by less need not be separated.
    score_bounds : mapping of str to (float, float), optional
        With ``until``, bounds of the scores of a column whose metric does not declare them. With
        bounds, error rates are exact; without, they hold for many samples.
    cases : int, default 3
        Evenly spaced samples whose attributions are kept for :meth:`Evaluation.to_html`.
    names : sequence of n str, optional
        Of the samples, to be written on the cases.
    tokens : sequence of n sequences of str, or callable, optional
        Of texts, one for each id, padding included; or what makes them of a list of ids, such as
        ``tokenizer.convert_ids_to_tokens``. By default known for adapters with a tokenizer.
    feature_names : sequence of str, optional
        Of the columns of a table, or of the channels of series; by default those of a data frame.
    class_names : sequence of str or mapping of int to str, optional
        Of the classes in ``y_batch``.
    targets : "all", "top3" or alike, sequence of int, or array of int, shape (n, k), optional
        Explain several classes of each sample, in place of ``y_batch``: all, the 3 (or another
        number) with the largest outputs, the same for all samples, or classes of each sample's own.
        Attributions in ``xai_methods`` have the shape (n, k, …). A sample's score is the mean over
        its classes, so that rankings and intervals are by sample; standard errors are upper bounds,
        because classes share draws. See ``class_scores`` and :meth:`Evaluation.by_class`.
    dry_run : bool, default False
        Return an estimate of the cost.

    Returns
    -------
    Evaluation
        An :class:`Estimate` with ``dry_run``, a DataFrame with ``return_as_df``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or the store belongs to another evaluation.
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
    if until is not None:
        checks.one_of("until", until, ("ranked",))
    batch_size, shard_size = _sizes(batch_size, shard_size, small=until is not None)
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
    if output is not None:
        checks.one_of("output", output, SPACES)
    adapter = adapter_of(model)
    labels_given = None if y_batch is None else adapter.encoded_labels(y_batch)
    data = Data.of(adapter.encoded(x_batch), labels_given, s_batch, several=targets is not None)
    n_cases = min(len(data), checks.natural("cases", cases))
    plan = Plan(
        methods=tuple(methods_of(xai_methods, explain_func_kwargs, len(data), multiply_by_inputs)),
        cells=tuple(cells_of(metrics, call_kwargs, softmax, output)),
        batch_size=batch_size,
        shard_size=shard_size,
        seed=sampling.fresh_seed() if seed is None else seed,
        device=device,
        # Of a random order the first ones, which all explainers are asked about.
        cases=tuple(
            np.linspace(0, (len(data) if until is None else n_cases) - 1, n_cases)
            .round()
            .astype(int)
            .tolist()
        ),
        shuffled=until is not None,
    )
    n_classes = None
    if targets is not None:
        classes = classes_of(
            targets, model, data.x, plan.cells, batch_size=batch_size, device=device
        )
        data, n_classes = data.with_classes(classes), classes.shape[1]
    for method in plan.methods:
        for said in surprises(method.function, method.keywords, model):
            warnings.warn(f"xai_methods[{method.name!r}]: {said}", UserWarning, stacklevel=2)
    for caveat in {said: None for cell in plan.cells for said in caveats(cell.metric)}:
        warnings.warn(caveat, UserWarning, stacklevel=2)
    labels = Labels.of(
        adapter,
        x_batch,
        data,
        names=names,
        tokens=tokens,
        feature_names=feature_names,
        class_names=class_names,
        channels_last=any(cell.channels_last for cell in plan.cells),
    )
    if plan.shuffled:
        plan = replace(plan, cells=tuple(map(for_a_ranking, plan.cells)))
    rule = _rule(plan, model, confidence, smallest_difference, score_bounds)
    plan = with_calls_read(plan, model, data.x)
    n_tasks = len(plan.shards(len(data)))
    cost: Estimate | None = None
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
    order, given = plan.order(len(data)), data
    chosen = plan.cases if order is None else order[list(plan.cases)].tolist()
    # Before the work, so that what cannot be written on them is an error now.
    shown = list(labels.cases(chosen, given))
    if order is not None:
        data = data.in_order(order)
        plan = replace(plan, methods=tuple(method.in_order(order) for method in plan.methods))
    result = Collected(plan, len(data), n_classes)
    looks = None if rule is None else _looks(rule, result)
    crew = _Crew(n_jobs, threads, devices)
    try:
        left = _score(result, kept, looks, model, data, given, crew, cost=cost)
    except KeyboardInterrupt:
        # Short, because where in the work it was says nothing.
        raise KeyboardInterrupt(_interrupted(store)) from None
    evaluation = result.evaluation(
        data,
        settings=about,
        confidence=confidence,
        agg_func=agg_func,
        scored=_scored(plan, model),
        stopping=None if looks is None else looks.found,
    )
    evaluation = replace(evaluation, cases=labels.with_maps(shown, evaluation.cases))
    for message in [*left, *_constant_maps(plan, evaluation)]:
        warnings.warn(message, UserWarning, stacklevel=2)
    _warn_of(evaluation.failures)
    _warn_of_spaces(evaluation)
    return evaluation.as_quantus_frame() if return_as_df else evaluation


class _Crew(NamedTuple):
    """Who does the work: workers, the threads of each, and the devices that they share out."""

    n_jobs: int | None
    threads: int | None
    devices: list[str] | None


class _Todo(NamedTuple):
    """What no store has: tasks by their first sample, and the cells that are to be kept of them."""

    tasks: dict[int, Task]
    unknown: dict[Key, tuple[str, ...]]


def _rule(
    plan: Plan,
    model: nn.Module,
    confidence: float,
    smallest_difference: float | Mapping[str, float] | None,
    score_bounds: Mapping[str, tuple[float, float]] | None,
) -> StoppingRule | None:
    """Return when a pair is settled, or None where all samples are scored."""
    names = [cell.name for cell in plan.cells]
    given = {"smallest_difference": smallest_difference, "score_bounds": score_bounds}
    if not plan.shuffled:
        for name, value in given.items():
            if value is not None:
                raise ValueError(f'{name} needs until="ranked": without it nothing stops early')
        return None
    if len(plan.methods) < 2:
        raise ValueError('until="ranked" needs at least two explainers to rank, has one')
    if smallest_difference is not None and not isinstance(smallest_difference, Mapping):
        smallest_difference = dict.fromkeys(names, smallest_difference)
    smallest = {
        name: checks.positive_number(f"smallest_difference[{name!r}]", value)
        for name, value in _by_column("smallest_difference", smallest_difference, names).items()
    }
    bounds, apart = {}, {}
    for cell in plan.cells:
        metric = cell.metric
        if isinstance(metric, TorchMetric):
            known = metric.bounds(
                adapter_of(model), cell.call.get("softmax"), cell.call.get("output")
            )
            if known is not None:
                bounds[cell.name] = known
                apart[cell.name] = min(metric.max_difference, known[1] - known[0])
    for name, pair in _by_column("score_bounds", score_bounds, names).items():
        low, high = checks.interval(f"score_bounds[{name!r}]", pair)
        if name in bounds:
            raise ValueError(
                f"score_bounds must not hold {name!r}, whose metric says so itself: between "
                f"{bounds[name][0]:g} and {bounds[name][1]:g}"
            )
        bounds[name], apart[name] = (low, high), high - low
    n_pairs = math.comb(len(plan.methods), 2) * len(names)
    return StoppingRule(confidence, n_pairs, smallest, bounds, apart)


def _by_column(name: str, values: Any, columns: Sequence[str]) -> Mapping[str, Any]:
    """Return values by the names of columns, an empty mapping for none."""
    found = checks.optional(checks.mapping, name, values) or {}
    unknown = [str(each) for each in found if each not in columns]
    if unknown:
        raise ValueError(
            f"{name} must be by the names of columns, {', '.join(columns)}, has "
            f"{', '.join(unknown)}"
        )
    return found


def _looks(rule: StoppingRule, result: Collected) -> Looks:
    cells = result.plan.cells
    signs = [sign_of(cell.direction) for cell in cells]
    names = [cell.name for cell in cells]
    assert result.order is not None
    explainers = [method.name for method in result.plan.methods]
    return Looks(rule, result.order, explainers, names, signs)


def _score(
    result: Collected,
    kept: Store | None,
    looks: Looks | None,
    model: nn.Module,
    data: Data,
    given: Data,
    crew: _Crew,
    *,
    cost: Estimate | None,
) -> list[str]:
    """Have all shards scored, or as many as the ranking needs; return what they left."""
    plan = result.plan
    shards = plan.shards(result.n)
    names = tuple(cell.name for cell in plan.cells)
    wanted = dict.fromkeys(range(len(plan.methods)), names)
    payload: Payload | None = None
    left: dict[str, None] = {}
    if kept is not None:
        result.draws.update(kept.draws())
    with Progress(cost, result.n) as progress:
        for part in [slice(0, len(shards))] if looks is None else rounds(len(shards)):
            some = shards[part]
            todo = _missing(result, kept, some, wanted, crew.threads)
            progress.skip(sum(stop - start for start, stop in some if start not in todo.tasks))
            if todo.tasks:
                if payload is None:
                    needed = wanted if looks else todo.unknown
                    ready, draws = _ready(plan, needed, model, data, given, kept)
                    result.draws.update(draws)
                    payload = Payload(Worker(model, ready), crew.devices)
                left.update(_finish(result, kept, todo, payload, data, crew.n_jobs, progress))
            if looks is not None:
                looks.look(result.scores, some[-1][1], result.failed)
                wanted = looks.wanted()
                if not wanted:
                    break
    return list(left)


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


def _missing(
    result: Collected,
    kept: Store | None,
    shards: Sequence[tuple[int, int]],
    wanted: Mapping[int, tuple[str, ...]],
    threads: int | None,
) -> _Todo:
    """Take what the store has of the cells that are wanted, and return the rest."""
    todo = _Todo({}, {})
    for start, stop in shards:
        missing = {}
        for method, names in wanted.items():
            record = None if kept is None else kept.read(method, start, stop)
            there: set[str] = set()
            if record is not None:
                result.take(record, names)
                there = {*record.cells} - {*record.failed}
            own = tuple(name for name in names if name not in there)
            if own:
                missing[method] = own
        if not missing:
            continue
        todo.unknown.update({(method, start): own for method, own in missing.items()})
        if any(own == wanted[method] for method, own in missing.items()):
            # Asked about as it would have been as a whole, because which rows share a pass is a
            # matter of rounding; what is there already stays.
            missing = dict(wanted)
        todo.tasks[start] = Task(start, stop, missing, threads)
    return todo


def _ready(
    plan: Plan,
    wanted: Mapping[Any, Sequence[str]],
    model: nn.Module,
    data: Data,
    given: Data,
    kept: Store | None,
) -> tuple[Plan, dict[str, Draws]]:
    """Return the plan for workers, with the cells that are needed, trained and measured.

    And how many draws pilots call for, by the names of cells.
    """
    needed = {name for names in wanted.values() for name in names}
    plan = replace(plan, cells=tuple(cell for cell in plan.cells if cell.name in needed))
    # In the caller's order, so that a copy is tuned alike however samples are scored.
    plan = replace(plan, cells=_settled(plan, model, given.x, given.y))
    plan = replace(plan, cells=tuple(planned(cell, plan, model, data.x) for cell in plan.cells))
    plan, draws = _with_draws(plan, model, data, kept)
    # What is read from or cut out for each shard does not travel with the model.
    methods = tuple(replace(method, maps=None) for method in plan.methods)
    return replace(plan, methods=methods), draws


def _with_draws(
    plan: Plan, model: nn.Module, data: Data, kept: Store | None
) -> tuple[Plan, dict[str, Draws]]:
    """Return the plan with as many draws as a pilot calls for, the same for all shards."""
    asking = {
        cell.name: cell.metric
        for cell in plan.cells
        if isinstance(cell.metric, TorchMetric) and cell.metric.auto_draws is not None
    }
    if not asking:
        return plan, {}
    found: dict[str, Draws | tuple[str, str]] = {
        name: draws for name, metric in asking.items() if (draws := metric.known_draws())
    }
    if kept is not None:
        found.update(kept.draws())
    pilots = [
        metric.auto_draws.n_pilot
        for name, metric in asking.items()
        if name not in found and metric.auto_draws is not None
    ]
    if pilots:
        places = pilot_samples(max(pilots), len(data))
        order, index = plan.order(len(data)), places
        if order is not None:
            # Of a random order the first ones.
            places = np.arange(len(places))
            index = order[places]
        methods = tuple(method.in_order(places) for method in plan.methods)
        shard = Shard.of(data.in_order(places), index, dict(enumerate(methods)), 0, len(places))
        cells = tuple(cell for cell in plan.cells if cell.name not in found)
        made = Worker(model, replace(plan, cells=cells, cases=())).draws(shard)
        found.update(made)
    if kept is not None:
        found.update(kept.draws(found))
    ready = []
    for cell in plan.cells:
        decided = found.get(cell.name)
        if isinstance(decided, Draws):
            assert isinstance(cell.metric, TorchMetric)
            ready.append(replace(cell, metric=cell.metric.with_draws(decided.n)))
        else:
            ready.append(replace(cell, failure=decided or cell.failure))
    known = {name: each for name, each in found.items() if isinstance(each, Draws)}
    return replace(plan, cells=tuple(ready)), known


def _finish(
    result: Collected,
    kept: Store | None,
    todo: _Todo,
    payload: Payload,
    data: Data,
    n_jobs: int | None,
    progress: Progress,
) -> dict[str, None]:
    """Have the tasks done and kept; return what is to be said of what they left."""
    left: dict[str, None] = {}

    def shard_of(task: Task) -> Shard:
        methods = {method: result.plan.methods[method] for method in task.wanted}
        return Shard.of(data, result.order, methods, task.start, task.stop)

    with (
        locks_cleared(payload.key),
        closing(_records(payload, todo.tasks, shard_of, n_jobs)) as finished,
    ):
        for records in finished:
            for record in records:
                left.update(dict.fromkeys(record.left))
                missing = todo.unknown.get((record.method, record.start))
                if missing is None:
                    continue
                cells = {name: record.cells[name] for name in missing}
                complete = result.take(replace(record, cells=cells))
                if kept is not None:
                    kept.write(complete)
            progress.finish(records)
    return left


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


def _sizes(batch_size: int | None, shard_size: int | None, *, small: bool) -> tuple[int, int]:
    """Return the samples of a batch and of a shard; what is not given fits what is.

    Small shards let a ranking stop early.
    """
    default, batches = (_SMALL_BATCH_SIZE, 1) if small else (_DEFAULT_BATCH_SIZE, _DEFAULT_BATCHES)
    if shard_size is not None:
        shard_size = checks.positive_integer("shard_size", shard_size)
    if batch_size is None:
        largest = default
        if shard_size is not None:
            largest = next(n for n in range(min(largest, shard_size), 0, -1) if shard_size % n == 0)
        batch_size = largest
    batch_size = checks.positive_integer("batch_size", batch_size)
    if shard_size is None:
        return batch_size, batches * batch_size
    if shard_size % batch_size:
        raise ValueError(
            f"shard_size must be a multiple of batch_size, {batch_size}, is {shard_size}"
        )
    return batch_size, shard_size


def _scored(plan: Plan, model: nn.Module) -> dict[str, Space]:
    """Return the space that each metric reads, of those that read one."""
    adapter = adapter_of(model)
    return {
        cell.name: metric.scored_space(adapter, cell.call.get("softmax"), cell.call.get("output"))
        for cell in plan.cells
        for metric in [cell.metric]
        if isinstance(metric, TorchMetric)
        and metric.asks_model
        and metric.reads_values
        and cell.failure is None
    }


def _warn_of_spaces(evaluation: Evaluation) -> None:
    """Say which maps clearly explain another space than one that is scored."""
    found = evaluation.spaces()
    told = [
        f"{row.explainer} by {row.metric} ({getattr(row, row.space):.2g} of the change of the "
        f"{NAMES[row.space]} unexplained, {getattr(row, row.scored):.2g} of that of the "
        f"{NAMES[row.scored]}, which is scored)"
        for row in found[found.warning].itertuples()
    ]
    if told:
        more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
        warnings.warn(
            "maps fit another output better than what is scored: "
            f"{'; '.join(told[:_MOST_TOLD])}{more}. Pass output=, or "
            "maps of what is scored; see evaluation.spaces()",
            UserWarning,
            stacklevel=3,
        )


def _interrupted(store: str | Path | None) -> str:
    """Say what is left of an interrupted call, and how to go on."""
    if store is None:
        return "nothing is kept, as there is no store; with store= a call goes on where it was"
    return f"finished shards are kept in {store}, and the same call goes on from them"


def _constant_maps(plan: Plan, evaluation: Evaluation) -> Iterator[str]:
    """Say of which explainers maps have one value everywhere, and why if that is known."""
    constant = (evaluation.flags & int(Flag.ZERO_MAP | Flag.CONSTANT_MAP)) > 0
    for method, count in zip(plan.methods, constant.any(1).sum(1).tolist(), strict=True):
        if count:
            why = CONSTANT.get(named(method.function, method.keywords) or "")
            yield (
                f"maps of {method.name} have the same value everywhere for {count} of "
                f"{constant.shape[2]} samples, so their scores are arbitrary, see "
                f"evaluation.flagged()" + (f": {why}" if why else "")
            )


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
    # Of several classes one will do: they only say how many samples there are, see learns_labels.
    first = torch.as_tensor(y.read().reshape(len(whole), -1)[:, 0])
    return settled_cells(plan, model, whole, first.to(device), train=True)


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
