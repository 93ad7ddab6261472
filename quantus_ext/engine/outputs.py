"""The class scores in what a model returns: a tensor, or one in what holds several."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from quantus_ext.engine.modules import in_training, is_closed, without_keywords

_LOGITS = "logits"

WRAPPER = (
    "class Scores(torch.nn.Sequential):\n"
    "    def forward(self, x): return self[0](x){entry}\n"
    "model = Scores(model).eval()"
)
"""The two lines that make a tensor of what a model returns, and the call."""

_told: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models of which it has been said what is taken of their outputs."""


@dataclass(frozen=True)
class Reading:
    """Where in what a model returns its class scores are.

    Attributes
    ----------
    key : str or int, optional
        Of an entry or item; None for the attribute ``logits``.
    """

    key: Any = None

    def of(self, output: Any) -> Any:
        """Return them."""
        return output.logits if self.key is None else output[self.key]


class ScoresOf(nn.Module):
    """A model as it answers with a tensor, whatever it returns; see :func:`reading_of`.

    How its outputs are read is settled by the first of them.

    Parameters
    ----------
    model : torch.nn.Module

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.outputs import ScoresOf
    >>> class Pair(torch.nn.Module):
    ...     def forward(self, rows):
    ...         return rows, [rows]
    >>> ScoresOf(Pair())(torch.ones(1, 2))
    tensor([[1., 1.]])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = in_training(model)
        self._reading: Reading | None = None

    def forward(self, rows: Tensor, **keywords: Any) -> Any:
        """Return the scores."""
        output = self.model(rows, **keywords)
        if isinstance(output, Tensor):
            return output
        if self._reading is None:
            self._reading = reading_of(self.model, output, len(rows))
        return self._reading.of(output)


def scores_in(model: nn.Module, output: Any, rows: int) -> Any:
    """Return the tensor in one output of a model; see :func:`reading_of`."""
    return output if isinstance(output, Tensor) else reading_of(model, output, rows).of(output)


def reading_of(model: nn.Module, output: Any, rows: int) -> Reading:
    """Return how the scores are got out of what a model returns, where that is no tensor.

    Taken are ``logits``, as in a model output of ``transformers``; the first tensor of a tuple or
    list; of a dict the entry ``"logits"``, or the only one of shape (rows, classes). What else it
    could have been is said once for each model.

    Parameters
    ----------
    model : torch.nn.Module
    output : object
        What it returned.
    rows : int
        For so many rows.

    Raises
    ------
    TypeError
        If there is nothing of that, or a dict has several such entries.
    """
    if isinstance(getattr(output, _LOGITS, None), Tensor):
        return Reading()
    if isinstance(output, Mapping):
        fitting = [name for name, value in output.items() if _fits(value, rows)]
        if _LOGITS in fitting or len(fitting) == 1:
            taken = _LOGITS if _LOGITS in fitting else fitting[0]
            if len(output) > 1:
                _say(model, output, f"its entry {taken!r}")
            return Reading(taken)
    elif isinstance(output, (tuple, list)):
        places = [place for place, value in enumerate(output) if isinstance(value, Tensor)]
        if places:
            if sum(_fits(value, rows) for value in output) > 1:
                _say(model, output, f"its item {places[0]}")
            return Reading(places[0])
    raise TypeError(
        "model must return a tensor of shape (rows, classes), something with such logits, a tuple "
        f"or list with such a tensor first, or a dict with one such entry; returned "
        f"{_described(output)}. Put a module around it that picks one:\n"
        + WRAPPER.format(entry="[...]")
    )


@contextmanager
def answering_tensors(model: nn.Module) -> Iterator[None]:
    """Let a model answer with tensors within, for what knows nothing else.

    By a hook, so that it stays the module that it is; scripts and exported programs, which take
    none, stay as they are.
    """
    if is_closed(model):
        yield
        return

    def scores(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        given = (each for each in (*args, *keywords.values()) if isinstance(each, Tensor))
        return scores_in(model, output, len(next(given)))

    handle = model.register_forward_hook(scores, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _fits(value: object, rows: int) -> bool:
    return (
        isinstance(value, Tensor)
        and value.ndim == 2
        and len(value) == rows
        and value.is_floating_point()
    )


def _say(model: nn.Module, output: Any, taken: str) -> None:
    known = without_keywords(model)
    if known in _told:
        return
    _told.add(known)
    warnings.warn(
        f"model returns {_described(output)}: {taken} is taken for the class scores. For another, "
        "put a module around the model:\n" + WRAPPER.format(entry="[...]"),
        UserWarning,
        stacklevel=2,
    )


def _described(output: Any) -> str:
    """Return what a model returned, with the shapes of what it holds."""
    name = type(output).__name__
    if isinstance(output, Mapping):
        held = [f"{key!r}: {_shape(value)}" for key, value in output.items()]
    elif isinstance(output, (tuple, list)):
        held = [_shape(value) for value in output]
    else:
        return name
    return f"{name} of {', '.join(held)}" if held else f"{name} of nothing"


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
