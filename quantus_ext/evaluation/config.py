"""Evaluations that a file describes, for pipelines: ``python -m quantus_ext evaluate FILE``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import quantus
import torch

from quantus_ext import checks
from quantus_ext.evaluation.drift import Drift, check_comparable, check_settings
from quantus_ext.evaluation.estimate import Estimate
from quantus_ext.evaluation.plan import cells_of
from quantus_ext.evaluation.result import Evaluation
from quantus_ext.evaluation.run import evaluate
from quantus_ext.evaluation.tables import number

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SECTIONS = {
    "model": None,
    "data": {"x_batch", "y_batch", "s_batch"},
    "metrics": None,
    "xai_methods": None,
    "explain_func_kwargs": None,
    "multiply_by_inputs": None,
    "call_kwargs": None,
    "labels": {"names", "tokens", "feature_names", "class_names"},
    "run": {
        *("batch_size", "shard_size", "n_jobs", "threads", "device", "devices", "store", "seed"),
        *("confidence", "cases", "backend", "verbose", "softmax", "output", "targets"),
        *("until", "smallest_difference", "score_bounds"),
    },
    "report": {"html", "markdown", "json"},
    "thresholds": None,
    "drift": {"baseline", "alpha", "smallest_effect", "fail_on"},
}
"""The tables of a file, and their keys where these are fixed."""

_LISTS = ("thresholds",)
_ANYTHING = ("model",)
"""Sections that are no tables: a list of them, and what makes an object."""

_PATHS = ("x_batch", "y_batch", "s_batch", "html", "markdown", "json", "baseline", "store")
"""Keys whose values are paths."""

_FORMS = ("call", "import", "file", "weights")
"""What makes an object of a table; all but the first stand alone."""

_VERDICTS = ("worse", "unknown", "changed", "better", "missing")
_FAIL_ON = ("worse", "unknown", "changed", "missing")
"""By default: what is better than before is no reason to stop."""


@dataclass(frozen=True)
class Threshold:
    """What a mean score must reach.

    Attributes
    ----------
    metric : str
    explainer : str or None
        None: every one.
    at_least, at_most : float or None
    """

    metric: str
    explainer: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def check(self, explainers: Sequence[str], metrics: Sequence[str]) -> None:
        """Raise ValueError unless there is what it names."""
        checks.one_of("metric of thresholds", self.metric, tuple(metrics))
        if self.explainer is not None:
            checks.one_of("explainer of thresholds", self.explainer, tuple(explainers))

    def broken(self, evaluation: Evaluation) -> list[str]:
        """Return what is wrong with the means, one line for each explainer."""
        named = evaluation.explainers if self.explainer is None else (self.explainer,)
        lines = []
        for explainer in named:
            scores = evaluation.scores_asked(explainer, self.metric)
            # Leaving out failed samples would give the mean of different samples.
            mean = float(scores.mean())
            low = -np.inf if self.at_least is None else self.at_least
            high = np.inf if self.at_most is None else self.at_most
            if not low <= mean <= high:
                rule = " and ".join(
                    f"at {which} {limit:g}"
                    for which, limit in (("least", self.at_least), ("most", self.at_most))
                    if limit is not None
                )
                lines.append(
                    f"{self.metric} of {explainer} must be {rule}, is "
                    + (number(mean) if np.isfinite(mean) else "not known for every sample")
                )
        return lines


@dataclass(frozen=True)
class Outcome:
    """What came of a file.

    Attributes
    ----------
    evaluation : Evaluation
    drift : Drift or None
    broken : tuple of str
        Cells, thresholds and drifts that fail, a line each.
    written : tuple of Path
        Reports.
    unwritten : tuple of str
        Reports that could not be written, and why, a line each.
    drift_check : str
        What is compared with the baseline, and what fails; empty without one.
    """

    evaluation: Evaluation
    drift: Drift | None
    broken: tuple[str, ...]
    written: tuple[Path, ...]
    unwritten: tuple[str, ...] = ()
    drift_check: str = ""


class Config:
    """A TOML file that says what to evaluate.

    Paths in it are relative to its folder, which is also where its modules are looked for.
    Wherever a value is expected, ``{call = "module:name", ...}`` is what that callable returns,
    with the other keys as its arguments, ``{import = "module:name"}`` the object itself, and
    ``{file = "x.npy"}`` an array. It runs the code that it names: treat it as a program.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    ValueError, TypeError
        If a section or key is unknown, or a needed one missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        try:
            content = tomllib.loads(self.path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} is no TOML: {error}") from error
        self._known("a section", content, set(_SECTIONS))
        for name in ("model", "data", "metrics", "xai_methods"):
            if name not in content:
                raise ValueError(f"{self.path} must have the section [{name}]")
        for name, keys in _SECTIONS.items():
            section = content.get(name, {})
            if name not in (*_LISTS, *_ANYTHING) and not isinstance(section, Mapping):
                raise TypeError(f"{self.path}: [{name}] must be a table, is {section!r}")
            if keys is not None:
                self._known(f"a key of [{name}]", section, keys)
                for key in (key for key in _PATHS if key in section):
                    checks.text(f"{key} of [{name}]", section[key])
        self.content = content
        if not isinstance(content.get("thresholds", []), list):
            raise TypeError(f"{self.path}: thresholds must be tables, [[thresholds]]")
        self.thresholds = [self._threshold(each) for each in content.get("thresholds", [])]
        drift = content.get("drift", {})
        if "drift" in content and "baseline" not in drift:
            raise ValueError(f"{self.path}: [drift] must have the key baseline")
        self._drift = {name: drift[name] for name in ("alpha", "smallest_effect") if name in drift}
        check_settings(**self._drift)
        self.fail_on = drift.get("fail_on", list(_FAIL_ON))
        if not isinstance(self.fail_on, list):
            raise TypeError(f"fail_on of [drift] must be a list, is {self.fail_on!r}")
        for verdict in self.fail_on:
            checks.one_of("fail_on of [drift]", verdict, _VERDICTS)

    @property
    def kept(self) -> str:
        """What is left of a run that is interrupted, and how to go on."""
        store = self.content.get("run", {}).get("store")
        if store is None:
            return "nothing is kept, as [run] names no store; with one, a run goes on where it was"
        return f"finished shards are kept in {store}, and the same command goes on from them"

    def run(self, *, dry_run: bool = False) -> Outcome | Estimate:
        """Evaluate, write the reports, and compare with thresholds and baseline.

        A report that cannot be written keeps none of the others back.

        Parameters
        ----------
        dry_run : bool, default False
            Say only what it would cost.
        """
        content = self.content
        folder = str(self.path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        drift = content.get("drift", {})
        # Checked before the work.
        baseline = None
        if drift:
            with self._within("baseline of [drift]"):
                baseline = Evaluation.from_json(self._path(drift["baseline"]))
        run = dict(content.get("run", {}))
        backend = run.pop("backend", None)
        if "store" in run and "://" not in run["store"]:
            run["store"] = self._path(run["store"])
        data: dict[str, Any] = {name: self._path(value) for name, value in content["data"].items()}
        model = self._made("model", content["model"])
        metrics = {name: self._metric(name, value) for name, value in content["metrics"].items()}
        methods = {name: self._method(name, each) for name, each in content["xai_methods"].items()}
        calls = self._made("call_kwargs", content.get("call_kwargs"))
        # Otherwise this would be found out after the work.
        cells = cells_of(metrics, calls, run.get("softmax"), run.get("output"))
        columns = [cell.name for cell in cells]
        for threshold in self.thresholds:
            threshold.check(list(methods), columns)
        if baseline is not None:
            with self._within("baseline of [drift]"):
                check_comparable(baseline, list(methods), {c.name: c.direction for c in cells})
        for kind, name in content.get("report", {}).items():
            if not self._path(name).parent.is_dir():
                raise ValueError(
                    f"{self.path}: {kind} of [report] must be in a folder that exists, is {name!r}"
                )
        arguments: dict[str, Any] = {
            "explain_func_kwargs": self._made(
                "explain_func_kwargs", content.get("explain_func_kwargs")
            ),
            "multiply_by_inputs": content.get("multiply_by_inputs"),
            "call_kwargs": calls,
            **self._made("labels", content.get("labels", {})),
            **run,
        }
        with self._backend(backend):
            if dry_run:
                cost: Estimate = evaluate(
                    metrics, methods, model, **data, **arguments, dry_run=True
                )
                return cost
            evaluation: Evaluation = evaluate(metrics, methods, model, **data, **arguments)
        written, unwritten = self._reports(evaluation)
        broken = [
            f"{explainer} by {metric}: {error}"
            for (explainer, metric), error in evaluation.failed_cells().items()
        ]
        broken += [line for each in self.thresholds for line in each.broken(evaluation)]
        found = None
        if baseline is not None:
            found = evaluation.drift(baseline, **self._drift)
            broken += [
                f"{row.metric} of {row.explainer} is {row.verdict} than the baseline's"
                if row.verdict in ("better", "worse")
                else f"{row.metric} of {row.explainer}: {row.verdict} since the baseline"
                for row in found.rows
                if row.verdict in self.fail_on
            ]
            if "missing" in self.fail_on:
                broken += [f"{pair}: in one of the two evaluations only" for pair in found.missing]
        return Outcome(evaluation, found, tuple(broken), written, unwritten, self._drift_check())

    def _drift_check(self) -> str:
        """Say what is compared with the baseline, and what fails."""
        if "drift" not in self.content:
            return ""
        alpha, smallest = check_settings(**self._drift)
        at_least = f" and an effect of at least {smallest:g}" if smallest else ""
        fails = f"fails on {', '.join(self.fail_on)}" if self.fail_on else "fails on nothing"
        return (
            f"Drift: the scores of each explainer by each metric, compared with those of "
            f"{self.content['drift']['baseline']}; a change has a p-value of at most {alpha:g}, "
            f"corrected for all tests{at_least}; the check {fails} (fail_on)."
        )

    def _reports(self, evaluation: Evaluation) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Write those that can be written; return them, and why others could not."""
        written, unwritten = [], []
        for kind, name in self.content.get("report", {}).items():
            path = self._path(name)
            try:
                getattr(evaluation, f"to_{kind}")(path)
            except Exception as error:
                unwritten.append(
                    f"{kind} of [report] cannot be written: {type(error).__name__}: {error}"
                )
            else:
                written.append(path)
        return tuple(written), tuple(unwritten)

    @contextmanager
    def _within(self, place: str) -> Iterator[None]:
        """Say in an error what of the file it is about."""
        try:
            yield
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{place}: {error}") from error

    @contextmanager
    def _backend(self, name: object) -> Iterator[None]:
        if name is None:
            yield
            return
        with ExitStack() as stack:
            with self._within("backend of [run]"):
                backend = checks.text("backend", name)
                stack.enter_context(joblib.parallel_config(backend=backend))
            yield

    def _known(self, what: str, found: Mapping[str, Any], names: set[str]) -> None:
        unknown = sorted(set(found) - names)
        if unknown:
            raise ValueError(
                f"{self.path}: {what} must be one of {', '.join(sorted(names))}; has "
                f"{', '.join(unknown)}"
            )

    def _threshold(self, table: object) -> Threshold:
        if not isinstance(table, Mapping):
            raise TypeError(
                f"{self.path}: thresholds must be tables, [[thresholds]], has {table!r}"
            )
        self._known(
            "a key of [[thresholds]]", table, {"metric", "explainer", "at_least", "at_most"}
        )
        if "metric" not in table or not {"at_least", "at_most"} & set(table):
            raise ValueError(
                f"{self.path}: [[thresholds]] must have metric, and at_least or at_most; has "
                f"{', '.join(table)}"
            )
        limits = {
            name: checks.finite_number(f"{name} of [[thresholds]]", table[name])
            for name in ("at_least", "at_most")
            if name in table
        }
        if len(limits) == 2 and limits["at_least"] > limits["at_most"]:
            raise ValueError(
                f"at_least of [[thresholds]] must not be above at_most, is {limits['at_least']} "
                f"with {limits['at_most']}"
            )
        return Threshold(**table)

    def _path(self, name: str) -> Path:
        return self.path.parent / name

    def _metric(self, name: str, value: Any) -> Any:
        place = f"metrics.{name}"
        if isinstance(value, Mapping) and not set(_FORMS) & set(value):
            # The metric of that name, of this package before Quantus's.
            import quantus_ext

            found = getattr(quantus_ext.metrics, name, getattr(quantus, name, None))
            if not isinstance(found, type):
                raise ValueError(
                    f'{self.path}: [metrics.{name}] must have call = "module:Class", or be named '
                    "as a metric of quantus_ext or of quantus"
                )
            arguments = {key: self._made(f"{place}.{key}", item) for key, item in value.items()}
            with self._within(f"[{place}]"):
                return found(**arguments)
        return self._made(place, value)

    def _method(self, name: str, value: Any) -> Any:
        """Return an item of ``xai_methods``; a file of maps is read shard by shard."""
        if isinstance(value, Mapping) and "file" in value:
            return self._path(self._only("file", f"xai_methods.{name}", value))
        return self._made(f"xai_methods.{name}", value)

    def _made(self, place: str, value: Any) -> Any:
        """Return what a value stands for; ``place`` is where it is in the file."""
        if isinstance(value, list):
            return [self._made(f"{place}[{at}]", item) for at, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        if "call" in value:
            function = _imported(place, checks.text(f"call of {place}", value["call"]))
            arguments = {
                name: self._made(f"{place}.{name}", item)
                for name, item in value.items()
                if name != "call"
            }
            with self._within(place):
                return checks.function("call", function)(**arguments)
        if "import" in value:
            return _imported(place, self._only("import", place, value))
        if "file" in value:
            return np.load(self._path(self._only("file", place, value)), allow_pickle=False)
        if "weights" in value:
            path = self._path(self._only("weights", place, value))
            return torch.load(path, map_location="cpu", weights_only=True)
        return {name: self._made(f"{place}.{name}", item) for name, item in value.items()}

    def _only(self, key: str, place: str, table: Mapping[str, Any]) -> str:
        """Return the text of a key that stands alone in its table."""
        others = sorted(set(table) - {key})
        if others:
            raise ValueError(
                f"{place} must hold nothing beside {key}, holds {', '.join(others)}: leave that "
                'out, or make the object by call = "module:name"'
            )
        return checks.text(f"{key} of {place}", table[key])


def _imported(place: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f'{place}: an object must be named as "module:name", is {name!r}')
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
