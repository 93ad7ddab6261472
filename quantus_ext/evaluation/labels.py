"""Names of samples, tokens, columns and classes, shown with the cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.batch import features_of
from quantus_ext.evaluation.case import Case
from quantus_ext.evaluation.rows import Data

_MOST_READ = 1000
"""Samples from which the mean and spread of a table's columns are taken."""


@dataclass(frozen=True)
class Labels:
    """The names to show in place of numbers.

    Attributes
    ----------
    adapter : Adapter
        The model's adapter, which knows padding, and often tokens or columns.
    names : list of str or None
        Of the samples.
    tokens : list of list of str, callable or None
        Of each text; or what makes them of a list of ids.
    feature_names : list of str or None
        Of the columns of a table, or of the channels of series.
    class_names : mapping of int to str, or None
    channels_last : bool
        Whether inputs and maps have their channels last.
    """

    adapter: Adapter
    names: Sequence[str] | None
    tokens: Sequence[Sequence[str]] | Callable[[list[int]], Sequence[str]] | None
    feature_names: Sequence[str] | None
    class_names: Mapping[int, str] | None
    channels_last: bool

    @classmethod
    def of(
        cls,
        adapter: Adapter,
        x_batch: Any,
        data: Data,
        *,
        names: Any,
        tokens: Any,
        feature_names: Any,
        class_names: Any,
        channels_last: bool,
    ) -> Labels:
        """Take the arguments of :func:`quantus_ext.evaluate`.

        Raises
        ------
        TypeError, ValueError
            If they do not fit the samples.
        """
        shape = (len(data), *data.x.part(0, 1).read().shape[1:])
        if names is not None:
            names = _texts("names", names, len(data), "sample")
        if tokens is None:
            tokenizer = getattr(adapter, "tokenizer", None)
            if tokenizer is not None:
                # An adapter's own: ids in its rows can say more than which token.
                own = getattr(tokenizer, "convert_ids_to_tokens", None)
                tokens = getattr(adapter, "tokens", own)
        else:
            tokens = _tokens(tokens, shape)
        if feature_names is not None:
            if len(shape) not in (2, 3):
                raise ValueError(
                    "feature_names must be left out unless inputs are tables (n, F) or series "
                    f"(n, C, T), which have columns or channels; inputs have the shape {shape}"
                )
            axis = 2 if channels_last and len(shape) == 3 else 1
            of = "channel" if len(shape) == 3 else "column"
            feature_names = _texts("feature_names", feature_names, shape[axis], of)
        elif len(shape) == 2:
            columns = adapter.column_names(x_batch)
            feature_names = None if columns is None else [str(name) for name in columns]
        if class_names is not None:
            class_names = _classes(class_names, data.y.read())
        return cls(adapter, names, tokens, feature_names, class_names, channels_last)

    def cases(self, numbers: Iterable[int], data: Data) -> Iterator[Case]:
        """Yield samples with their labels, without maps.

        Parameters
        ----------
        numbers : iterable of int
            Of the samples.
        data : Data
            All samples, in the caller's order.
        """
        typical = None
        for number in numbers:
            x = np.array(data.x.part(number, number + 1).read()[0])
            y = int(data.y.part(number, number + 1).read().flat[0])
            if x.ndim == 1 and typical is None:
                typical = _typical(data)
            x = np.moveaxis(x, -1, 0) if self.channels_last and x.ndim > 1 else x
            yield Case(
                number,
                x,
                y,
                {},
                name=None if self.names is None else self.names[number],
                class_name=None if self.class_names is None else self.class_names[y],
                tokens=self._tokens(number, x),
                feature_names=self._feature_names(x),
                values=self._values(x),
                typical=typical,
                inside=self._inside(x),
            )

    def with_maps(self, cases: Sequence[Case], found: Sequence[Case]) -> tuple[Case, ...]:
        """Return cases with the maps of the same samples that an evaluation has kept."""
        return tuple(
            replace(case, maps={name: self._first(a, kept.x) for name, a in kept.maps.items()})
            for case, kept in zip(cases, found, strict=True)
        )

    def _first(self, a: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Return a map with its channels first, as the sample has them."""
        last = self.channels_last and x.ndim > 1 and a.shape == x.shape
        return np.moveaxis(a, -1, 0) if last else a

    def _tokens(self, number: int, x: NDArray[Any]) -> tuple[str, ...] | None:
        """Return the tokens of a text."""
        if self.tokens is None or x.ndim != 1:
            return None
        if not callable(self.tokens):
            return tuple(self.tokens[number])
        found = self.tokens(x.astype(int).tolist())
        return tuple(_texts(f"tokens of sample {number}", found, len(x), "id"))

    def _feature_names(self, x: NDArray[Any]) -> tuple[str, ...] | None:
        """Return the names of columns or channels."""
        if self.feature_names is not None:
            return tuple(self.feature_names)
        decoded = self._decoded(x)
        return None if decoded is None else tuple(map(str, decoded.columns))

    def _values(self, x: NDArray[Any]) -> tuple[str, ...] | None:
        """Return the values of a table's row that are no numbers, as the caller has them."""
        decoded = self._decoded(x)
        return None if decoded is None else tuple(map(str, decoded.iloc[0]))

    def _decoded(self, x: NDArray[Any]) -> Any:
        if x.ndim != 1:
            return None
        decoded = self.adapter.decoded(x[None])
        return decoded if hasattr(decoded, "columns") else None

    def _inside(self, x: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return which positions metrics remove or count; padding is not."""
        features = features_of(self.adapter, torch.as_tensor(x[None]))
        return None if features is None else (features[0] >= 0).cpu().numpy()


def _texts(name: str, values: Any, n: int, what: str) -> list[str]:
    """Return texts, one for each of n things."""
    if isinstance(values, str):
        raise TypeError(f"{name} must hold one text for each {what}, is the text {values!r}")
    found = checks.items(name, values)
    if len(found) != n:
        raise ValueError(f"{name} must hold one text for each {what}, {n}; holds {len(found)}")
    wrong = next((place for place, each in enumerate(found) if not isinstance(each, str)), None)
    if wrong is not None:
        raise TypeError(f"{name} must hold texts, holds {checks.shown(found[wrong])} at {wrong}")
    return [str(each) for each in found]


def _tokens(tokens: Any, shape: tuple[int, ...]) -> Any:
    """Return the tokens of all texts, or what makes them."""
    if len(shape) != 2:
        raise ValueError(
            f"tokens must be left out unless inputs are ids of tokens (n, L), have shape {shape}"
        )
    if callable(tokens):
        return tokens
    found = checks.items("tokens", tokens)
    if len(found) != shape[0]:
        raise ValueError(
            f"tokens must hold a list for each of the {shape[0]} texts, holds {len(found)}"
        )
    return [_texts(f"tokens[{i}]", each, shape[1], "id") for i, each in enumerate(found)]


def _classes(names: Any, y: NDArray[Any]) -> dict[int, str]:
    """Return the names of classes by their numbers."""
    if isinstance(names, Mapping):
        found = {checks.integer("classes of class_names", c): name for c, name in names.items()}
        _texts("class_names", list(found.values()), len(found), "class")
    else:
        given = checks.items("class_names", names)
        found = dict(enumerate(_texts("class_names", given, len(given), "class")))
    missing = sorted({*np.unique(y).tolist()} - {*found})
    if missing:
        raise ValueError(
            "class_names must have a name for each class in y_batch, lacks "
            f"{', '.join(map(str, missing))}"
        )
    return found


def _typical(data: Data) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of a table's columns."""
    n = len(data)
    places = np.unique(np.linspace(0, n - 1, min(n, _MOST_READ)).round().astype(int))
    rows = np.concatenate([data.x.part(place, place + 1).read() for place in places.tolist()])
    return rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
