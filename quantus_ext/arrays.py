"""Samples in the forms that people have them in, as arrays: tables, lists, masked and odd types."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

_SHOWN = 80
"""Characters of a value that an error shows."""


def numbers_of(name: str, values: Any) -> np.ndarray | Tensor:
    """Return real numbers: a dense tensor if it is a tensor, or a list of them, else an array.

    Arrays of another byte order or width than torch knows are converted, and so are objects that
    are all numbers. Data frames (of pandas or polars) become arrays column by column; rows count
    by their place, whatever the index says.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    values : array, tensor, data frame, series or nested list

    Raises
    ------
    TypeError, ValueError
        If it holds anything but real numbers, is sparse, or has masked or missing values.

    Examples
    --------
    >>> import pandas as pd
    >>> from quantus_ext.arrays import numbers_of
    >>> numbers_of("x_batch", pd.DataFrame({"age": [41.0, 23.0], "smoker": [True, False]}))
    array([[41.,  1.],
           [23.,  0.]])
    """
    if isinstance(values, (list, tuple)) and values and all(isinstance(v, Tensor) for v in values):
        for each in values:
            _dense(name, each)
        shapes = sorted({tuple(each.shape) for each in values})
        if len(shapes) > 1:
            raise ValueError(f"{name} must hold tensors of one shape, holds {shapes}")
        try:
            values = torch.stack([each.detach() for each in values])
        except RuntimeError as error:
            raise TypeError(f"{name} must hold tensors of one kind: {error}") from error
    if isinstance(values, Tensor):
        _dense(name, values)
        if values.is_complex():
            raise _complex(name)
        return values.detach()
    if is_explanation(values):
        values = values.values
    if isinstance(values, pd.DataFrame) or hasattr(values, "get_columns"):
        return _table(name, values)
    if isinstance(values, pd.Series) or type(values).__module__.startswith("polars"):
        return _column(name, values)
    if hasattr(values, "toarray"):
        raise TypeError(f"{name} must be dense, is {type(values).__name__}: pass its toarray()")
    parts = values if isinstance(values, (list, tuple)) else [values]
    if any(np.ma.is_masked(part) for part in parts):
        raise ValueError(
            f"{name} must have no masked values, which would count as ordinary ones: fill them in, "
            "with its filled(...), or leave the samples out"
        )
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be an array or tensor of numbers: {error}") from error
    return _plain(name, array)


def column_names(values: Any) -> tuple[Any, ...] | None:
    """Return the names of a table's columns, None of what has none, or pandas' numbers for them.

    Examples
    --------
    >>> import pandas as pd
    >>> from quantus_ext.arrays import column_names
    >>> column_names(pd.DataFrame({"age": [41], "size": [1.7]})), column_names([[41, 1.7]])
    (('age', 'size'), None)
    """
    if is_explanation(values):
        names = values.feature_names
    elif isinstance(values, pd.DataFrame):
        names = None if isinstance(values.columns, pd.RangeIndex) else values.columns
    else:
        names = values.columns if hasattr(values, "get_columns") else None
    return None if names is None else tuple(names)


def in_order_of(names: tuple[Any, ...] | None, name: str, maps: Any, x: Any = None) -> Any:
    """Return maps of tables with their columns in the order of the inputs'.

    Parameters
    ----------
    names : tuple or None
        Of the inputs' columns, in the order in which metrics see them.
    name : str
        Of the argument, for errors.
    maps : array, tensor, data frame or shap.Explanation
        Columns without names stay where they are.
    x : optional
        The inputs as they are given, where ``maps`` belong to these.

    Raises
    ------
    ValueError
        If the names are others than the inputs', or if there are none and the inputs' columns were
        put into another order.

    Examples
    --------
    >>> import pandas as pd
    >>> from quantus_ext.arrays import in_order_of
    >>> in_order_of(("age", "size"), "a_batch", pd.DataFrame({"size": [0.2], "age": [-1.0]}))
       age  size
    0 -1.0   0.2
    """
    own, given = column_names(maps), column_names(x)
    if names is None or own == names:
        return maps
    if own is None:
        if given is not None and given != names:
            raise ValueError(
                f"{name} must be a data frame whose columns have names, because those of x_batch "
                f"are in another order than the model's, {_listed(names)}: pass a frame, or "
                "x_batch in that order"
            )
        return maps
    if len(own) != len(names) or set(own) != set(names):
        raise ValueError(
            f"{name} must have the columns of x_batch, {_listed(names)}, has "
            f"{_listed(own)}: rename them, or pass an array in the order of x_batch"
        )
    order = [own.index(each) for each in names]
    return np.take(maps.values, order, axis=1) if is_explanation(maps) else maps[list(names)]


def _listed(names: tuple[Any, ...]) -> str:
    text = ", ".join(map(repr, names))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def is_explanation(values: object) -> bool:
    """Whether values are a ``shap.Explanation``, whose array is its attribute ``values``."""
    kind = type(values)
    return kind.__name__ == "Explanation" and kind.__module__.partition(".")[0] == "shap"


def tensor_from(name: str, values: Any) -> Tensor:
    """Return the same as :func:`numbers_of`, always as a tensor, which may share its memory."""
    numbers = numbers_of(name, values)
    if isinstance(numbers, Tensor):
        return numbers
    return torch.from_numpy(np.require(numbers, requirements=["C", "W"]))


def array_of(name: str, values: Any) -> np.ndarray:
    """Return the same as :func:`numbers_of`, always as an array in the processor's memory."""
    numbers = numbers_of(name, values)
    if isinstance(numbers, np.ndarray):
        return numbers
    if numbers.dtype == torch.bfloat16:
        numbers = numbers.float()  # numpy has no such type
    return numbers.cpu().numpy()


