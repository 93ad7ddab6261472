"""An evaluation as plain values, for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from quantus.helpers.enums import ScoreDirection

from quantus_ext.card import Card
from quantus_ext.engine.spaces import SPACES
from quantus_ext.evaluation.failure import Failure
from quantus_ext.evaluation.stopping import Stopping
from quantus_ext.files import DamagedError

if TYPE_CHECKING:
    from quantus_ext.evaluation.result import Evaluation

FORMAT = 4

_OF_CLASSES = ("class_scores", "class_errors")
"""Entries of an evaluation that explains several classes of each sample."""


def to_plain(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything but the cases; NaN is None."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "explainers": evaluation.explainers,
        "metrics": evaluation.metrics,
        "columns": evaluation.columns,
        "directions": {name: value.value for name, value in evaluation.directions.items()},
        "confidence": evaluation.confidence,
        "scores": _nulls(evaluation.scores),
        "standard_errors": _nulls(evaluation.standard_errors),
        "flags": evaluation.flags.tolist(),
        "space": _nulls(evaluation.space),
        "scored": dict(evaluation.scored),
        "n_evaluations": evaluation.n_evaluations.tolist(),
        "n_rows": evaluation.n_rows,
        "carry_inputs": evaluation.carry_inputs,
        "seconds": evaluation.seconds.tolist(),
        "failures": [asdict(failure) for failure in evaluation.failures],
        "settings": evaluation.settings,
        "cards": {name: card.to_plain() for name, card in evaluation.cards.items()},
    }
    if evaluation.classes is not None:
        content["classes"] = evaluation.classes.tolist()
        for name in _OF_CLASSES:
            content[name] = _nulls(getattr(evaluation, name))
    if evaluation.stopping is not None:
        content["stopping"] = evaluation.stopping.to_plain()
    return content


def of_plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an evaluation from those of its JSON, checked against each other."""
    try:
        fields: dict[str, Any] = {
            "explainers": tuple(content["explainers"]),
            "metrics": tuple(content["metrics"]),
            "directions": {n: ScoreDirection(v) for n, v in content["directions"].items()},
            "scores": np.array(content["scores"], dtype=np.float64),
            "standard_errors": np.array(content["standard_errors"], dtype=np.float64),
            "flags": np.array(content["flags"], dtype=np.int64),
            "space": np.array(content["space"], dtype=np.float64),
            "scored": {n: SPACES[SPACES.index(space)] for n, space in content["scored"].items()},
            "n_evaluations": np.array(content["n_evaluations"], dtype=np.int64),
            "seconds": np.array(content["seconds"], dtype=np.float64),
            "failures": tuple(Failure(**failure) for failure in content["failures"]),
            "settings": content["settings"],
            "confidence": content["confidence"],
            "columns": tuple((metric, call) for metric, call in content["columns"]),
            "n_rows": content["n_rows"],
            "carry_inputs": tuple(content["carry_inputs"]),
            "stopping": Stopping.of_plain(content["stopping"]) if "stopping" in content else None,
            "cards": {n: Card.of_plain(card) for n, card in content["cards"].items()},
        }
        if "classes" in content:
            fields["classes"] = np.array(content["classes"], dtype=np.int64)
            for name in _OF_CLASSES:
                fields[name] = np.array(content[name], dtype=np.float64)
    except Exception as error:
        raise DamagedError(f"its entries are not those of an evaluation: {error!r}") from error
    shape = (len(fields["explainers"]), len(fields["metrics"]))
    if fields["space"].shape == (*shape, 0):
        # Lists of nothing have no more axes.
        fields["space"] = np.empty((*shape, 0, len(SPACES)))
    per_cell = [fields[name].shape for name in ("n_evaluations", "seconds")]
    per_sample = [fields[name].shape for name in ("scores", "standard_errors", "flags")]
    named = [fields["explainers"], fields["metrics"]]
    if (
        not all(isinstance(name, str) for names in named for name in names)
        or [len(set(names)) for names in named] != list(shape)
        or 0 in shape
        or len(fields["columns"]) != shape[1]
        or per_cell != [shape, shape]
        or len(set(per_sample)) > 1
        or per_sample[0][:-1] != shape
        or fields["space"].shape[:2] != shape
        or fields["space"].shape[3:] != (len(SPACES),)
        or not set(fields["scored"]) <= set(fields["metrics"])
        or set(fields["directions"]) != set(fields["metrics"])
        or not set(fields["cards"]) <= set(fields["metrics"])
    ):
        raise DamagedError(f"its arrays are not of {shape[0]} explainers and {shape[1]} metrics")
    if "classes" in fields:
        classes = fields["classes"].shape
        by_class = {fields[name].shape for name in _OF_CLASSES}
        if len(classes) != 2 or by_class != {(*shape, *classes)} or classes[0] != per_sample[0][2]:
            raise DamagedError("scores by class are not those of its samples")
    stopping = fields["stopping"]
    if stopping is not None and not stopping.fits(*per_sample[0]):
        raise DamagedError("where it stopped does not fit its scores")
    return fields


def _nulls(values: NDArray[np.float64]) -> Any:
    numbers = values.astype(object)
    numbers[~np.isfinite(values)] = None
    return numbers.tolist()
