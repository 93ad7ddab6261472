"""A plan made ready for workers: copies trained, chunks measured, numbers of draws found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from quantus_ext import checks
from quantus_ext.base import TorchMetric
from quantus_ext.draws import Draws, pilot_samples
from quantus_ext.evaluation.estimate import planned, settled_cells
from quantus_ext.evaluation.plan import Cell, Plan
from quantus_ext.evaluation.records import Shard
from quantus_ext.evaluation.rows import Data, Rows
from quantus_ext.evaluation.shard import Worker
from quantus_ext.evaluation.store import Store
from quantus_ext.finetune.training import as_input


def ready(
    plan: Plan,
    wanted: Mapping[Any, Sequence[str]],
    model: nn.Module,
    data: Data,
    given: Data,
    kept: Store | None,
) -> tuple[Plan, dict[str, Draws]]:
    """Return the plan for workers, with the cells that are needed, trained and measured.

    And how many draws pilots call for, by the names of cells.

    Parameters
    ----------
    plan : Plan
    wanted : mapping to sequence of str
        Names of cells that are needed.
    model : nn.Module
    data, given : Data
        In the order in which samples are scored, and as they were given.
    kept : Store, optional
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
    cells_ready = []
    for cell in plan.cells:
        decided = found.get(cell.name)
        if isinstance(decided, Draws):
            assert isinstance(cell.metric, TorchMetric)
            cells_ready.append(replace(cell, metric=cell.metric.with_draws(decided.n)))
        else:
            cells_ready.append(replace(cell, failure=decided or cell.failure))
    known = {name: each for name, each in found.items() if isinstance(each, Draws)}
    return replace(plan, cells=tuple(cells_ready)), known


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
