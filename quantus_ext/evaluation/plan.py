"""What is to be evaluated: explainers, metrics with their calls, shards; and its identity."""

from __future__ import annotations

import inspect
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quantus.functions.explanation_func import explain
from quantus.helpers import constants
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric
from torch import nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of
from quantus_ext.base import TorchMetric
from quantus_ext.batch import channels_are_first
from quantus_ext.engine import sampling
from quantus_ext.engine.keywords import MOST_ASKED, all_marked, told_apart
from quantus_ext.engine.modules import called_alike, with_keywords
from quantus_ext.engine.sampling import Purpose
from quantus_ext.engine.spaces import Space
from quantus_ext.evaluation.explainers import carries_input
from quantus_ext.evaluation.rows import Rows
from quantus_ext.finetune import FineTuner
from quantus_ext.finetune.known import Known, identify
from quantus_ext.finetune.training import as_input
from quantus_ext.identity import content_of, copied
from quantus_ext.metrics.qge import better_scores

Metrics = Mapping[str, Metric[Any]] | Sequence[Metric[Any]]
"""By name, or a list of metrics that have different names."""

_GIVEN = (
    *("model", "x_batch", "y_batch", "a_batch", "s_batch", "index_batch"),
    *("explain_func", "explain_func_kwargs", "device", "batch_size"),
)
"""Arguments of a metric's call that every call has from the evaluation itself."""

_NO_SETTINGS = frozenset(
    {
        *("evaluation_scores", "all_evaluation_scores", "a_axes", "return_aggregate"),
        *("default_plot_func", "_disable_warnings", "_display_progressbar"),
        *("aggregate_func", "explain_func", "explain_func_kwargs"),
    }
)
"""Attributes of all metrics that are results, or that no score of a sample depends on."""

_NO_SETTINGS_HERE = frozenset(
    {
        *("standard_errors", "details", "n_evaluations", "plan", "health", "healths", "reports"),
        *("inner", "_foreign", "_contents", "_ready"),
    }
)
"""The same of this package's metrics; elsewhere these names may be settings."""


@dataclass(frozen=True)
class Method:
    """An explainer: a function with its keywords, or maps that are there already.

    Attributes
    ----------
    name : str
    function : callable or None
        As ``quantus.explain``; None where there are only maps.
    keywords : dict
    maps : Rows or None
    carries_input : bool or None
        Whether its maps carry the input factor, as those of Integrated Gradients and SHAP do;
        None where that is not known.
    """

    name: str
    function: Callable[..., Any] | None = None
    keywords: dict[str, Any] = field(default_factory=dict)
    maps: Rows | None = None
    carries_input: bool | None = None

    @classmethod
    def of(cls, name: str, value: Any, keywords: Mapping[str, Any] | None) -> Method:
        """Take an item of ``xai_methods``; ``keywords`` are for functions of one's own.

        Raises
        ------
        TypeError
            If the value is neither callable nor a dict, an array or a path, or a dict with
            ``explain_func`` holds anything else than that and its keywords.
        """
        if isinstance(value, Mapping):
            if "explain_func" not in value:
                given = {"method": name, **checks.mapping(f"xai_methods[{name!r}]", value)}
                _check_method(name, given)
                return cls(name, explain, given, carries_input=carries_input(explain, given))
            unknown = sorted(set(value) - {"explain_func", "explain_func_kwargs"})
            if unknown or not callable(value["explain_func"]):
                raise TypeError(
                    f"xai_methods[{name!r}] must hold a callable explain_func and, if anything "
                    f"else, explain_func_kwargs, holds {dict(value)!r}"
                )
            keywords = checks.optional(
                checks.mapping,
                f"explain_func_kwargs of xai_methods[{name!r}]",
                value.get("explain_func_kwargs", keywords),
            )
            value = value["explain_func"]
        if callable(value):
            given = dict(keywords or {})
            # As Quantus does, for functions that explain by several methods.
            if takes(value, "method"):
                given = {"method": name, **given}
            return cls(name, value, given, carries_input=carries_input(value, given))
        return cls(name, maps=Rows.of(f"xai_methods[{name!r}]", value))

    def in_order(self, order: NDArray[np.int64]) -> Method:
        """Return the same of the samples in another order, that of their numbers."""
        return self if self.maps is None else replace(self, maps=self.maps.in_order(order))

    def identity(self) -> str:
        """Return what the explainer is known by: its content."""
        maps = None if self.maps is None else self.maps.key()
        return _key(self.function, self.keywords, maps)


