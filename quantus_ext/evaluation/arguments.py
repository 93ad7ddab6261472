"""Arguments of ``evaluate`` that nothing else has, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter, adapter_of
from quantus_ext.base import TorchMetric
from quantus_ext.evaluation.plan import Plan
from quantus_ext.evaluation.stopping import StoppingRule

_DEFAULT_BATCH_SIZE = 64

_DEFAULT_BATCHES = 4
"""Batches a shard, by default."""

_SMALL_BATCH_SIZE = 32
"""Of a batch, and of a shard, where the ranking decides when to stop."""

_MOST_THREADS = 1024

_MOST_WORKERS = 65_536


def workers(name: str, value: object) -> int:
    """Return a number of workers as joblib takes it: negative ones count from the last core."""
    number = checks.integer(name, value)
    if not -_MOST_WORKERS <= number <= _MOST_WORKERS or number == 0:
        raise ValueError(
            f"{name} must be between 1 and {_MOST_WORKERS:,}, or negative, as -1 for all cores; is "
            f"{checks.shown(value)}"
        )
    return number


def threads(name: str, value: object) -> int:
    """Return a number of threads of each worker."""
    number = checks.positive_integer(name, value)
    if number > _MOST_THREADS:
        raise ValueError(f"{name} must be at most {_MOST_THREADS:,}, is {number}")
    return number


def devices(name: str, value: object) -> list[str]:
    """Return names of devices, each once."""
    named = [str(checks.torch_device(name, each)) for each in checks.items(name, value)]
    if not named:
        raise ValueError(f"{name} must be a list of at least one device, is empty")
    if len(set(named)) < len(named):
        raise ValueError(f"{name} must hold each device once, holds {', '.join(named)}")
    return named


def sizes(batch_size: int | None, shard_size: int | None, *, small: bool) -> tuple[int, int]:
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


def in_order(xai_methods: Any, adapter: Adapter, x_batch: Any) -> Any:
    """Return explainers, given maps of tables with their columns in the order of the inputs'."""
    if not isinstance(xai_methods, Mapping):
        return xai_methods
    return {
        name: given
        if callable(given) or isinstance(given, (Mapping, str, Path))
        else adapter.in_order(f"xai_methods[{name!r}]", given, x_batch)
        for name, given in xai_methods.items()
    }


def stopping_rule(
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
