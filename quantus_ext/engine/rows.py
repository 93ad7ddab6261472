"""Which sample each evaluated row belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

Marks = tuple[type, ...]
_CONTAINERS = (Mapping, list, tuple)

_numbers: ContextVar[Tensor | None] = ContextVar("samples of rows", default=None)


def samples_of_rows() -> Tensor | None:
    """Return the sample number of each row that the model is evaluated on.

    For the ``forward`` of a model or adapter that holds per-sample data, such as a second input:
    many perturbed rows of one sample go through the model in one pass, beside those of others.

    Returns
    -------
    Tensor, int64, shape (rows,), or None
        Numbers in the order of ``x_batch``; None outside the call of a metric, as in training.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import samples_of_rows
    >>> class Scaled(torch.nn.Module):
    ...     scale = torch.tensor([1.0, 2.0])
    ...
    ...     def forward(self, rows):
    ...         return rows * self.scale[samples_of_rows(), None]
    >>> maps = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> Deletion(1)(Scaled().eval(), torch.ones(2, 2), torch.tensor([0, 0]), maps, softmax=False)
    [0.5, 1.0]
    """
    return _numbers.get()


@contextmanager
def belonging_to(numbers: Tensor | None) -> Iterator[None]:
    """Tell models which samples the rows of this context belong to."""
    token = _numbers.set(numbers)
    try:
        yield
    finally:
        _numbers.reset(token)


@contextmanager
def only_first(count: int) -> Iterator[None]:
    """Tell models that only the first rows are evaluated in this context, and how many."""
    numbers = _numbers.get()
    with belonging_to(None if numbers is None else numbers[:count]):
        yield


@dataclass(frozen=True)
class PerSample:
    """A value in ``model_predict_kwargs`` with one entry per sample.

    Only needed if the model's outputs do not show it. Each entry is passed with the rows of its
    sample.

    Parameters
    ----------
    values : Tensor, array or sequence, n entries along the first axis

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import PerSample
    >>> class Scaled(torch.nn.Module):
    ...     def forward(self, rows, scale):
    ...         return rows * scale
    >>> x, y = torch.ones(2, 2), torch.tensor([0, 0])
    >>> keywords = {"scale": PerSample(torch.tensor([[1.0], [2.0]]))}
    >>> Deletion(1)(Scaled().eval(), x, y, x, model_predict_kwargs=keywords, softmax=False)
    [0.5, 1.0]
    """

    values: Any


@dataclass(frozen=True)
class Shared:
    """A value in ``model_predict_kwargs`` that all samples share.

    Only needed for a value with as many entries as samples, if the model's outputs do not show
    that it is shared.

    Parameters
    ----------
    values : object
        Passed to the model unchanged.
    """

    values: Any


def is_marked(value: Any, kinds: Marks = (PerSample, Shared)) -> bool:
    """Whether a value is, or contains, a marked one."""
    if isinstance(value, kinds):
        return True
    inner = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, _CONTAINERS) and any(is_marked(each, kinds) for each in inner)


def exchanged(value: Any, exchange: Callable[[PerSample | Shared], Any]) -> Any:
    """Return a value with its marked parts exchanged, or the value itself if it has none."""
    if isinstance(value, (PerSample, Shared)):
        return exchange(value)
    if not is_marked(value):
        return value
    if isinstance(value, Mapping):
        return {key: exchanged(each, exchange) for key, each in value.items()}
    return type(value)(exchanged(each, exchange) for each in value)


def of_rows(marked: PerSample | Shared, rows: int) -> Any:
    """Return the model's arguments: of per-sample values, one entry for each row.

    Raises
    ------
    ValueError
        If it is not known which samples the rows belong to.
    """
    values = marked.values
    if isinstance(marked, Shared):
        return values
    numbers = _numbers.get()
    if numbers is None or len(numbers) != rows:
        raise ValueError(
            "model_predict_kwargs must be shared by all samples where the model is evaluated "
            "on rows from outside the call, as in training: entries of samples do not cover them"
        )
    if isinstance(values, Tensor):
        return values.index_select(0, numbers.to(values.device))
    on_host = numbers.cpu().numpy()
    if isinstance(values, np.ndarray):
        return values[on_host]
    return type(values)(values[number] for number in on_host)
