"""What people bring as a prediction function: functions, fitted estimators, ONNX sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from quantus_ext import checks

Predict = Callable[[Any], Any]
"""Rows, as an array or a frame, to (rows, classes) scores."""

_ONNX_TYPES: dict[str, type[Any]] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
"""By the names that ONNX Runtime has for them."""


class _Value(Protocol):
    """An input or output of a session, as ONNX Runtime describes it."""

    name: str
    type: str
    shape: list[Any]


@dataclass(frozen=True)
class Predictor:
    """How a model is asked for scores.

    Attributes
    ----------
    ask : callable
        See :data:`Predict`.
    gives_probabilities : bool
        Whether it is known to.
    classes : int or None
        How many scores it gives, where that is known.
    """

    ask: Predict
    gives_probabilities: bool = False
    classes: int | None = None


def predictor_of(name: str, model: Any, output: str | None = None) -> Predictor:
    """Return how to ask what a caller brings as a prediction function.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    model : callable or object
        A function; a session of ONNX Runtime; or an estimator with ``predict_proba`` or, a
        regressor, ``predict``.
    output : str, optional
        Of a session, the output that holds the scores.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or a session has several outputs that may be the scores.
    """
    if all(hasattr(model, each) for each in ("run", "get_inputs", "get_outputs")):
        return Predictor(OnnxSession.of(name, model, output))
    if output is not None:
        raise ValueError(f"output must be left out where {name} is no ONNX session, is {output!r}")
    if hasattr(model, "predict_proba"):
        known = getattr(model, "classes_", None)
        classes = len(known) if isinstance(known, np.ndarray) and known.ndim == 1 else None
        return Predictor(Method(model, "predict_proba"), True, classes)
    if callable(model):
        return Predictor(model)
    if hasattr(model, "predict"):
        return Predictor(Method(model, "predict"), False, 1)
    raise TypeError(
        f"{name} must be callable, is {checks.shown(model)}: pass a function from rows to scores, "
        "an ONNX Runtime session, or a fitted estimator with predict_proba"
    )


@dataclass(frozen=True)
class Method:
    """A method of a fitted estimator."""

    estimator: Any
    name: str

    def __call__(self, rows: Any) -> Any:
        """Return what it answers."""
        return getattr(self.estimator, self.name)(rows)


@dataclass(frozen=True)
class OnnxSession:
    """A session of ONNX Runtime as a function from rows to scores.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
    output : str
        The output that holds the scores.
    """

    session: Any
    output: str

    @classmethod
    def of(cls, name: str, session: Any, output: str | None) -> OnnxSession:
        """Take a session, and find the output unless it is named."""
        found: list[_Value] = session.get_outputs()
        names = [each.name for each in found]
        if output is not None:
            checks.one_of("output", output, names)
            return cls(session, output)
        # Labels are integers or texts.
        scores = [each.name for each in found if "float" in each.type or "double" in each.type]
        if len(scores) != 1:
            raise ValueError(
                f"output must name the one of {', '.join(map(repr, names))} that holds the scores: "
                f"{len(scores)} outputs of {name} are of floating-point numbers"
            )
        return cls(session, scores[0])

    def __call__(self, rows: Any) -> Any:
        """Return the scores, shape (rows, classes)."""
        inputs: list[_Value] = self.session.get_inputs()
        size = inputs[0].shape[0] if inputs[0].shape else None
        # One exported for a fixed number of rows is asked in parts, the last one filled up.
        size = size if isinstance(size, int) and size > 0 else max(len(rows), 1)
        parts = []
        for first in range(0, len(rows), size):
            places = np.minimum(np.arange(first, first + size), len(rows) - 1)
            part = rows.iloc[places] if isinstance(rows, pd.DataFrame) else rows[places]
            (found,) = self.session.run([self.output], dict(_fed(inputs, part)))
            parts.append(_plain(found)[: len(rows) - first])
        return np.concatenate(parts)


def _fed(inputs: list[_Value], rows: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield an array for each input: all rows, or a column for each."""
    if isinstance(rows, pd.DataFrame) and {each.name for each in inputs} <= {*map(str, rows)}:
        columns = {str(name): column.to_numpy() for name, column in rows.items()}
        for each in inputs:
            yield each.name, _typed(each, columns[each.name][:, np.newaxis])
        return
    values = rows.to_numpy() if isinstance(rows, pd.DataFrame) else rows
    if len(inputs) == 1:
        yield inputs[0].name, _typed(inputs[0], values)
        return
    if values.ndim != 2 or values.shape[1] != len(inputs):
        raise ValueError(
            f"rows must have a column for each of the session's {len(inputs)} inputs, "
            f"{', '.join(each.name for each in inputs)}, have shape {values.shape}"
        )
    for place, each in enumerate(inputs):
        yield each.name, _typed(each, values[:, place : place + 1])


def _typed(described: _Value, values: np.ndarray) -> np.ndarray:
    """Return values in the type that an input takes; ValueError where they become others."""
    wanted = _ONNX_TYPES.get(described.type)
    if wanted is None:
        return values
    typed: np.ndarray = np.ascontiguousarray(values.astype(wanted))
    if np.issubdtype(wanted, np.integer) and bool((typed != values).any()):
        raise ValueError(
            f"rows must be whole numbers for the session's input {described.name!r}, which takes "
            f"{described.type}"
        )
    return typed


def _plain(found: Any) -> np.ndarray:
    """Return scores as an array; a dict of each row's, by class, in the order of classes."""
    if isinstance(found, list) and found and isinstance(found[0], Mapping):
        classes = sorted(found[0])
        return np.array([[row[each] for each in classes] for row in found])
    return np.asarray(found)
