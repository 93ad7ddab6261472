"""Models of data frames: names, categories and missing values go through every metric."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from pandas.api import types
from torch import Tensor

from quantus_ext import checks
from quantus_ext.adapters.black_box import BlackBox
from quantus_ext.adapters.predictors import Method, predictor_of
from quantus_ext.engine.padding import PaddingPreserving
from quantus_ext.engine.perturb import Native, Perturbation
from quantus_ext.engine.replacements import draw_from, replace_by

Removal = Literal["background", "typical", "missing"]
REMOVALS = ("background", "typical", "missing")

MISSING = float(np.finfo(np.float32).min)
"""Stands for a missing value among codes, which must be finite."""


class DataFrame(BlackBox):
    """A model of data frames, as a pipeline of scikit-learn, LightGBM, XGBoost or CatBoost.

    Metrics take frames as ``x_batch`` and give the model frames: with the names, categories, types
    and missing values of ``x_train``. Each column is an element. What is removed becomes a value
    that the column really has, never a 0 that stands for some category.

    Parameters
    ----------
    model : estimator, session or callable
        As :class:`BlackBox` takes it: with ``predict_proba``, or a regressor with ``predict``; a
        session of ONNX Runtime with an input for each column; or a function from frames to scores.
    x_train : pandas.DataFrame
        Rows such as those that the model was trained on.
    removal : {"background", "typical", "missing"}, default "background"
        What removed values become: those of a random row of ``x_train``, the same for all columns
        of a draw; the column's mean or, of categories, its commonest value; or missing, where the
        model takes that.
    **black_box
        Other keywords of :class:`BlackBox`; ``reference`` gets frames too.

    Attributes
    ----------
    names : list
        Of the columns.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules; on a call, if a frame has other columns, or a
        value that ``x_train`` has not.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.compose import make_column_transformer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import OneHotEncoder
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import DataFrame
    >>> x = pd.DataFrame({"job": ["clerk", "cook", "clerk", "pilot"], "age": [41, 23, 35, 52]})
    >>> columns = make_column_transformer((OneHotEncoder(), ["job"]), remainder="passthrough")
    >>> model = make_pipeline(columns, LogisticRegression()).fit(x, [0, 0, 0, 1])
    >>> table = DataFrame(model, x)
    >>> scores = Deletion(2, n_samples=8)(table, x, [0, 0, 0, 1], [[2.0, 1.0]] * 4)
    >>> table.decode(table.encode(x)).equals(x)
    True
    """

    def __init__(
        self,
        model: Any,
        x_train: pd.DataFrame,
        *,
        removal: Removal = "background",
        **black_box: Any,
    ) -> None:
        if not isinstance(x_train, pd.DataFrame):
            raise TypeError(
                f"x_train must be a pandas.DataFrame, is {type(x_train).__name__}: BlackBox is for "
                "arrays"
            )
        if not len(x_train) or not x_train.shape[1]:
            raise ValueError(f"x_train must have rows and columns, has shape {x_train.shape}")
        if not x_train.columns.is_unique:
            raise ValueError("x_train must have columns of different names")
        checks.one_of("removal", removal, REMOVALS)
        super().__init__(model, **black_box)
        self.columns = tuple(_Column.of(name, column) for name, column in x_train.items())
        self.names = list(x_train.columns)
        self.background = self.encode(x_train, "x_train")
        self.removal = removal
        self.replacement = {
            "background": lambda: draw_from(self.background),
            "typical": lambda: replace_by(self.baseline()),
            "missing": lambda: replace_by(np.full(len(self.names), MISSING)),
        }[removal]()
        self.coded = bool((self.background == MISSING).any()) or not all(
            each.is_number for each in self.columns
        )

    def encode(self, frame: pd.DataFrame, name: str = "frame") -> NDArray[np.float64]:
        """Return the codes of a frame, shape (n, F): numbers, and the places of categories.

        They are what metrics compute with, and what explainers may that know arrays only; their
        model then is :meth:`ask`.

        Parameters
        ----------
        frame : pandas.DataFrame
            With the columns of ``x_train``, in any order.
        name : str, default "frame"
            Of the argument, for errors.
        """
        missing = [column for column in self.names if column not in frame.columns]
        unknown = [column for column in frame.columns if column not in self.names]
        if missing or unknown:
            raise ValueError(
                f"{name} must have the columns of x_train"
                + "".join(
                    f", {what} {', '.join(map(repr, columns))}"
                    for what, columns in (("lacks", missing), ("has besides", unknown))
                    if columns
                )
            )
        codes = [each.encoded(frame[each.name], name) for each in self.columns]
        return np.stack(codes, 1)

    def decode(self, codes: ArrayLike) -> pd.DataFrame:
        """Return the frame that codes (n, F) stand for.

        Raises
        ------
        ValueError
            If a code is none of a column's categories.
        """
        values = checks.float64("codes", codes)
        self.check_inputs(torch.from_numpy(values))
        return pd.DataFrame(
            {each.name: each.decoded(values[:, at]) for at, each in enumerate(self.columns)},
            columns=self.names,
        )

    def ask(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Return the model's scores of codes (n, F), shape (n, classes); for explainers."""
        answers = self(torch.from_numpy(checks.float64("codes", codes)))
        return np.asarray(answers.numpy(), dtype=np.float64)

    def baseline(self) -> NDArray[np.float64]:
        """Return the code of each column's mean or commonest value, shape (F,)."""
        columns = zip(self.columns, self.background.T, strict=True)
        return np.array([each.typical(codes) for each, codes in columns])

    def target(self, labels: ArrayLike) -> NDArray[np.int64]:
        """Return the column of the model's scores for each label, int64, shape (n,) or (n, k).

        Parameters
        ----------
        labels : array, shape (n,), (n, 1) or (n, k)
            As the estimator was fitted with them.

        Raises
        ------
        ValueError
            If the estimator tells no classes, or a label is none of them.
        """
        estimator = self.predict.estimator if isinstance(self.predict, Method) else None
        known = getattr(estimator, "classes_", None)
        if known is None:
            raise ValueError(
                "labels must be columns of the model's scores, 0, 1, …, where it has no classes_"
            )
        given = np.asarray(labels)
        given = given if given.ndim == 2 and given.shape[1] > 1 else given.ravel()
        found = pd.Index(known).get_indexer(pd.Index(given.ravel())).reshape(given.shape)
        if (found < 0).any():
            first = tuple(np.argwhere(found < 0)[0])
            raise ValueError(
                f"labels must be among the model's classes_, {checks.shown(list(map(str, known)))};"
                f" sample {first[0]} has {str(given[first])!r}"
            )
        return np.asarray(found, dtype=np.int64)

    def around(self, model: Any) -> DataFrame:
        """Return the same table around another model, as one that was fitted again."""
        twin = copy.copy(self)
        asked = predictor_of("model", model)
        twin.predict, twin.classes, twin.reference, twin.n_calls = asked.ask, asked.classes, None, 0
        return twin

    def encoded(self, x: Any) -> Any:
        """See :meth:`quantus_ext.adapters.Adapter.encoded`."""
        return self.encode(x, "x_batch") if isinstance(x, pd.DataFrame) else x

    def column_names(self, x: Any) -> tuple[Any, ...]:
        """See :meth:`quantus_ext.adapters.Adapter.column_names`: those of ``x_train``."""
        return tuple(self.names)

    def decoded(self, x: np.ndarray) -> Any:
        """See :meth:`quantus_ext.adapters.Adapter.decoded`."""
        return self.decode(x)

    def encoded_labels(self, y: Any) -> Any:
        """See :meth:`quantus_ext.adapters.Adapter.encoded_labels`: words are classes."""
        if isinstance(y, Tensor) or y is None:
            return y
        words = not types.is_numeric_dtype(pd.Series(np.ravel(np.asarray(y))))
        return self.target(y) if words else y

    def as_given(self, rows: np.ndarray) -> Any:
        """See :meth:`BlackBox.as_given`."""
        return self.decode(rows)

    def check_inputs(self, x: Tensor) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_inputs`."""
        if x.ndim != 2 or x.shape[1] != len(self.names):
            raise ValueError(
                f"rows must be a frame with the columns of x_train, or codes of shape "
                f"(n, {len(self.names)}) that encode makes of one, have shape {tuple(x.shape)}"
            )

    def check_answers(self, x: Tensor, keywords: Mapping[str, Any]) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_answers`."""
        if self.removal != "missing":
            return
        try:
            self(torch.full_like(x[:1], MISSING))
        except RuntimeError as error:
            raise ValueError(
                "removal must be 'background' or 'typical' for a model that takes no missing "
                f"values, is 'missing': {error}"
            ) from error

    def check_perturbation(self, perturbation: Perturbation) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_perturbation`."""
        inner = perturbation.inner if isinstance(perturbation, PaddingPreserving) else perturbation
        by_column = isinstance(inner, Native) and not isinstance(inner.baseline, (int, float, str))
        if self.coded and not (by_column and inner.replaces):
            raise ValueError(
                "perturb_func and perturb_baseline must put values of the table in the place of "
                "others where it has categories or missing values: leave them out, for rows of "
                "x_train; or pass perturb_baseline=table.baseline(), or DataFrame(…, removal=…)"
            )


