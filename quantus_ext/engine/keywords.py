"""What a model gets beside its rows: shared by all of them, or with an entry for each sample."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext.engine.modules import with_keywords
from quantus_ext.engine.outputs import ScoresOf
from quantus_ext.engine.rows import PerSample, Shared, belonging_to, exchanged, is_marked

_COPIES = 4
"""Rows of one sample, at least, that must be answered alike."""
_MOST_TOLD = 3
"""Values with an entry for each sample, of which every combination is tried."""
MOST_ASKED = 256
"""Samples up to which all are asked at once, as a caller would, where nothing else tells."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device)

Shapes = dict[str, tuple[int, ...]]
Place = tuple[Any, ...]
"""Keys and positions that lead to a value."""


@dataclass(frozen=True)
class _Asked:
    """A model with keywords, and the samples that it is asked about.

    Attributes
    ----------
    model : nn.Module
    x : Tensor, shape (n or fewer, \\*sample)
    n : int
        Samples of the call.
    copies : int
        Of one sample: another number than anything has entries.
    """

    model: nn.Module
    x: Tensor
    n: int
    copies: int

    def __call__(self, keywords: Mapping[str, Any], rows: Tensor, numbers: Tensor) -> Any:
        with torch.no_grad(), belonging_to(numbers):
            # A copy, for a model may write to its inputs.
            return ScoresOf(with_keywords(self.model, keywords))(rows.clone())

    def of_copies(self, keywords: Mapping[str, Any], sample: int = 0) -> Any:
        """Return the outputs for copies of one sample."""
        rows = self.x[sample : sample + 1].expand(self.copies, *self.x.shape[1:])
        return self(keywords, rows, torch.full((self.copies,), sample, device=self.x.device))


def told_apart(
    model: nn.Module,
    keywords: Mapping[str, Any] | None,
    x: Tensor,
    *,
    n: int | None = None,
    sizes: Collection[int] = (),
) -> Mapping[str, Any] | None:
    r"""Return keywords of a model with those marked that have an entry for each sample.

    Perturbed rows go through the model in chunks of any size and order, so that what belongs to
    single samples has to go along with their rows. Values with n entries may do so, or be shared,
    as the adjacency of a graph that happens to have a node for each sample. The model is asked
    about copies of one sample, of another number than anything has entries: read rightly, it
    answers all of them alike, and as when it is asked about all samples at once.

    Parameters
    ----------
    model : torch.nn.Module
    keywords : mapping, optional
        Of the model's own call. Plain values are not looked at; what is marked
        (:class:`~quantus_ext.adapters.PerSample`, :class:`~quantus_ext.adapters.Shared`) is read
        as it says.
    x : Tensor, shape (n, \*sample)
        Inputs as the model gets them, or the first of them.
    n : int, optional
        Number of samples, by default that of ``x``.
    sizes : collection of int
        Further numbers of entries to suspect besides n.

    Raises
    ------
    ValueError
        If the model does not answer, or not alike, however values are read, or if they can be read
        in two ways that make a difference.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.keywords import told_apart
    >>> class Masked(torch.nn.Module):
    ...     def forward(self, x, mask):
    ...         return x * mask
    >>> x = torch.ones(3, 2)
    >>> [
    ...     type(told_apart(Masked(), {"mask": torch.ones(shape)}, x)["mask"]).__name__
    ...     for shape in [(2,), (3, 1)]
    ... ]
    ['Tensor', 'PerSample']
    """
    if not keywords:
        return keywords
    n = len(x) if n is None else n
    shapes: Shapes = {}
    candidates: list[Place] = []
    for name, value in keywords.items():
        _collect((name,), value, n, shapes, candidates)
    if not shapes:
        return keywords
    suspected = {n, *sizes}
    lengths = {length for shape in [*shapes.values(), tuple(x.shape)] for length in shape}
    copies = next(k for k in itertools.count(_COPIES) if k not in lengths | suspected)
    asked = _Asked(model, x, n, copies)
    readings = []
    refusal: ValueError | None = None
    for chosen in _combinations(candidates):
        reading = {key: _marked((key,), value, chosen) for key, value in keywords.items()}
        try:
            what = _what_is_wrong(asked, reading)
        except TypeError:
            # Of names rather than entries: soon an error of the model's own.
            return keywords
        if what is None:
            readings.append(reading)
        elif refusal is None:
            refusal = _refusal(shapes, suspected, what, copies)
    if not readings:
        assert refusal is not None
        raise refusal
    return _the_one(asked, keywords, readings, [_named(place) for place in candidates])


def part_of(keywords: Mapping[str, Any], rows: slice | NDArray[np.int64]) -> dict[str, Any]:
    """Return keywords for some of the samples.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.keywords import part_of
    >>> from quantus_ext.engine.rows import PerSample
    >>> part_of({"mask": PerSample(torch.arange(4)), "scale": 2.0}, slice(1, 3))
    {'mask': PerSample(values=tensor([1, 2])), 'scale': 2.0}
    """

    def cut(marked: PerSample | Shared) -> PerSample | Shared:
        return PerSample(marked.values[rows]) if isinstance(marked, PerSample) else marked

    return {name: exchanged(value, cut) for name, value in keywords.items()}


