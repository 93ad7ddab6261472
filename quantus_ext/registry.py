"""The metrics in Quantus's own lists, for programs that look there."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from quantus.helpers import constants
from quantus.helpers.enums import EvaluationCategory
from quantus.metrics.base import Metric

from quantus_ext import metrics
from quantus_ext.facts import FACTS

WRAPPERS = "Wrapper"
"""The category of QGE, which belongs to that of the metric that it is put around."""

Listed = dict[str, dict[str, type[Metric[Any]]]]


class Entry(NamedTuple):
    """What was written where, and what stood there before."""

    category: str
    name: str
    metric: type[Metric[Any]]
    replaced: type[Metric[Any]] | None


_entries: list[Entry] = []
_new_categories: set[str] = set()


def register(*, shadow: bool = False) -> None:
    """Add the metrics of this package to ``quantus.AVAILABLE_METRICS``.

    Each is listed by ``name`` under its ``evaluation_category``; QGE, whose category is that of its
    inner metric, under ``"Wrapper"``. Importing the package lists nothing. Calling it again lists
    nothing twice; the last ``shadow`` counts. Some metrics need arguments: QGE a metric, PScore
    other models, ROAR a trainer and maps.

    Parameters
    ----------
    shadow : bool, default False
        Replace Quantus's metric of the same name (``Infidelity``). By default it stays, and that of
        this package is listed as ``Infidelity (quantus_ext)``.

    Examples
    --------
    >>> import quantus, quantus_ext
    >>> quantus_ext.register()
    >>> quantus.AVAILABLE_METRICS["Faithfulness"]["F-Fidelity"].__name__
    'FFidelity'
    >>> [name for name in quantus.available_metrics()["Faithfulness"] if "Infidelity" in name]
    ['Infidelity', 'Infidelity (quantus_ext)']
    >>> quantus_ext.unregister()
    >>> "F-Fidelity" in quantus.AVAILABLE_METRICS["Faithfulness"]
    False
    """
    unregister()
    # Declared read-only, but a dict that other modules share.
    listed = cast("Listed", constants.AVAILABLE_METRICS)
    for class_name in FACTS:
        metric = getattr(metrics, class_name)
        category = metric.evaluation_category
        key = WRAPPERS if category is EvaluationCategory.NONE else category.value
        if key not in listed:
            listed[key] = {}
            _new_categories.add(key)
        taken = metric.name in listed[key]
        name = f"{metric.name} (quantus_ext)" if taken and not shadow else metric.name
        _entries.append(Entry(key, name, metric, listed[key].get(name)))
        listed[key][name] = metric


def unregister() -> None:
    """Undo :func:`register`; entries that others have added or changed meanwhile stay."""
    listed = cast("Listed", constants.AVAILABLE_METRICS)
    for category, name, metric, replaced in _entries:
        names = listed.get(category, {})
        if names.get(name) is not metric:
            continue
        if replaced is None:
            del names[name]
        else:
            names[name] = replaced
    for category in _new_categories:
        if listed.get(category) == {}:
            del listed[category]
    _entries.clear()
    _new_categories.clear()
