"""The forms of arguments that hold samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from quantus_ext.arrays import array_of, native, numbers_of

VALUES = np.array([[1.0, 0.0, 3.0], [4.0, 1.0, 6.0]])

NAMED = pd.DataFrame(VALUES, columns=["a", "b", "c"], index=[7, 3])

TAKEN = {
    "array": VALUES,
    "list": VALUES.tolist(),
    "tuple of arrays": tuple(VALUES),
    "list of tensors": list(torch.from_numpy(VALUES)),
    "tensor with gradient": torch.from_numpy(VALUES).requires_grad_(),
    "tensor of half width": torch.from_numpy(VALUES).bfloat16(),
    "big-endian": VALUES.astype(">f8"),
    "big-endian integers": VALUES.astype(">i2"),
    "long double": VALUES.astype(np.longdouble),
    "half": VALUES.astype(np.float16),
    "unsigned": VALUES.astype(np.uint16),
    "unsigned, wide": VALUES.astype(np.uint64),
    "objects": VALUES.astype(object),
    "objects of several kinds": np.array([[1, False, 3.0], [np.float32(4), True, 6]], dtype=object),
    "Fortran order": np.asfortranarray(VALUES),
    "negative strides": VALUES[::-1, ::-1].copy()[::-1, ::-1],
    "no values masked": np.ma.MaskedArray(VALUES),
    "table": NAMED,
    "table with booleans": NAMED.assign(b=NAMED.b > 0),
    "table of nullable types": NAMED.assign(b=NAMED.b > 0).convert_dtypes(),
    "table of nullable and plain integers": NAMED.assign(b=pd.array([0, 1], dtype="Int64")),
    "table of numbers that are categories": NAMED.astype({"a": "category"}),
    "table whose columns have one name": NAMED.set_axis(["a", "a", "a"], axis=1),
    "table of objects": NAMED.astype(object),
}


@pytest.mark.parametrize("values", TAKEN.values(), ids=TAKEN)
def test_forms_that_are_taken(values):
    array = array_of("x_batch", values)
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, VALUES)
    torch.from_numpy(np.require(array, requirements=["C", "W"]))


def test_tables_of_one_type_keep_it():
    assert array_of("x", NAMED.astype("float32")).dtype == np.float32
    assert array_of("x", NAMED.astype({"a": "float32", "b": bool, "c": "float32"})).dtype == "f4"


def test_series_are_taken_by_place():
    series = pd.Series([3, 1, 2], index=[2, 0, 1])
    np.testing.assert_array_equal(array_of("y", series), [3, 1, 2])
    np.testing.assert_array_equal(array_of("y", series.astype("Int64")), [3, 1, 2])


class Polars:
    """What of a polars data frame is used; the package need not be there."""

    def __init__(self, **columns: list[object]) -> None:
        self.columns = columns

    def get_columns(self) -> list[pd.Series]:
        return [pd.Series(values, name=name) for name, values in self.columns.items()]


def test_other_tables_go_column_by_column():
    np.testing.assert_array_equal(
        array_of("x", Polars(a=[1.0, 4.0], b=[False, True], c=[3, 6])), VALUES
    )
    with pytest.raises(TypeError, match=r"x's column 'b' must be .*, holds 'no'"):
        array_of("x", Polars(a=[1.0, 4.0], b=["no", "yes"]))


MISSING = pd.array([True, None], dtype="boolean")

REFUSED = {
    "strings": (VALUES.astype(str), TypeError, "must be an array or tensor of numbers, has dtype"),
    "dates": (VALUES.astype("datetime64[s]"), TypeError, "has dtype datetime64"),
    "nothing": (None, TypeError, "holds a missing value"),
    "ragged": ([[1.0], [2.0, 3.0]], TypeError, "must be an array or tensor of numbers: "),
    "tensors of several shapes": (
        [torch.ones(2), torch.ones(3)],
        ValueError,
        r"\[\(2,\), \(3,\)\]",
    ),
    "complex": (VALUES + 1j, TypeError, "must hold real numbers"),
    "complex tensor": (torch.from_numpy(VALUES + 1j), TypeError, "must hold real numbers"),
    "sparse tensor": (torch.from_numpy(VALUES).to_sparse(), TypeError, r"pass its to_dense\(\)"),
    "sparse array": (scipy.sparse.csr_array(VALUES), TypeError, r"pass its toarray\(\)"),
    "masked": (np.ma.masked_equal(VALUES, 1.0), ValueError, "must have no masked values"),
    "list of masked": (list(np.ma.masked_equal(VALUES, 1.0)), ValueError, "no masked values"),
    "objects": (np.array([[1.0, {}]], dtype=object), TypeError, r"holds \{\}"),
    "column of strings": (NAMED.assign(b=["u", "v"]), TypeError, "x_batch's column 'b' must be"),
    "column of categories": (
        NAMED.assign(b=pd.Categorical(["u", "v"])),
        TypeError,
        "x_batch's column 'b' must be",
    ),
    "column of dates": (
        NAMED.assign(b=pd.to_datetime(["2020-01-01", "2020-01-02"])),
        TypeError,
        "x_batch's column 'b' must be",
    ),
    "missing truth": (NAMED.assign(b=MISSING), TypeError, "'b' must be .*, holds a missing value"),
    "missing number": (
        NAMED.assign(c=[1.0, np.nan]),
        ValueError,
        "column 'c' must have no missing values, has one in row 1",
    ),
    "missing integer": (
        NAMED.assign(c=pd.array([1, None], dtype="Int64")),
        (TypeError, ValueError),
        "column 'c' must .* missing value",
    ),
    "no columns": (NAMED[[]], ValueError, "must have at least one column"),
}


@pytest.mark.parametrize(("values", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_forms_that_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        numbers_of("x_batch", values)


def test_what_torch_knows_is_not_copied():
    assert native(VALUES) is VALUES
    assert np.shares_memory(array_of("x", VALUES), VALUES)