@dataclass(frozen=True)
class Cell:
    """A metric with the arguments of its call: a column of the results.

    Attributes
    ----------
    name : str
        The metric's, and the call's where there are several.
    metric : Metric
        A copy; nothing of the caller's.
    call : dict
    names : (str, str)
        Of the metric and of the call.
    failure : (str, str) or None
        What was raised when it was made ready, and the traceback.
    """

    name: str
    metric: Metric[Any]
    call: dict[str, Any]
    names: tuple[str, str]
    failure: tuple[str, str] | None = None

    @property
    def direction(self) -> ScoreDirection:
        """Which scores are better."""
        return better_scores(self.metric, None)

    @property
    def channels_last(self) -> bool:
        """Whether it is called with inputs whose channels are last."""
        return self.call.get("channel_first") is False


@dataclass(frozen=True)
class Plan:
    """Everything about an evaluation but its data and how it is run.

    Attributes
    ----------
    methods : tuple of Method
    cells : tuple of Cell
    batch_size, shard_size : int
    seed : int
        Of the global random states of explainers and of other packages' metrics, and of metrics
        of this package that have ``seed=None``.
    device : str or torch.device or None
    cases : tuple of int
        Places of the samples whose maps are kept for the report.
    shuffled : bool, default False
        Whether samples are scored in a random order, from which the places are counted.
    """

    methods: tuple[Method, ...]
    cells: tuple[Cell, ...]
    batch_size: int
    shard_size: int
    seed: int
    device: str | torch.device | None
    cases: tuple[int, ...]
    shuffled: bool = False

    def order(self, n: int) -> NDArray[np.int64] | None:
        """Return the numbers of n samples in the order in which they are scored; None: as given."""
        if not self.shuffled:
            return None
        key = sampling.sample_keys(self.seed, torch.zeros(1, dtype=torch.int64))
        return sampling.distinct(key, n, Purpose.SAMPLE_ORDER)[0].argsort().numpy()

    def shards(self, n: int) -> list[tuple[int, int]]:
        """Return where the shards of n samples begin and end."""
        return [(start, min(start + self.shard_size, n)) for start in range(0, n, self.shard_size)]


