"""Estimate what an evaluation will cost, from a few of its samples."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from quantus_ext import checks
from quantus_ext.base import TorchMetric
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.modules import with_keywords
from quantus_ext.evaluation.plan import Cell, Plan, as_called
from quantus_ext.evaluation.records import Shard, told
from quantus_ext.evaluation.rows import Data, Rows
from quantus_ext.evaluation.shard import Worker
from quantus_ext.finetune.training import as_input

_FIRST, _GROWTH = 2, 4
"""Samples that are scored first for the estimate, and how many times as many next."""

_MOST = 5.0
"""Seconds that scoring them may take at once."""


@dataclass(frozen=True)
class Estimate:
    """Evaluations and time, extrapolated from a few samples; without trainings.

    Attributes
    ----------
    n_evaluations : int
        Rows that will be sent through the model for the metrics, without those of the explainers.
    seconds : float
        For the whole run.
    n_tasks : int
        Shards.
    workers : int
    failures : tuple of str
        What failed on these samples, by explainer and metric.
    at_most : bool
        Whether it may be less, because the run ends when the ranking is known.
    """

    n_evaluations: int
    seconds: float
    n_tasks: int
    workers: int
    failures: tuple[str, ...]
    at_most: bool = False

    def __str__(self) -> str:
        cost = (
            f"{'at most ' * self.at_most}about {self.n_evaluations:,} evaluations and "
            f"{duration(self.seconds)} in {self.n_tasks:,} tasks on {self.workers} "
            f"worker{'s' * (self.workers > 1)}"
        )
        return "\n".join([cost, *(f"will fail: {failure}" for failure in self.failures)])


def settled_cells(
    plan: Plan, model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, train: bool
) -> tuple[Cell, ...]:
    """Return the cells with what they would train on a shard trained before the split."""

    def settle(cell: Cell) -> Cell:
        if not isinstance(cell.metric, TorchMetric):
            return cell
        answering = with_keywords(model, cell.call.get("model_predict_kwargs"))
        rows = as_called(x, cell.call)
        try:
            return replace(cell, metric=cell.metric.settled(answering, rows, y, train=train))
        except Exception as error:
            return replace(cell, failure=told("training failed: ", error))

    return tuple(map(settle, plan.cells))


def planned(cell: Cell, plan: Plan, model: nn.Module, x: Rows) -> Cell:
    """Return the cell with its chunk plan measured for all workers, where it is to be measured."""
    metric = cell.metric
    if not isinstance(metric, TorchMetric) or metric.execution.plan != "calibrate":
        return cell
    execution = metric.execution
    try:
        device = checks.resolve_device(model, plan.device)
        answering = with_keywords(model, cell.call.get("model_predict_kwargs"))
        some = torch.as_tensor(x.part(0, min(len(x), plan.batch_size)).read())
        forward = Forward.of_module(
            answering, device, softmax=None, **replace(execution, compile=False).arguments()
        )
        rows = as_input(as_called(some, cell.call), model, device)
        forward.clean(rows, torch.arange(len(rows), device=device))
    except Exception as error:
        return replace(cell, failure=told("measuring the plan failed: ", error))
    ready = copy.copy(metric)
    ready.execution = replace(execution, plan=forward.plan)
    return replace(cell, metric=ready)


def estimate(plan: Plan, model: nn.Module, data: Data, *, workers: int, n_tasks: int) -> Estimate:
    """Score a few samples, then four times as many and so on, and extrapolate.

    What a call costs apart from its samples shows in how the time grows with them.

    Parameters
    ----------
    plan : Plan
    model : nn.Module
    data : Data
    workers, n_tasks : int
    """
    n, size = len(data), min(len(data), plan.shard_size)
    few = min(size, _FIRST)
    few_x, few_y = (torch.as_tensor(rows.part(0, few).read()) for rows in (data.x, data.y))
    cells = settled_cells(plan, model, few_x, few_y.reshape(few, -1)[:, 0], train=False)
    worker = Worker(model, replace(plan, cells=cells, cases=()))

    methods = dict(enumerate(plan.methods))
    wanted = {method: [cell.name for cell in cells] for method in methods}
    first = min(1, n - few)
    if first:
        # The first pass pays for what is made once.
        worker.run(Shard.of(data, None, methods, 0, first), wanted)
    counts: list[int] = []
    times: list[float] = []
    while True:
        begin = time.perf_counter()
        # Others each time, because answers are remembered.
        records = worker.run(Shard.of(data, None, methods, first, first + few), wanted)
        counts.append(few)
        times.append(time.perf_counter() - begin)
        first, more = first + few, min(size, _GROWTH * few)
        # Two numbers of samples tell what a shard costs apart from its samples.
        next_time = times[-1] * (_GROWTH if len(counts) > 1 else 1)
        if few == size or more > n - first or next_time > _MOST:
            break
        few = more
    rows = sum(each.n_rows for record in records for each in record.cells.values())
    # The least squares of a part for each shard and one for each sample, neither of them negative.
    per_shard = np.ones(len(counts)) if len(counts) > 1 else np.zeros(1)
    (each_shard, each_sample), _ = nnls(np.stack([per_shard, counts], 1), times)
    seconds = n_tasks * each_shard + n * each_sample
    # A worker has whole shards.
    longest = -(-n_tasks // workers) * (each_shard + size * each_sample)
    failures = [
        f"{plan.methods[record.method].name}, {name}: {each.failure}"
        for record in records
        for name, each in record.cells.items()
        if each.failure is not None
    ]
    return Estimate(
        n_evaluations=round(rows * n / few),
        seconds=float(max(seconds / workers, min(seconds, longest))),
        n_tasks=n_tasks,
        workers=workers,
        failures=tuple(failures),
        at_most=plan.shuffled,
    )


def duration(seconds: float) -> str:
    """Return a time in the largest unit in which it is at least 2."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
