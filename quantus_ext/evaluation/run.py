"""``evaluate``: explainers × metrics × shards on joblib's backends."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from joblib import effective_n_jobs
from torch import nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of
from quantus_ext.base import TorchMetric
from quantus_ext.engine import sampling
from quantus_ext.engine.spaces import SPACES, Space
from quantus_ext.engine.turns import turns
from quantus_ext.evaluation import arguments, said
from quantus_ext.evaluation.collected import Collected, Key
from quantus_ext.evaluation.dispatch import finished
from quantus_ext.evaluation.estimate import Estimate, estimate
from quantus_ext.evaluation.explainers import surprises
from quantus_ext.evaluation.labels import Labels
from quantus_ext.evaluation.payload import Payload, Task, locks_cleared
from quantus_ext.evaluation.plan import (
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
from quantus_ext.evaluation.ready import ready
from quantus_ext.evaluation.records import Shard
from quantus_ext.evaluation.result import Evaluation, checked_confidence
from quantus_ext.evaluation.rows import Data
from quantus_ext.evaluation.shard import Worker
from quantus_ext.evaluation.statistics import sign_of
from quantus_ext.evaluation.stopping import Looks, StoppingRule, rounds
from quantus_ext.evaluation.store import Store
from quantus_ext.evaluation.targets import classes_of
from quantus_ext.foreign import caveats, fix_seeds
from quantus_ext.identity import probe_rows

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
    batch_size, shard_size = arguments.sizes(batch_size, shard_size, small=until is not None)
    confidence = checked_confidence(confidence)
    agg_func = checks.optional(checks.function, "agg_func", agg_func)
    return_as_df = checks.optional(checks.flag, "return_as_df", return_as_df)
    dry_run = checks.flag("dry_run", dry_run)
    store = checks.optional(checks.address, "store", store)
    n_jobs = checks.optional(arguments.workers, "n_jobs", n_jobs)
    threads = checks.optional(arguments.threads, "threads", threads)
    devices = checks.optional(arguments.devices, "devices", devices)
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
    explainers = arguments.in_order(xai_methods, adapter, x_batch)
    n_cases = min(len(data), checks.natural("cases", cases))
    plan = Plan(
        methods=tuple(methods_of(explainers, explain_func_kwargs, len(data), multiply_by_inputs)),
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
        for text in surprises(method.function, method.keywords, model):
            warnings.warn(f"xai_methods[{method.name!r}]: {text}", UserWarning, stacklevel=2)
    for caveat in {text: None for cell in plan.cells for text in caveats(cell.metric)}:
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
    rule = arguments.stopping_rule(plan, model, confidence, smallest_difference, score_bounds)
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
        raise KeyboardInterrupt(said.interrupted(store)) from None
    evaluation = result.evaluation(
        data,
        settings=about,
        confidence=confidence,
        agg_func=agg_func,
        scored=_scored(plan, model),
        stopping=None if looks is None else looks.found,
    )
    evaluation = replace(evaluation, cases=labels.with_maps(shown, evaluation.cases))
    for message in [*left, *said.constant_maps(plan, evaluation)]:
        warnings.warn(message, UserWarning, stacklevel=2)
    said.warn_of(evaluation.failures)
    said.warn_of_spaces(evaluation)
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
                    made, draws = ready(plan, needed, model, data, given, kept)
                    result.draws.update(draws)
                    payload = Payload(Worker(model, made), crew.devices)
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
        closing(finished(payload, todo.tasks, shard_of, n_jobs)) as results,
    ):
        for records in results:
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
