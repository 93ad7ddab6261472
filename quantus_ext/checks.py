"""Rules for arguments: each error names the argument, its value and the rule."""

from __future__ import annotations

import itertools
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantus_ext.arrays import array_of, numbers_of
from quantus_ext.engine.modules import exported_in_training, parts_with_mode

T = TypeVar("T")

_SHOWN = 80
"""Characters of a value that an error shows."""

_MOST_STEPS = 1_000_000


def shown(value: object) -> str:
    """Return a value as an error shows it: in one line, and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        # Of a number with very many digits, or of an object that cannot say what it is.
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def optional(check: Callable[[str, Any], T], name: str, value: object) -> T | None:
    """Return None for None, and otherwise what a check returns.

    Examples
    --------
    >>> from quantus_ext import checks
    >>> checks.optional(checks.flag, "softmax", None), checks.optional(checks.flag, "abs", True)
    (None, True)
    """
    return None if value is None else check(name, value)


def flag(name: str, value: object) -> bool:
    """Return ``value`` as a bool: True or False, also of NumPy's or torch's.

    Examples
    --------
    >>> from quantus_ext import checks
    >>> checks.flag("softmax", "no")
    Traceback (most recent call last):
    TypeError: softmax must be True or False, is 'no'
    """
    truth = plain(value)
    if not isinstance(truth, bool):
        raise TypeError(f"{name} must be True or False, is {shown(value)}")
    return truth


def mapping(name: str, value: object) -> dict[str, Any]:
    """Return a copy of a mapping whose keys are names."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, is {shown(value)}")
    if not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a dict whose keys are texts, is {shown(value)}")
    return dict(value)


def function(name: str, value: Any) -> Callable[..., Any]:
    """Return what can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, is {shown(value)}")
    found: Callable[..., Any] = value
    return found


def module(name: str, value: object) -> torch.nn.Module:
    """Return a model, which is an instance of a torch.nn.Module."""
    if not isinstance(value, torch.nn.Module):
        raise TypeError(
            f"{name} must be a torch.nn.Module, is {type(value).__name__}: adapters.BlackBox makes "
            "one of a function"
        )
    return value


@contextmanager
def about_model(name: str) -> Iterator[None]:
    """Let errors about a model's answers name the argument that the model came by."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must answer as the explained model does: {error}") from error


def text(name: str, value: object) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} must be a text that is not empty, is {shown(value)}")
    return value


def address(name: str, value: object) -> str | Path:
    """Return a path, or an address in the form of a text."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str):
            return Path(path)
    raise TypeError(f"{name} must be a path, as a text or a pathlib.Path, is {shown(value)}")


def plain(value: object) -> object:
    """Return a number of NumPy's or torch's as Python's own; anything else as it is.

    One of less than double precision becomes the shortest decimal that it stands for, so that
    ``float32(0.29)`` of 100 elements is 29 of them, as it is printed, and not 28.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from quantus_ext import checks
    >>> checks.plain(np.float32(0.29)), checks.plain(torch.tensor(0.1)), checks.plain(np.array(3))
    (0.29, 0.1, 3)
    """
    if isinstance(value, Tensor):
        has_one = value.ndim == 0 and value.layout == torch.strided and value.device.type != "meta"
        return _shortest(value.detach().cpu()) if has_one else value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.floating):
        narrow = value.dtype.itemsize < 8
        return float(np.format_float_scientific(value)) if narrow else float(value)
    return value.item() if isinstance(value, np.integer | np.bool_) else value


def _shortest(value: Tensor) -> object:
    exact = value.item()
    if not value.is_floating_point() or value.dtype == torch.float64:
        return exact
    decimals = (float(f"{exact:.{digits}e}") for digits in range(17))
    back = (each for each in decimals if torch.tensor(each, dtype=value.dtype).item() == exact)
    # NaN is not equal to itself.
    return next(back, exact)


def listed(values: object) -> object:
    """Return the numbers of an array or sequence as a list of Python's own, a number as one."""
    if isinstance(values, (np.ndarray, Tensor)) and values.ndim == 0:
        return plain(values)
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray, Tensor)):
        return plain(values)
    if isinstance(values, Tensor) and (values.layout != torch.strided or values.is_meta):
        return values
    return [plain(value) for value in values]


def integer(name: str, value: object) -> int:
    """Return ``value`` as an int."""
    return _integer(name, value, least=-sys.maxsize)


