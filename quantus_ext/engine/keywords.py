"""Whether what a model gets beside its rows is shared by all of them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext.engine.modules import with_keywords

_COPIES = 4
"""Rows of one sample, at least, that must be answered alike."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device)

Shapes = dict[str, tuple[int, ...]]


def check_shared(
    model: nn.Module, keywords: Mapping[str, Any] | None, x: Tensor, sizes: Collection[int] = ()
) -> None:
    r"""Raise ValueError if a model's keywords hold something that belongs to single samples.

    Perturbed rows go through the model in chunks of any size and order, so that what has an entry
    a sample would meet other samples' rows. Shapes don't tell that from what all share, as the
    adjacency of a graph that happens to have a node for each sample; so the model is asked about
    copies of one sample, of another number than anything has entries: it must answer, and alike.

    Parameters
    ----------
    model : torch.nn.Module
    keywords : mapping, optional
        Of the model's own call. Plain values are not looked at.
    x : Tensor, shape (n, \*sample)
        Inputs as the model gets them; the first one is used.
    sizes : collection of int
        Further numbers of entries to suspect besides n.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.keywords import check_shared
    >>> class Masked(torch.nn.Module):
    ...     def forward(self, x, mask):
    ...         return x * mask
    >>> x = torch.ones(3, 2)
    >>> check_shared(Masked(), {"mask": torch.ones(2)}, x)
    >>> check_shared(Masked(), {"mask": torch.ones(3, 1)}, x)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: model_predict_kwargs must be shared by all samples...
    """
    shapes: Shapes = {}
    for name, value in (keywords or {}).items():
        _collect(name, value, shapes)
    if not shapes:
        return
    suspected = {len(x), *sizes}
    lengths = {length for shape in shapes.values() for length in shape}
    copies = next(k for k in itertools.count(_COPIES) if k not in lengths | suspected)
    rows = x[:1].expand(copies, *x.shape[1:])

    def asked() -> Any:
        with torch.no_grad():
            # A copy, for a model may write to its inputs.
            return with_keywords(model, keywords)(rows.clone())

    try:
        outputs = asked()
    except TypeError:
        # Of names rather than entries: soon an error of the model's own.
        return
    except Exception as error:
        raise _refusal(shapes, suspected, f"fails ({error})", copies) from error
    if not isinstance(outputs, Tensor):
        # Soon an error, where outputs are checked.
        return
    if len(outputs) != copies:
        raise _refusal(shapes, suspected, f"gives {len(outputs)} outputs", copies)
    # A model that answers by chance doesn't answer the same rows alike.
    if not _alike(outputs, outputs[:1].expand_as(outputs)) and _alike(outputs, asked()):
        raise _refusal(shapes, suspected, "gives different outputs", copies)


def _alike(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    rounding = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=True)


def _collect(name: str, value: Any, shapes: Shapes) -> None:
    """Note the shapes of all that may have entries, by the names of their places."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _collect(f"{name}[{key!r}]", each, shapes)
    elif isinstance(value, (list, tuple)):
        if value:
            shapes[name] = (len(value),)
        for place, each in enumerate(value):
            _collect(f"{name}[{place}]", each, shapes)
    elif not isinstance(value, _PLAIN) and not callable(value):
        shape = getattr(value, "shape", None)
        if shape is None or len(shape):
            shapes[name] = () if shape is None else tuple(shape)


def _refusal(shapes: Shapes, suspected: set[int], what: str, copies: int) -> ValueError:
    probable = {name: shape for name, shape in shapes.items() if suspected & set(shape[:1])}
    probable = probable or {n: shape for n, shape in shapes.items() if suspected & set(shape)}
    named = ", ".join(
        f"{name} of shape {shape}" if shape else name
        for name, shape in (probable or shapes).items()
    )
    return ValueError(
        "model_predict_kwargs must be shared by all samples, for rows go through the model in "
        f"chunks of any size: with {named} the model {what} for {copies} copies of one sample. "
        "What belongs to single samples goes into x_batch, as further features or channels that "
        "a module around the model takes off again"
    )