@dataclass(frozen=True)
class _Column:
    """A column as it was in the training data.

    Attributes
    ----------
    name : object
    dtype : object
        Of pandas.
    values : numpy.ndarray of object, or None
        Categories, whose places are their codes; None of numbers.
    gap : object
        What stands for a missing value.
    """

    name: Any
    dtype: Any
    values: NDArray[np.object_] | None
    gap: Any

    @classmethod
    def of(cls, name: Any, column: pd.Series) -> _Column:
        gaps = column[column.isna()]
        gap = gaps.iloc[0] if len(gaps) else np.nan
        if isinstance(column.dtype, pd.CategoricalDtype):
            return cls(name, column.dtype, _objects(column.dtype.categories), gap)
        if types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
            return cls(name, column.dtype, None, gap)
        known = column.dropna().unique()
        if types.is_bool_dtype(column.dtype):
            known = [False, True]
        return cls(name, column.dtype, _objects(known), gap)

    @property
    def is_number(self) -> bool:
        return self.values is None

    def encoded(self, column: pd.Series, name: str) -> NDArray[np.float64]:
        gaps = column.isna().to_numpy(dtype=bool)
        codes = np.full(len(column), MISSING)
        present = column[~gaps]
        if self.values is None:
            try:
                codes[~gaps] = present.to_numpy(dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"{name}'s column {self.name!r} must hold numbers, as in x_train: {error}"
                ) from error
            if not np.isfinite(codes).all():
                row = int(np.flatnonzero(~np.isfinite(codes))[0])
                raise ValueError(
                    f"{name}'s column {self.name!r} must be finite or missing, is {codes[row]} in "
                    f"row {row}"
                )
            return codes
        places = pd.Index(self.values, dtype=object).get_indexer(pd.Index(_objects(present)))
        if (places < 0).any():
            at = int(np.flatnonzero(places < 0)[0])
            raise ValueError(
                f"{name}'s column {self.name!r} must hold values that x_train has, holds "
                f"{present.iloc[at]!r} in row {int(np.flatnonzero(~gaps)[at])}: give x_train such "
                "a row, or make the column categorical with all its categories"
            )
        codes[~gaps] = places
        return codes

    def decoded(self, codes: NDArray[np.float64]) -> pd.Series:
        gaps = codes == MISSING
        if self.values is None:
            return self._numbers(codes, gaps)
        wrong = (codes != np.trunc(codes)) | (codes < 0) | (codes >= len(self.values))
        wrong &= ~gaps
        if wrong.any():
            raise ValueError(
                f"codes of column {self.name!r} must be whole numbers below {len(self.values)}, "
                f"the places of its categories, hold {codes[wrong][0]}: noise, blurs and numbers "
                "are no values of a table; leave perturb_func and perturb_baseline out"
            )
        places = np.where(gaps, 0, codes).astype(np.int64)
        if isinstance(self.dtype, pd.CategoricalDtype):
            where = np.where(gaps, -1, places)
            return pd.Series(pd.Categorical.from_codes(where, dtype=self.dtype))
        if self.dtype == np.bool_ and gaps.any():
            # As whole numbers with gaps are: models refuse objects.
            return pd.Series(np.where(gaps, np.nan, places))
        found = self.values[places] if len(self.values) else np.empty(len(places), dtype=object)
        found[gaps] = self.gap
        return pd.Series(found, dtype=self.dtype)

    def _numbers(self, codes: NDArray[np.float64], gaps: NDArray[np.bool_]) -> pd.Series:
        whole = bool((codes == np.trunc(codes)).all())
        is_integer = types.is_integer_dtype(self.dtype)
        if types.is_extension_array_dtype(self.dtype):
            values = pd.arrays.FloatingArray(np.where(gaps, 0.0, codes), gaps.copy())
            return pd.Series(values, dtype=self.dtype if whole or not is_integer else "Float64")
        values = np.where(gaps, np.nan, codes)
        # A mean of whole numbers is none.
        kept = not is_integer or (whole and not gaps.any())
        return pd.Series(values).astype(self.dtype if kept else np.float64)

    def typical(self, codes: NDArray[np.float64]) -> float:
        known = codes[codes != MISSING]
        if not len(known):
            return MISSING
        if self.values is None:
            return float(known.mean())
        values, counts = np.unique(known, return_counts=True)
        return float(values[counts.argmax()])


def _objects(values: Any) -> NDArray[np.object_]:
    """Return values one by one, as what they are."""
    found = np.empty(len(values), dtype=object)
    found[:] = list(values)
    return found