def positive_integer(name: str, value: object) -> int:
    """Return ``value`` as an int of at least 1.

    Raises
    ------
    TypeError, ValueError
        If it is no integer, or below 1.
    """
    return _integer(name, value, least=1)


def natural(name: str, value: object) -> int:
    """Return ``value`` as an int of at least 0."""
    return _integer(name, value, least=0)


def positive_integers(name: str, values: object) -> list[int]:
    """Return a non-empty list of integers of at least 1; a single integer makes a list of one."""
    return [positive_integer(name, value) for value in _one_or_more(name, values)]


def naturals(name: str, values: object) -> list[int]:
    """Return a list of integers of at least 0."""
    return [natural(name, value) for value in items(name, values)]


def items(name: str, values: object) -> list[Any]:
    """Return what a sequence or an array holds, as a list; numbers as Python's own."""
    found = listed(values)
    if not isinstance(found, list):
        raise TypeError(f"{name} must be a list or another sequence, is {shown(values)}")
    return found


def _one_or_more(name: str, values: object) -> list[Any]:
    """Return a sequence that is not empty as a list; anything else makes a list of one."""
    found = listed(values)
    if isinstance(found, list) and not found:
        raise ValueError(f"{name} must hold at least one number, is empty")
    return found if isinstance(found, list) else [found]


def positive_number(name: str, value: object) -> float:
    """Return ``value`` as a finite float above 0."""
    number = finite_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above 0, is {value}")
    return number


def finite_number(name: str, value: object) -> float:
    """Return ``value`` as a finite float; see :func:`plain`."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name} must be a number, is {shown(value)}")
    try:
        found = float(number)
    except OverflowError:
        found = float("inf")
    if not np.isfinite(found):
        raise ValueError(f"{name} must be finite, is {shown(plain(value))}")
    return found


def numbers(name: str, values: object) -> list[float]:
    """Return a non-empty list of finite floats; a single number makes a list of one."""
    return [finite_number(name, each) for each in _one_or_more(name, values)]


def fraction(name: str, value: object) -> float:
    """Return ``value`` as a float in (0, 1]."""
    number = finite_number(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, is {value}")
    return number


def fractions(name: str, values: object) -> list[float]:
    """Return a non-empty list of floats in (0, 1]; a single number makes a list of one."""
    return [fraction(name, value) for value in _one_or_more(name, values)]


def interval(name: str, values: object) -> tuple[float, float]:
    """Return two finite floats, the first below the second."""
    ends = numbers(name, values)
    if len(ends) != 2 or not -np.inf < ends[0] < ends[1] < np.inf:
        raise ValueError(
            f"{name} must be two finite numbers, the lower one first, is {shown(values)}"
        )
    return ends[0], ends[1]


def patch_size(element: str, value: object) -> int | None:
    """Return the side of a patch, or None where elements are none."""
    if element == "patch":
        return positive_integer("patch_size", value)
    if value is not None:
        raise ValueError(
            f'patch_size needs element="patch", element is {element!r}: leave patch_size out, is '
            f"{shown(value)}"
        )
    return None


def grid(name: str, steps: object) -> list[float]:
    """Return increasing fractions from 0 to 1.

    A number of equal steps, or the fractions, to which 0 and 1 are added where they are missing.
    """
    found = listed(steps)
    if not isinstance(found, list):
        count = positive_integer(name, steps)
        if count > _MOST_STEPS:
            raise ValueError(
                f"{name} must be at most {_MOST_STEPS:,}, is {shown(steps)}: more than there are "
                "elements change nothing"
            )
        return [step / count for step in range(count + 1)]
    inner = [finite_number(name, value) for value in found]
    if any(not 0 <= value <= 1 for value in inner):
        raise ValueError(f"{name} must lie between 0 and 1, is {inner}")
    if any(second <= first for first, second in pairwise(inner)):
        raise ValueError(f"{name} must increase, is {inner}")
    return sorted({0.0, *inner, 1.0})


def without_channel(s: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Drop an axis of one channel, first or last, where that gives ``shape``, (n, \\*spatial)."""
    for axis in (1, -1):
        if s.ndim == len(shape) + 1 and s.shape[axis] == 1:
            squeezed = s.squeeze(axis)
            if tuple(squeezed.shape) == shape:
                return squeezed
    return s