def all_marked(keywords: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return keywords with all marked that is shared, so that no part is told apart again."""
    return {
        name: value if is_marked(value) else Shared(value)
        for name, value in (keywords or {}).items()
    }


def plain(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords without marks, as a model gets them of all samples at once."""
    return {
        name: exchanged(value, lambda marked: marked.values) for name, value in keywords.items()
    }


def check_shared(keywords: Mapping[str, Any] | None) -> None:
    """Raise ValueError if keywords hold what is marked as having an entry for each sample."""
    if is_marked(keywords, (PerSample,)):
        raise ValueError(
            "model_predict_kwargs must be shared by all samples for a metric of another package, "
            "which asks the model about rows without saying whose they are: put what belongs to "
            "single samples into x_batch, as further features or channels that a module around "
            "the model takes off again"
        )


def _combinations(candidates: list[Place]) -> Iterator[frozenset[Place]]:
    """Yield which values may have entries of samples: none first, then all, then some."""
    sizes = [0, len(candidates)] if candidates else [0]
    if len(candidates) <= _MOST_TOLD:
        sizes += range(1, len(candidates))
    for size in sizes:
        yield from map(frozenset, itertools.combinations(candidates, size))


def _what_is_wrong(asked: _Asked, keywords: Mapping[str, Any]) -> str | None:
    """Return what the model does that it must not for copies of a sample, None if nothing."""
    try:
        outputs = asked.of_copies(keywords)
    except TypeError:
        raise
    except Exception as error:
        return f"fails ({error})"
    if not isinstance(outputs, Tensor):
        # Soon an error, where outputs are checked.
        return None
    if len(outputs) != asked.copies:
        return f"gives {len(outputs)} outputs"
    # A model that answers by chance doesn't answer the same rows alike.
    first = outputs[:1].expand_as(outputs)
    if not _alike(outputs, first) and _alike(outputs, asked.of_copies(keywords)):
        return "gives different outputs"
    return None


def _the_one(
    asked: _Asked,
    keywords: Mapping[str, Any],
    readings: list[dict[str, Any]],
    names: list[str],
) -> Mapping[str, Any]:
    """Return the reading that answers as the caller's own call of all samples at once does."""
    if len(readings) == 1:
        return readings[0]
    alone = [asked.of_copies(reading) for reading in readings]
    if not all(isinstance(each, Tensor) for each in alone):
        return keywords
    right = readings
    if len(asked.x) == asked.n <= MOST_ASKED:
        order = torch.arange(asked.n, device=asked.x.device)
        # In another order, which what is shared does not follow.
        turned = order.roll(1)
        truth = asked(keywords, asked.x, order)
        right = [
            reading
            for reading, outputs in zip(readings, alone, strict=True)
            if _alike(outputs[:1], truth[:1])
            and _alike(asked(reading, asked.x[turned], turned), truth[turned])
        ]
    elif not all(_alike(outputs, alone[0]) for outputs in alone):
        right = []
    if not right:
        raise ValueError(
            f"model_predict_kwargs: {', '.join(names)} may be shared by all samples or have an "
            "entry for each, and the model's answers don't tell: pass adapters.Shared(value) or "
            "adapters.PerSample(value)"
        )
    return right[0]


def _alike(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    rounding = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=True)


def _collect(place: Place, value: Any, n: int, shapes: Shapes, candidates: list[Place]) -> None:
    """Note the shapes of all that may have entries, and what may have one for each sample."""
    if isinstance(value, (PerSample, Shared)):
        if isinstance(value, PerSample) and len(value.values) != n:
            raise ValueError(
                f"model_predict_kwargs: {_named(place)} must have an entry for each of {n} samples "
                f"as PerSample, has {len(value.values)}"
            )
        shapes[_named(place)] = tuple(np.shape(value.values))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _collect((*place, key), each, n, shapes, candidates)
    elif isinstance(value, (list, tuple)):
        if value:
            shapes[_named(place)] = (len(value),)
        if len(value) == n:
            candidates.append(place)
            return
        for position, each in enumerate(value):
            _collect((*place, position), each, n, shapes, candidates)
    elif not isinstance(value, _PLAIN) and not callable(value):
        shape = getattr(value, "shape", None)
        if shape is None or len(shape):
            shapes[_named(place)] = () if shape is None else tuple(shape)
        if isinstance(value, (Tensor, np.ndarray)) and value.shape[:1] == (n,):
            candidates.append(place)


def _marked(place: Place, value: Any, chosen: frozenset[Place]) -> Any:
    if place in chosen:
        return PerSample(value)
    if not any(len(each) > len(place) and each[: len(place)] == place for each in chosen):
        return value
    if isinstance(value, Mapping):
        return {key: _marked((*place, key), each, chosen) for key, each in value.items()}
    return type(value)(_marked((*place, i), each, chosen) for i, each in enumerate(value))


def _named(place: Place) -> str:
    return str(place[0]) + "".join(f"[{key!r}]" for key in place[1:])


def _refusal(shapes: Shapes, suspected: set[int], what: str, copies: int) -> ValueError:
    probable = {name: shape for name, shape in shapes.items() if suspected & set(shape[:1])}
    probable = probable or {n: shape for n, shape in shapes.items() if suspected & set(shape)}
    named = ", ".join(
        f"{name} of shape {shape}" if shape else name
        for name, shape in (probable or shapes).items()
    )
    return ValueError(
        "model_predict_kwargs must be shared by all samples, or have an entry for each along the "
        "first axis, for rows go through the model in chunks of any size: with "
        f"{named} the model {what} for {copies} copies of one sample. Put the axis of samples "
        "first, or hold what belongs to them in a module around the model, which learns from "
        "adapters.samples_of_rows() whose rows it is asked about"
    )