def native(array: np.ndarray) -> np.ndarray:
    """Return an array of numbers in a type and byte order that torch has; as it is if it can."""
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind == "f" and width > 8:
        return array.astype(np.float64)
    if kind == "u" and width > 1:
        # torch supports few operations on these.
        return array.astype(np.float64 if width > 4 else np.int64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == object:
        array = _of_objects(name, array)
    if array.dtype.kind == "c":
        raise _complex(name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array or tensor of numbers, has dtype {array.dtype}")
    return native(array)


def _of_objects(name: str, array: np.ndarray) -> np.ndarray:
    for value in array.flat:
        if not isinstance(value, (Real, np.bool_)):
            what = "a missing value" if value is None or value is pd.NA else repr(value)
            raise TypeError(f"{name} must be an array or tensor of numbers, holds {what[:_SHOWN]}")
    try:
        return array.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"{name} must hold numbers that are finite as float64: {error}") from error


def _dense(name: str, values: Tensor) -> None:
    if values.layout != torch.strided:
        raise TypeError(f"{name} must be dense, is {values.layout}: pass its to_dense()")
    if values.is_meta:
        raise ValueError(
            f"{name} must be on a device, is on 'meta', where tensors have no values: pass the "
            "values themselves"
        )


def _table(name: str, table: Any) -> np.ndarray:
    columns: Iterable[tuple[Any, Any]] = (
        table.items()
        if isinstance(table, pd.DataFrame)
        else ((column.name, column) for column in table.get_columns())
    )
    arrays = []
    for label, column in columns:
        array = _column(f"{name}'s column {label!r}", column)
        missing = np.flatnonzero(np.isnan(array))
        if len(missing):
            raise ValueError(
                f"{name}'s column {label!r} must have no missing values, has one in row "
                f"{missing[0]}: fill it in, or leave the row out"
            )
        arrays.append(array)
    if not arrays:
        raise ValueError(f"{name} must have at least one column, has none")
    return np.stack(arrays, axis=1)


def _column(name: str, column: Any) -> np.ndarray:
    return _plain(name, np.asarray(column.to_numpy()))


def _complex(name: str) -> TypeError:
    return TypeError(
        f"{name} must hold real numbers, holds complex ones: pass real and imaginary part as "
        "channels, or their absolute value"
    )