def segments(name: str, s: object, x: Tensor) -> Tensor:
    """Return integer segment ids of samples as a tensor, without an axis of one channel.

    Raises
    ------
    TypeError
        If they are no integers.
    """
    ids = s if isinstance(s, Tensor) else torch.from_numpy(np.array(array_of(name, s)))
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must hold integer segment ids, has dtype {ids.dtype}")
    return without_channel(ids, (len(x), *(x.shape[2:] or x.shape[1:])))


def seed(value: object, name: str = "seed") -> int | None:
    """Return a seed: an integer of at least 0, or None."""
    return optional(fixed_seed, name, value)


def fixed_seed(name: str, value: object) -> int:
    """Return a seed that is no fresh randomness: an integer of at least 0."""
    if value is None:
        raise TypeError(f"{name} must be an integer of at least 0, is None")
    return _integer(name, value, least=0)


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))}, is {shown(value)}"
        )


def _integer(name: str, value: Any, *, least: int) -> int:
    number: Any = plain(value)
    if isinstance(number, (bool, np.ndarray, Tensor)):
        raise TypeError(f"{name} must be an integer, is {shown(value)}")
    try:
        found = operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be an integer, is {shown(value)}") from None
    if found < least:
        raise ValueError(f"{name} must be at least {least}, is {shown(number)}")
    if found > sys.maxsize:
        # What torch and NumPy count with.
        raise ValueError(f"{name} must be below 2**63, is {shown(number)}")
    return found


def inputs(x: Tensor, name: str = "x_batch") -> None:
    """Check the inputs: 2 to 5 dimensions, at least one sample, finite."""
    if x.ndim not in (2, 3, 4, 5):
        raise ValueError(
            f"{name} must have shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W), has "
            f"{tuple(x.shape)}"
        )
    if x.numel() == 0:
        raise ValueError(f"{name} must hold at least one sample and value, has {tuple(x.shape)}")
    all_finite(name, x)


def token_ids(x: Tensor, name: str = "x_batch") -> Tensor:
    """Return token ids as int64; whole numbers in another type are taken."""
    if x.ndim != 2:
        raise ValueError(f"{name} must hold token ids of shape (n, L), has {tuple(x.shape)}")
    ids = x.long()
    wrong = ((ids != x) | (ids < 0)).any(1)
    if bool(wrong.any()):
        sample = int(wrong.nonzero()[0, 0])
        raise ValueError(f"{name} must hold integer ids of at least 0, not so in sample {sample}")
    return ids


def all_finite(name: str, values: Tensor, index: Tensor | None = None) -> None:
    """Raise ValueError naming the first sample with a value that is NaN or infinite.

    ``index`` has the samples' numbers, by default from 0.
    """
    finite = values.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0, 0])
        sample = place if index is None else int(index[place])
        raise ValueError(f"{name} must be finite, holds NaN or infinity first in sample {sample}")


def attributions(
    a: Tensor,
    x: Tensor,
    name: str = "a_batch",
    *,
    index: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Return attributions with a channel axis where the inputs have one.

    Parameters
    ----------
    a : Tensor
        Of ``x``'s shape, with one channel, or without the channel axis. For token ids (n, L) also
        over embeddings, (n, L, D), which are summed.
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W), or integers (n, L)
    name : str, default "a_batch"
        Of the argument, for errors.
    index : Tensor, int64, shape (n,), optional
        The samples' numbers, for errors; by default from 0.
    counted : Tensor of bool, broadcasting to the result, optional
        Which values count: the others become 0, whatever they are.

    Returns
    -------
    Tensor, shape of ``x`` or (n, 1, \\*spatial)

    Raises
    ------
    ValueError
        If the shape fits none of these, or a value is not finite.
    """
    if not x.is_floating_point() and a.ndim == 3 and a.shape[:2] == x.shape:
        a = a.sum(-1)
    allowed = {tuple(x.shape)}
    if x.ndim > 2:
        one_channel = (len(x), 1, *x.shape[2:])
        allowed |= {one_channel, (len(x), *x.shape[2:])}
        if a.ndim == x.ndim - 1 and tuple(a.shape) in allowed:
            a = a.unsqueeze(1)
    if tuple(a.shape) not in allowed:
        shapes = " or ".join(map(str, sorted(allowed, key=len, reverse=True)))
        raise ValueError(
            f"{name} must have shape {shapes} for these inputs, has {tuple(a.shape)}"
            f"{_way_out(name, tuple(a.shape), tuple(x.shape), allowed)}"
        )
    if counted is not None:
        a = a.where(counted, 0.0)
    all_finite(name, a, index)
    return a


def _way_out(
    name: str, a: tuple[int, ...], x: tuple[int, ...], allowed: set[tuple[int, ...]]
) -> str:
    """Say what a shape of attributions that doesn't fit looks like, if it looks like anything."""
    if len(a) == len(x) > 2 and (a[0], a[-1], *a[1:-1]) in allowed:
        return f": put the channels before the rest, np.moveaxis({name}, -1, 1)"
    samples = f"np.arange({x[0]})"
    for axis, chosen in (
        (len(a) - 1, f"{name}[{samples}, ..., y_batch]"),
        (1, f"{name}[{samples}, y_batch]"),
        (0, f"np.asarray({name})[y_batch, {samples}]"),
    ):
        if a[:axis] + a[axis + 1 :] in allowed:
            return f": of an axis of classes, axis {axis}, pick the explained class, {chosen}"
    coarse = a[2:] if len(a) == len(x) and a[1] == 1 else a[1:]
    if a[:1] == x[:1] and len(coarse) == len(x) - 2 > 0:
        return _of_another_resolution(name, coarse, x[2:], has_channel=len(a) == len(x))
    return ""


