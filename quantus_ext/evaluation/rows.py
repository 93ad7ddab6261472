"""Samples in memory or in a file, of which a part can travel and be read where it is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from quantus_ext import checks
from quantus_ext.arrays import array_of, is_explanation, native
from quantus_ext.batch import segmentations_of
from quantus_ext.identity import content_key

_BLOCK = 256
"""Samples read at a time where all are only looked at."""


@dataclass(frozen=True)
class Rows:
    """Samples ``start`` to ``stop - 1`` of an array or of an ``.npy`` file.

    Attributes
    ----------
    source : array or Path
        Whatever has a length, a shape and slices; or a file, which every machine that works on it
        must see under this name.
    start, stop : int
    order : numpy.ndarray of int, optional
        Which rows of the source these are, where they are in another order; ``start`` and ``stop``
        then count along it.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.evaluation.rows import Rows
    >>> rows = Rows.of("x_batch", np.arange(10))
    >>> len(rows), rows.part(2, 5).read().tolist()
    (10, [2, 3, 4])
    """

    source: Any
    start: int
    stop: int
    order: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, name: str, values: Any) -> Rows:
        """Take an argument: array, tensor, table, list, or the path of an ``.npy`` file.

        Raises
        ------
        TypeError
            If it is none of these; ``name`` is the argument's.
        FileNotFoundError, ValueError
            If there is no such file, or it is no ``.npy`` file.
        """
        if isinstance(values, (str, os.PathLike)):
            return cls._of_file(name, values)
        if not isinstance(values, np.memmap) and (
            isinstance(values, (np.ndarray, Tensor, list, tuple, pd.DataFrame, pd.Series))
            or any(hasattr(values, other) for other in ("get_columns", "toarray"))
            or is_explanation(values)
        ):
            # What is read bit by bit stays where it is.
            values = array_of(name, values)
        if not hasattr(values, "shape") or not len(values.shape) or not hasattr(values, "dtype"):
            raise TypeError(
                f"{name} must be an array, a tensor or the path of an .npy file, is "
                f"{type(values).__name__}"
            )
        return cls(values, 0, len(values))

    @classmethod
    def _of_file(cls, name: str, values: str | os.PathLike[str]) -> Rows:
        path = Path(checks.address(name, values)).resolve()
        rule = f"{name} must be an array or tensor, or the path of an .npy file of samples"
        try:
            found = np.load(path, mmap_mode="r")
        except OSError as error:
            raise type(error)(f"{rule}, is {str(values)!r}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{rule}, is {str(values)!r}: {error}") from error
        if not isinstance(found, np.ndarray) or found.ndim == 0:
            raise ValueError(f"{rule}, is {path}")
        if found.dtype.kind not in "biuf":
            raise TypeError(f"{name} must hold real numbers, {path} holds {found.dtype}")
        return cls(path, 0, len(found))

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Rows:
        """Return samples ``start`` to ``stop - 1`` of these, and no more than those of an array."""
        first, last = self.start + start, self.start + stop
        if isinstance(self.source, Path):
            if self.order is None:
                return Rows(self.source, first, last)
            return Rows(self.source, 0, stop - start, self.order[first:last])
        return Rows(self._rows(self.source, first, last), 0, stop - start)

    def in_order(self, order: NDArray[np.int64]) -> Rows:
        """Return all of them in another order, that of their numbers."""
        return Rows(self.source, 0, len(order), self._numbers()[order])

    def _numbers(self) -> NDArray[np.int64]:
        """Return which rows of the source these are."""
        if self.order is None:
            return np.arange(self.start, self.stop)
        return self.order[self.start : self.stop]

    def _rows(self, source: Any, start: int, stop: int) -> Any:
        """Return rows of what the source holds."""
        if self.order is None:
            return source[start:stop]
        places = self.order[start:stop]
        if isinstance(source, np.ndarray):
            return source[places]
        # Not everything that slices takes a list of places.
        return np.concatenate([np.asarray(source[place : place + 1]) for place in places])

    def read(self) -> np.ndarray:
        """Return them as an array; what is read from a file is in memory then."""
        if isinstance(self.source, Path):
            mapped = np.load(self.source, mmap_mode="r")
            return native(np.array(self._rows(mapped, self.start, self.stop)))
        # In order, because torch takes no negative strides.
        rows = self._rows(self.source, self.start, self.stop)
        return np.ascontiguousarray(native(np.asarray(rows)))

    def key(self) -> str:
        """Return what they are known by, in memory or in a file: their content."""
        blocks = (
            self.part(start, min(start + _BLOCK, len(self)))
            for start in range(0, len(self), _BLOCK)
        )
        return content_key([content_key(block.read()) for block in blocks])


@dataclass(frozen=True)
class Data:
    """The samples of an evaluation, their explained classes, and their segmentations.

    Attributes
    ----------
    x : Rows
    y : Rows
        Of shape (n,), or (n, k) for k classes of each sample.
    s : Rows or None
    """

    x: Rows
    y: Rows
    s: Rows | None

    @classmethod
    def of(cls, x_batch: Any, y_batch: Any, s_batch: Any, *, several: bool = False) -> Data:
        """Take the arguments of :func:`quantus_ext.evaluate`.

        With ``several`` classes of each sample, :meth:`with_classes` says later which.

        Raises
        ------
        TypeError, ValueError
            If they are nothing of that, or have not as many rows.
        """
        if several and y_batch is not None:
            raise ValueError(
                "y_batch must be None where targets says which classes are explained: pass one of "
                "them"
            )
        if y_batch is None and not several:
            raise TypeError(
                "y_batch must hold the explained classes, is None: for several of each sample "
                "pass targets"
            )
        x = Rows.of("x_batch", x_batch)
        n = len(x)
        if n == 0:
            raise ValueError("x_batch must hold at least one sample, is empty")
        y = Rows.of("y_batch", np.zeros(n, dtype=np.int64) if several else y_batch)
        if len(y) != n:
            raise ValueError(f"y_batch must have {n} rows, as x_batch has, has {len(y)}")
        s = None
        if s_batch is not None:
            checks.rows_for_samples("s_batch", s_batch, n)
            if isinstance(s_batch, (list, tuple)):
                s_batch = segmentations_of(s_batch)
            s = None if s_batch is None else Rows.of("s_batch", s_batch)
        if s is not None and len(s) != n:
            raise ValueError(f"s_batch must have {n} rows, as x_batch has, has {len(s)}")
        return cls(x, Rows.of("y_batch", checks.labels(y.read(), n)), s)

    def __len__(self) -> int:
        return len(self.x)

    def with_classes(self, classes: NDArray[np.int64]) -> Data:
        """Return the samples with several explained classes of each, shape (n, k)."""
        return Data(self.x, Rows.of("targets", classes), self.s)

    def part(self, start: int, stop: int) -> tuple[Rows, Rows, Rows | None]:
        """Return what belongs to samples ``start`` to ``stop - 1``."""
        s = None if self.s is None else self.s.part(start, stop)
        return self.x.part(start, stop), self.y.part(start, stop), s

    def in_order(self, order: NDArray[np.int64]) -> Data:
        """Return all samples in another order, that of their numbers."""
        s = None if self.s is None else self.s.in_order(order)
        return Data(self.x.in_order(order), self.y.in_order(order), s)