def as_called(x: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
    """Return inputs as a metric with this call sends them, channels first."""
    last = x.ndim > 2 and call.get("channel_first") is False
    return x.movedim(-1, 1) if last else x


def _check_method(name: str, keywords: Mapping[str, Any]) -> None:
    """Raise ValueError for a method that ``quantus.explain`` does not know."""
    if "attributor" in keywords or keywords.get("xai_lib", "captum") != "captum":
        return
    known = [*constants.AVAILABLE_XAI_METHODS_CAPTUM, *constants.DEPRECATED_XAI_METHODS_CAPTUM]
    checks.one_of(f"method of xai_methods[{name!r}]", keywords["method"], known)


def with_calls_read(plan: Plan, model: nn.Module, x: Rows) -> Plan:
    """Return the plan with it known which arguments of calls have an entry for each sample.

    Raises
    ------
    ValueError
        For inputs, or arguments of calls, that no sample could be scored with: they would fail in
        every shard, or pass where a shard is as long as something else.
    """
    calls = {cell.names[1]: dict(cell.call) for cell in plan.cells}
    for call in calls.values():
        if np.ndim(call.get("other_class", 0)):
            call["other_class"] = checks.other_classes(call["other_class"], len(x))
        keywords = call.get("model_predict_kwargs")
        few = torch.as_tensor(x.part(0, min(len(x), MOST_ASKED if keywords else 2)).read())
        if call.get("channel_first") is None and adapter_of(model).channel_first is None:
            channels_are_first(few, model)
        if keywords:
            rows = as_input(as_called(few, call), model, checks.resolve_device(model, plan.device))
            call["model_predict_kwargs"] = all_marked(
                told_apart(model, keywords, rows, n=len(x), sizes=(plan.batch_size,))
            )
    cells = tuple(replace(cell, call=calls[cell.names[1]]) for cell in plan.cells)
    return replace(plan, cells=cells)


def methods_of(
    xai_methods: object,
    keywords: Mapping[str, Any] | None,
    n: int,
    multiply_by_inputs: Mapping[str, bool] | None = None,
) -> list[Method]:
    """Return the explainers of ``xai_methods``, checked against the number of samples."""
    if not isinstance(xai_methods, Mapping) or not xai_methods:
        raise TypeError(
            "xai_methods must be a dict of at least one name and callable, dict, array or path, is "
            f"{checks.shown(xai_methods)}"
        )
    names = _distinct("xai_methods", xai_methods)
    keywords = checks.optional(checks.mapping, "explain_func_kwargs", keywords) or {}
    sharing = [
        str(name)
        for name, value in xai_methods.items()
        if callable(value) or (isinstance(value, Mapping) and set(value) == {"explain_func"})
    ]
    if "method" in keywords and len(sharing) > 1:
        raise ValueError(
            f"explain_func_kwargs must not hold one method for {', '.join(sharing)}, has "
            f"{keywords['method']!r}: leave it out, and each gets its name, or give each as "
            '{"explain_func": ..., "explain_func_kwargs": {"method": ...}}'
        )
    if keywords and not sharing:
        warnings.warn(
            f"explain_func_kwargs, {', '.join(keywords)}, are not used: xai_methods holds no "
            "function without keywords of its own",
            UserWarning,
            stacklevel=3,
        )
    given = checks.optional(checks.mapping, "multiply_by_inputs", multiply_by_inputs) or {}
    said = {
        name: checks.flag(f"multiply_by_inputs[{name!r}]", value) for name, value in given.items()
    }
    if set(said) - set(names):
        raise ValueError(
            "multiply_by_inputs must be a dict of names in xai_methods and True or False, is "
            f"{checks.shown(said)}"
        )
    methods = [Method.of(name, value, keywords) for name, value in names.items()]
    methods = [
        replace(method, carries_input=said.get(method.name, method.carries_input))
        for method in methods
    ]
    for method in methods:
        if method.maps is not None and len(method.maps) != n:
            shape = tuple(method.maps.part(0, 1).read().shape[1:])
            by_class = ": of maps by class pick those of the explained ones" * (shape[:1] == (n,))
            raise ValueError(
                f"xai_methods[{method.name!r}] must hold a map for each of the {n} samples, holds "
                f"{len(method.maps)}{by_class}"
            )
    return methods


def cells_of(
    metrics: object,
    call_kwargs: Mapping[str, Any] | None,
    softmax: bool | None = None,
    output: Space | None = None,
) -> list[Cell]:
    """Return the columns: each metric, copied, with each call's arguments.

    Parameters
    ----------
    metrics : mapping or sequence
        See :data:`Metrics`.
    call_kwargs : mapping of str to mapping, optional
    softmax, output
        Of all calls.
    """
    if isinstance(metrics, Mapping):
        named = _distinct("metrics", metrics)
    elif isinstance(metrics, Sequence) and not isinstance(metrics, str):
        named = {getattr(metric, "name", repr(metric)): metric for metric in metrics}
        if len(named) < len(metrics):
            raise ValueError(
                "metrics of a list must have different names, pass a dict; they have "
                f"{', '.join(str(getattr(m, 'name', m)) for m in metrics)}"
            )
    else:
        raise TypeError(f"metrics must be a dict or a list of metrics, is {checks.shown(metrics)}")
    if not named:
        raise ValueError("metrics must hold at least one metric, is empty")
    given = {"": {}} if call_kwargs is None else checks.mapping("call_kwargs", call_kwargs)
    if not given:
        raise TypeError("call_kwargs must be a dict of at least one name and dict, is empty")
    wrong = [name for name, call in given.items() if not isinstance(call, Mapping)]
    if wrong:
        raise TypeError(
            f"call_kwargs must be a dict of names and dicts, that of {wrong[0]!r} is "
            f"{checks.shown(given[wrong[0]])}"
        )
    calls = {name: checks.mapping(f"call_kwargs[{name!r}]", call) for name, call in given.items()}
    for name, call in calls.items():
        taken = sorted(set(_GIVEN) & set(call))
        if taken:
            raise ValueError(
                f"call_kwargs[{name!r}] must not hold {', '.join(taken)}, which evaluate passes "
                "to every call"
            )
        for argument, value in (("softmax", softmax), ("output", output)):
            if value is None:
                continue
            if argument in call:
                raise ValueError(
                    f"{argument}={value} is that of all calls: leave it out, or take {argument} "
                    f"out of call_kwargs[{name!r}]"
                )
            call[argument] = value
    cells = []
    for name, metric in named.items():
        if not isinstance(metric, Metric):
            raise TypeError(
                f"metrics[{name!r}] must be a metric of Quantus's kind, is {checks.shown(metric)}"
            )
        twin = _copied(name, metric)
        for call_name, call in calls.items():
            shown = shown_name(name, call_name, calls)
            cells.append(Cell(shown, twin, dict(call), (name, call_name)))
    columns = [cell.name for cell in cells]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(
            f"metrics and call_kwargs must give columns of different names, {', '.join(twice)} is "
            "that of two: give another name to a metric or a call"
        )
    return cells


def for_a_ranking(cell: Cell) -> Cell:
    """Return a cell whose metric, if it asks a pilot, makes the draws that a ranking needs."""
    metric = cell.metric
    if not isinstance(metric, TorchMetric) or metric.auto_draws is None:
        return cell
    return replace(cell, metric=metric.with_auto_draws(replace(metric.auto_draws, goal="ranking")))


def _distinct(argument: str, named: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what has names, which are texts; ValueError where two read the same."""
    found: dict[str, Any] = {}
    for name, value in named.items():
        if str(name) in found:
            raise ValueError(
                f"{argument} must have different names, two read {str(name)!r}: give another one"
            )
        found[str(name)] = value
    return found


def shown_name(metric: str, call: str, calls: Sized | None) -> str:
    """Return the name of a column: the metric's, and the call's where there are several."""
    return metric if calls is None or len(calls) == 1 else f"{metric} ({call})"


def _copied(name: str, metric: Metric[Any]) -> Any:
    """Return a copy that gives one score per sample."""
    past = (metric.evaluation_scores, metric.all_evaluation_scores)
    without = {id(scores): type(scores)() for scores in past if isinstance(scores, (list, dict))}
    try:
        twin: Any = copied(metric, without)
    except (TypeError, ValueError, RuntimeError, pickle.PicklingError) as error:
        raise TypeError(
            f"metrics[{name!r}] must be one that copy.deepcopy copies, so that it stays as it is: "
            f"{error}"
        ) from error
    twin.return_aggregate = False
    twin._display_progressbar = False
    return twin


def takes(function: Callable[..., Any] | None, name: str) -> bool:
    """Whether a function can be called with a keyword; a signature that is unknown takes none."""
    if function is None:
        return False
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )


UNREADABLE = "not readable: "
"""Begins what stands in an identity for content that could not be read, and equals nothing."""


def _key(*values: object) -> str:
    content = content_of(*values)
    if not content.unread:
        return content.key
    return f"{UNREADABLE}{', '.join(content.unread)} {os.urandom(8).hex()}"


def known_models(
    plan: Plan, model: nn.Module, x: np.ndarray, places: Sequence[int], *, of_metrics: bool
) -> dict[str, Known]:
    """Return what the models are known by, as answers to some rows, by their names.

    Parameters
    ----------
    plan : Plan
        Its metrics as they are before anything is trained for them.
    model : nn.Module
    x : array
        The rows that are asked for.
    places : sequence of int
        Which samples these are.
    of_metrics : bool
        Ask those too that metrics hold, as an ensemble. One that fails is left out: it fails in
        its cells.
    """
    calls = [cell.call for cell in plan.cells]
    answering = with_keywords(model, calls[0].get("model_predict_kwargs"))
    rows = as_called(torch.as_tensor(x), calls[0])
    numbers = torch.tensor(places)
    device = checks.resolve_device(model, plan.device)
    known = {"model": identify(answering, rows, device, numbers)}
    if of_metrics:
        for cell in plan.cells:
            for name, other in _models_of(cell.metric, f"metrics.{cell.names[0]}"):
                if name not in known:
                    with suppress(Exception):
                        device = checks.resolve_device(other, None)
                        alike = called_alike(other, answering)
                        known[name] = identify(alike, rows, device, numbers)
    return known


def _models_of(metric: Metric[Any], name: str) -> Iterator[tuple[str, nn.Module]]:
    for attribute, value in vars(metric).items():
        place = f"{name}.{attribute}"
        if attribute in _aside(metric):
            continue
        if isinstance(value, Metric):
            yield from _models_of(value, place)
        elif isinstance(value, nn.Module):
            yield place, value
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                if isinstance(item, nn.Module):
                    yield f"{place}[{number}]", item


def identity(
    plan: Plan, known: Known, data: Mapping[str, Rows | None], seed: int | None
) -> dict[str, Any]:
    """Return what scores depend on, as plain values and content hashes, part by part.

    Parameters
    ----------
    plan : Plan
        Its metrics as they are before anything is trained for them or a seed of theirs is drawn.
    known : Known
        Of the model.
    data : mapping of str to Rows
        ``x_batch``, ``y_batch`` and ``s_batch``.
    seed : int or None
        As the caller gave it.
    """
    calls = {cell.names[1]: cell.call for cell in plan.cells}
    metrics = {cell.names[0]: cell.metric for cell in plan.cells}
    x = data["x_batch"]
    assert x is not None
    return {
        "versions": {name: version(name) for name in ("quantus", "torch", "numpy")}
        | {"quantus_ext": _own_version()},
        "seed": seed,
        "batch_size": plan.batch_size,
        "shard_size": plan.shard_size,
        "cases": list(plan.cases),
        "shuffled": plan.shuffled,
        "n": len(x),
        "model": known.content.key,
        **{name: None if rows is None else rows.key() for name, rows in data.items()},
        "xai_methods": {method.name: method.identity() for method in plan.methods},
        "multiply_by_inputs": {method.name: method.carries_input for method in plan.methods},
        "metrics": {name: settings_of(metric) for name, metric in metrics.items()},
        "call_kwargs": {name: _described(dict(call)) for name, call in calls.items()},
    }


def _own_version() -> str:
    from quantus_ext import __version__

    return __version__


def settings_of(metric: Metric[Any]) -> dict[str, Any]:
    """Return a metric's class and its attributes that scores depend on, plain or as hashes.

    Examples
    --------
    >>> from quantus_ext import MoRF
    >>> from quantus_ext.evaluation.plan import settings_of
    >>> settings_of(MoRF(4))["seed"], settings_of(MoRF(4)) == settings_of(MoRF(8))
    (0, False)
    """
    cls = type(metric)
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "code": _key(cls)} | {
        name: settings_of(value) if isinstance(value, Metric) else _described(value)
        for name, value in sorted(vars(metric).items())
        if name not in _aside(metric)
    }


def _aside(metric: Metric[Any]) -> frozenset[str]:
    return _NO_SETTINGS | (_NO_SETTINGS_HERE if isinstance(metric, TorchMetric) else frozenset())


def _described(value: Any) -> Any:
    """Return a short plain value itself, anything else by its content."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value if len(str(value)) <= 64 else _key(value)
    if isinstance(value, np.generic):
        return _described(value.item())
    if isinstance(value, (list, tuple)) and len(value) <= 32:
        return [_described(item) for item in value]
    if isinstance(value, FineTuner):
        # Its report is a result, and where it keeps tuned models changes none.
        return _key(value.settings, value.data.key)
    if isinstance(value, nn.Module):
        # A store keeps its answers besides.
        return content_of(value).key
    return _key(value)


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Return what differs between two identities, each with its name and both values.

    Examples
    --------
    >>> from quantus_ext.evaluation.plan import differences
    >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    ['a.b was 1, is 3']
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return [
            line
            for key in sorted({*first, *second})
            for line in differences(
                first.get(key, "missing"),
                second.get(key, "missing"),
                f"{name}.{key}" if name else str(key),
            )
        ]
    return [] if first == second else [f"{name} was {_short(first)}, is {_short(second)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 70 else f"{text[:12]}…"