def _of_another_resolution(
    name: str, coarse: tuple[int, ...], spatial: tuple[int, ...], *, has_channel: bool
) -> str:
    """Say how a map of another resolution is taken, or made one of the inputs'."""
    by_patch = ""
    for side in range(2, max(spatial) + 1):
        if tuple(-(-length // side) for length in spatial) == coarse:
            by_patch = f", or in a metric that has it pass patch_size={side}"
            break
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(coarse)]
    added, dropped = ("", "") if has_channel else ("[:, None]", "[:, 0]")
    return (
        ": of another resolution, interpolate it, torch.nn.functional.interpolate("
        f"torch.as_tensor({name}){added}, {spatial}, mode={mode!r}){dropped}{by_patch}"
    )


def labels(y: object, n: int, name: str = "y_batch") -> np.ndarray:
    """Return labels as int64: n integers of at least 0, from a column or whole floats as well.

    Raises
    ------
    TypeError, ValueError
        If they are no whole numbers, of another number, or negative.
    """
    array = array_of(name, y)
    if array.ndim == 2 and array.shape[1:] != (1,) and len(array) == n:
        raise ValueError(
            f"{name} must have shape ({n},), one label for each sample, has {array.shape}: of "
            "one-hot labels or outputs pass their argmax(1); for k classes of each sample pass "
            "y_batch as an array and their maps as a_batch, shape (n, k, …) with an axis of "
            "channels where x_batch has one"
        )
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    return _indices(name, array, n, "labels")


def n_classes(x: object, y: object, a: object) -> int | None:
    """Return how many classes of each sample a call is about; None for one, as ever.

    They need labels (n, k) and maps (n, k, …) with an axis more than the inputs. With a single
    class, maps (n, 1, c) of a table with one feature are SHAP values of c classes.

    Raises
    ------
    ValueError
        If maps of several classes lack the axis of channels that the inputs have.
    """
    of_x, of_y, of_a = (tuple(getattr(value, "shape", ())) for value in (x, y, a))
    if len(of_y) == 2 and of_y[1] > 1 and len(of_a) == len(of_x) > 2 and of_a[:2] == of_y:
        raise ValueError(
            f"a_batch must have an axis of channels after that of classes, ({of_y[0]}, {of_y[1]}, "
            f"1, …), for y_batch of shape {of_y}, has shape {of_a}: pass a_batch[:, :, None], or "
            "if y_batch holds one-hot labels their argmax(1)"
        )
    if len(of_y) != 2 or len(of_a) != len(of_x) + 1 or of_a[:2] != of_y:
        return None
    if of_x[1:] == of_y[1:] == (1,):
        return None
    return int(of_y[1])


def targets(
    y: object, n: int, k: int, name: str = "y_batch", *, distinct: bool = True
) -> np.ndarray:
    """Return k labels for each of n samples, different unless said, int64, shape (n, k)."""
    array = array_of(name, y)
    if array.shape != (n, k):
        raise ValueError(
            f"{name} must have shape ({n}, {k}), a class for each map of each sample, has "
            f"{array.shape}"
        )
    columns = [labels(column, n, name) for column in array.T]
    found = np.stack(columns, 1)
    ordered = np.sort(found, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if distinct and repeated.any():
        sample = int(np.flatnonzero(repeated)[0])
        raise ValueError(
            f"{name} must hold different classes for each sample, has {found[sample].tolist()} for "
            f"sample {sample}: of one-hot labels pass their argmax(1)"
        )
    return found


def sample_indices(index: object, n: int) -> np.ndarray:
    """Return global sample indices as int64, from what labels may be, but no truth values."""
    return _indices("index_batch", array_of("index_batch", index), n, "indices")


def _indices(name: str, array: np.ndarray, n: int, what: str) -> np.ndarray:
    """Return n whole numbers of at least 0 as int64."""
    if array.shape == (n, 1):
        array = array[:, 0]
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one for each sample, has {array.shape}")
    array = whole(name, array)
    if (array < 0).any():
        sample = int(np.flatnonzero(array < 0)[0])
        raise ValueError(
            f"{what} in {name} must be at least 0, sample {sample} has {array[sample]}"
        )
    return array


def whole(name: str, values: Any) -> NDArray[np.int64]:
    """Return integers as int64, from whole floats as well."""
    array = array_of(name, values)
    is_whole = array.dtype.kind == "f" and np.isfinite(array).all()
    if array.dtype.kind not in "iu" and not (is_whole and (array == np.trunc(array)).all()):
        raise TypeError(f"{name} must hold integers, has dtype {array.dtype}")
    _below_int64(name, array)
    return array.astype(np.int64)


def _below_int64(name: str, array: np.ndarray) -> None:
    """Raise ValueError for whole numbers that would become others as int64."""
    large = np.flatnonzero(np.abs(array.astype(np.float64)) >= 2.0**63)
    if len(large):
        raise ValueError(
            f"{name} must hold integers below 2**63, holds {array.flat[large[0]]:.0f} in sample "
            f"{large[0]}"
        )


def float64(name: str, values: Any) -> NDArray[np.float64]:
    """Return numbers of any form as an array of double precision; NaN stays."""
    return array_of(name, values).astype(np.float64)


def column(name: str, values: Any) -> NDArray[np.float64]:
    """Return the same as :func:`float64`, of a table with one column that column."""
    found = float64(name, values)
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def samples(name: str, values: Any, n: int) -> None:
    """Raise ValueError unless the first axis of an array has n samples."""
    if not values.ndim or len(values) != n:
        raise ValueError(
            f"{name} must hold one item for each of the {n} samples, has shape "
            f"{tuple(values.shape)}"
        )


def entries(name: str, values: object, n: int | None = None) -> list[Any]:
    """Return what a sequence or a data set holds, of each sample one.

    Raises
    ------
    TypeError, ValueError
        If it is none, or holds another number than ``n``.
    """
    # A number of NumPy's or torch's is iterable by its type.
    no_sequence = isinstance(values, (str, bytes, Mapping)) or getattr(values, "ndim", 1) == 0
    if no_sequence or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence with one for each sample, is {shown(values)}")
    found = list(values)
    if n not in (None, len(found)):
        raise ValueError(f"{name} must hold one for each of {n} samples, holds {len(found)}")
    return found


def mask(name: str, values: Any) -> np.ndarray | Tensor:
    """Return truth values, from True and False or from 1 and 0; of a tensor a tensor.

    Raises
    ------
    TypeError, ValueError
        If it holds anything else.
    """
    found = numbers_of(name, values)
    if bool(((found != 0) & (found != 1)).any()):
        raise ValueError(f"{name} must hold nothing but 0 and 1, or False and True")
    return found.bool() if isinstance(found, Tensor) else found.astype(bool)


def is_rows(values: object) -> bool:
    """Whether Quantus would slice values batch by batch."""
    return isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, str)


def rows_for_samples(name: str, values: Any, n: int) -> None:
    """Raise ValueError unless what is sliced batch by batch has a row for each of n samples."""
    if isinstance(values, np.ndarray):
        samples(name, values, n)
    elif is_rows(values) and len(values) != n:
        raise ValueError(
            f"{name} must hold one item for each of the {n} samples, holds {len(values)}"
        )


def labels_below(
    y: np.ndarray, classes: int, name: str = "y_batch", index: np.ndarray | Tensor | None = None
) -> None:
    """Raise ValueError naming the first sample whose label is not below ``classes``.

    ``index`` has the samples' numbers, by default 0, …
    """
    if y.ndim == 2:
        for column in y.T:
            labels_below(column, classes, name, index)
    elif (y >= classes).any():
        sample = int(np.flatnonzero(y >= classes)[0])
        raise ValueError(
            f"labels in {name} must be below {classes}, the model's number of classes; "
            f"sample {sample if index is None else int(index[sample])} has {y[sample]}"
        )


def other_classes(other: object, n: int) -> NDArray[np.int64]:
    """Return the class that each of n samples is contrasted with, from one for all or each."""
    given = array_of("other_class", other)
    return _indices("other_class", np.full(n, given) if given.ndim == 0 else given, n, "labels")


def others(y: np.ndarray, other: np.ndarray, classes: int, index: Tensor) -> None:
    """Raise ValueError where a class to contrast with is not there, or the explained one itself.

    Parameters
    ----------
    y : numpy.ndarray of int, shape (n,) or (n, k)
    other : numpy.ndarray of int, shape (n,)
    classes : int
    index : Tensor of int, shape (n,)
        The samples' numbers.
    """
    labels_below(other, classes, "other_class", index)
    same = y.reshape(len(y), -1) == other[:, np.newaxis]
    if same.any():
        sample = int(np.flatnonzero(same.any(1))[0])
        raise ValueError(
            f"other_class must be another than the explained class, is {other[sample]} for sample "
            f"{int(index[sample])}, as in y_batch: leave other_class out for the most probable "
            "other class"
        )


def no_softmax_of_one(softmax: bool, classes: int) -> None:
    """Raise ValueError where probabilities are asked of a model with one output."""
    if softmax and classes == 1:
        raise ValueError(
            "softmax must be False where the model has one output, whose softmax is always 1; for "
            "a binary logit use adapters.BinaryLogit"
        )


def evaluation_mode(model: torch.nn.Module, name: str = "model") -> None:
    """Raise ValueError if the model, or a part of it, is in training mode.

    A frozen script or an exported program was made in a mode, and has none of its own.
    """
    for part, module in parts_with_mode(model):
        if module.training:
            where = f" (its submodule {part!r} is not)" if part else ""
            raise ValueError(f"{name} must be in evaluation mode, call its eval(){where}")
    if any(map(exported_in_training, model.modules())):
        raise ValueError(
            f"{name} must be exported in evaluation mode, is in training mode: call eval() of what "
            "it was exported from, and export that again"
        )


def torch_device(name: str, value: object) -> torch.device:
    """Return a torch device, or the one that a text names."""
    if isinstance(value, torch.device):
        return value
    try:
        return torch.device(text(name, value))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name} must name a torch device, as 'cpu' or 'cuda:0', is {shown(value)}"
        ) from error


