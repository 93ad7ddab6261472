"""Any function from arrays to class scores as a module: trees, ONNX, remote services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.adapters.predictors import Predict, predictor_of
from quantus_ext.engine.progress import progress_bar


class BlackBox(Adapter):
    """A prediction function as a torch module, for metrics that only need predictions.

    It works with every metric of this package that does not train, and with those of Quantus that
    do not use gradients.

    Parameters
    ----------
    predict : callable, estimator or session
        A function from an array of rows, in the type and shape of the inputs, to an array (rows,
        classes); a fitted estimator with ``predict_proba``, as in scikit-learn, XGBoost, LightGBM
        and CatBoost, or, for regression, with ``predict``; or an ONNX Runtime session, which gets
        rows in the type that it accepts.
    classes : int, optional
        Number of scores per row; for one, ``predict`` may return shape (rows,). By default that of
        the first answer.
    probabilities : bool, optional
        Whether the scores are probabilities: metrics then apply no softmax, and rows that are not
        probabilities are an error. By default True for ``predict_proba`` of an estimator.
    output : str, optional
        For a session: the output with the scores; by default the only one of floating-point
        numbers.
    reference : callable, estimator or session, optional
        A model with the same answers, such as the estimator that a session was exported from. The
        first 64 rows are sent to both; answers that differ by more than a thousandth of the largest
        are an error.
    max_rows_per_call : int, optional
        Largest number of rows per call.
    display_progressbar : bool, default False
        Count the rows that were answered, for slow functions.
    key : str, optional
        A name for the version of ``predict``, such as ``"model-2026-11"``, by which stores and
        caches identify it, instead of by its code and the objects it holds. Change it whenever the
        answers change.
    check_rows : bool, default False
        Send up to 12 extra rows, at most once per metric and kind of input, to find out whether
        answers are random or depend on the other rows of a call. Off by default, because calls may
        cost money.

    Attributes
    ----------
    n_calls : int
        Calls of ``predict`` so far.

    Notes
    -----
    Outputs are used as they are. If a function returns probabilities, pass ``probabilities=True``:
    otherwise removal metrics apply a softmax, with a warning.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import BlackBox
    >>> def predict(rows):
    ...     share = rows.mean(1)
    ...     return np.stack([1 - share, share], 1)
    >>> x = np.ones((1, 4))
    >>> Deletion(4)(BlackBox(predict, probabilities=True), x, np.array([1]), x)
    [0.5]
    """

    unread = frozenset(
        {
            *("n_calls", "max_rows_per_call", "display_progressbar", "check_rows"),
            *("reference", "_unchecked"),
        }
    )
    asks_outside: ClassVar[bool] = True
    """Whether the answers may come from elsewhere, so that no content shows what they depend on."""

    _shown_defaults: ClassVar[Mapping[str, Any]] = {"probabilities": False}

    def __init__(
        self,
        predict: Any,
        classes: int | None = None,
        *,
        probabilities: bool | None = None,
        output: str | None = None,
        reference: Any = None,
        max_rows_per_call: int | None = None,
        display_progressbar: bool = False,
        key: str | None = None,
        check_rows: bool = False,
    ) -> None:
        super().__init__()
        asked = predictor_of("predict", predict, checks.optional(checks.text, "output", output))
        self.key = checks.optional(checks.text, "key", key)
        if key is not None:
            self.unread = self.unread | {"predict"}
        self.predict = asked.ask
        self.classes = checks.optional(checks.positive_integer, "classes", classes) or asked.classes
        if self.classes is None:
            # What the first answer has.
            self.unread = self.unread | {"classes"}
        self.probabilities = checks.optional(checks.flag, "probabilities", probabilities)
        if self.probabilities is None:
            self.probabilities = asked.gives_probabilities
        if self.probabilities and self.classes == 1:
            raise ValueError(
                "probabilities must be False for one class, of which the probability is 1: give "
                "that of class 0 beside it, as np.stack([1 - p, p], 1)"
            )
        self.own_softmax = self.probabilities
        self.reference: Predict | None = None
        if reference is not None:
            self.reference = predictor_of("reference", reference).ask
        self._unchecked = _COMPARED
        self.max_rows_per_call = checks.optional(
            checks.positive_integer, "max_rows_per_call", max_rows_per_call
        )
        self.display_progressbar = checks.flag("display_progressbar", display_progressbar)
        self.check_rows = checks.flag("check_rows", check_rows)
        self.n_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (n, classes), in the inputs' floating type.

        Raises
        ------
        RuntimeError
            If ``predict`` raises; the message says on which call.
        ValueError
            If it returns another shape, or what is no number.
        """
        rows = x.detach().cpu().numpy()
        size = self.max_rows_per_call or max(len(rows), 1)
        parts = []
        with progress_bar(shown=self.display_progressbar, total=len(rows), unit="row") as bar:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                parts.append(self._scores(part))
                bar.update(len(part))
        # Scores have more digits than inputs in half precision.
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.from_numpy(np.concatenate(parts)).to(x.device, dtype)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        self.n_calls += 1
        scores = self._answered("predict", self.predict, rows)
        if self.probabilities:
            self._check_probabilities(scores)
        if self.reference is not None and self._unchecked:
            some = rows[: self._unchecked]
            self._unchecked -= len(some)
            _check_alike(scores[: len(some)], self._answered("reference", self.reference, some))
        return scores

    def as_given(self, rows: np.ndarray) -> Any:
        """Return rows as the prediction function gets them: a copy, for rows are written again."""
        return rows.copy()

    def _answered(self, name: str, predict: Predict, rows: np.ndarray) -> np.ndarray:
        given = self.as_given(rows)
        try:
            returned = predict(given)
        except Exception as error:
            raise RuntimeError(
                f"{name} failed on call {self.n_calls}, with {len(rows)} rows: {error}"
            ) from error
        if isinstance(returned, Tensor):
            returned = returned.detach().cpu()
        try:
            scores = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must return an array of numbers: {error}") from error
        if self.classes in (None, 1) and scores.shape == (len(rows),):
            scores = scores[:, np.newaxis]
        if self.classes is None and scores.ndim == 2:
            self.classes = scores.shape[1]
        if scores.shape != (len(rows), self.classes):
            classes = "classes" if self.classes is None else self.classes
            raise ValueError(
                f"{name} must return shape ({len(rows)}, {classes}), on call {self.n_calls} "
                f"it returned {scores.shape}"
            )
        return scores

    def _check_probabilities(self, scores: np.ndarray) -> None:
        wrong = (scores < -_ROUNDING).any(1) | (np.abs(scores.sum(1) - 1) > _ROUNDING)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                "predict must return probabilities, none negative and of sum 1, as "
                f"probabilities=True says; on call {self.n_calls} row {row} is "
                f"{checks.shown(scores[row].tolist())}"
            )


_COMPARED = 64
"""Rows that are compared with a reference."""

_ROUNDING = 1e-3
"""Of scores in single precision, and then some; exports that are other models differ by more."""


def _check_alike(scores: np.ndarray, expected: np.ndarray) -> None:
    """Raise ValueError where answers are not those of the reference."""
    same = (scores == expected) | (np.isnan(scores) & np.isnan(expected))
    difference = np.where(same, 0.0, np.nan_to_num(np.abs(scores - expected), nan=np.inf)).max(1)
    differs = difference > _ROUNDING * np.abs(np.nan_to_num(expected)).max()
    if differs.any():
        row = int(difference.argmax())
        raise ValueError(
            f"predict must answer as reference does, differs in {int(differs.sum())} of "
            f"{len(scores)} rows, most in row {row}: {checks.shown(scores[row].tolist())} for "
            f"{checks.shown(expected[row].tolist())}. They are different models: fix the export, "
            "or explain the reference itself"
        )