def resolve_device(
    model: torch.nn.Module, device: str | torch.device | None, name: str = "model"
) -> torch.device:
    """Return the device of the model's weights, or ``device`` for a model without any.

    Raises
    ------
    ValueError
        If ``device`` is another than the model's, or a part of the model is on none.
    """
    tensors = [*model.parameters(), *model.buffers()]
    wanted = optional(torch_device, "device", device)
    if not tensors:
        return wanted or torch.device("cpu")
    for part, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.device.type == "meta":
            raise ValueError(
                f"{name} must be on a device, its {part!r} is on 'meta', where tensors have no "
                "values: load it, or delete it if it is not used"
            )
    actual = tensors[0].device
    if wanted is not None and not _same_device(wanted, actual):
        raise ValueError(f"device is {str(wanted)!r} but the model is on {str(actual)!r}")
    return actual


def _same_device(one: torch.device, other: torch.device) -> bool:
    # "cuda" without a number is whichever it is.
    numbers = {one.index, other.index} - {None}
    return one.type == other.type and len(numbers) <= 1


def on_device(name: str, values: object, device: torch.device) -> None:
    """Raise ValueError if ``values`` is a tensor on another device; arrays go anywhere."""
    if isinstance(values, Tensor) and not _same_device(values.device, device):
        raise ValueError(f"{name} is on {str(values.device)!r} but the model is on {str(device)!r}")
