"""A model in another form, its weights shared: without its softmax, with keywords, with a part
exchanged. The model itself stays as it is.
"""  # noqa: D205 - one sentence

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def resolve_softmax(model: nn.Module, softmax: bool, rows: Tensor | None = None) -> nn.Module:
    """Return a view of ``model`` that gives probabilities or logits; ``model`` stays as it is.

    A model counts as ending in a softmax when the last of its ``modules()`` is an ``nn.Softmax``,
    nested or not, as Quantus takes it. One that is used elsewhere (in attention), though it is
    registered last, is found out with the help of a few ``rows``: without it the outputs are not
    the logarithms of what they were. With ``softmax=True`` one is added unless it is there; with
    ``softmax=False`` it is left out. Weights and hooks are shared with ``model``, nothing is
    copied.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.engine.modules import resolve_softmax
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Softmax(dim=-1)))
    >>> logits = resolve_softmax(model, softmax=False)(torch.ones(1, 2))
    >>> torch.equal(logits, model[0](torch.ones(1, 2)))
    True
    """
    name, last = list(model.named_modules())[-1]
    if isinstance(last, nn.Softmax):
        logits = with_submodule(model, name.split("."), nn.Identity()) if name else nn.Identity()
        if rows is None or _are_logits(logits, model, rows[:2]):
            return model if softmax else logits
    return _Probabilities(model) if softmax else model


def _are_logits(logits: nn.Module, model: nn.Module, rows: Tensor) -> bool:
    with torch.no_grad():
        # Copies, for a model may write to its inputs.
        expected, outputs = model(rows.clone()), logits(rows.clone())
    if not isinstance(expected, Tensor):
        return True  # an error soon, where outputs are checked
    rounding = torch.finfo(expected.dtype).eps ** 0.5
    return torch.allclose(outputs.softmax(-1), expected, atol=rounding, equal_nan=True)


def with_keywords(model: nn.Module, keywords: Mapping[str, Any] | None) -> nn.Module:
    """Return the model with keywords of its own call filled in; without any, the model itself."""
    return WithKeywords(model, dict(keywords)) if keywords else model


def without_keywords(model: nn.Module) -> nn.Module:
    """Return the model that keywords are filled in for, or the model itself."""
    return model.model if isinstance(model, WithKeywords) else model


def called_alike(other: nn.Module, model: nn.Module) -> nn.Module:
    """Return ``other`` with the keywords that are filled in in ``model``, if any are."""
    return with_keywords(other, model.keywords if isinstance(model, WithKeywords) else None)


class NoModel(nn.Module):
    """What stands where a call has no model: any question is an error that says who asked.

    Parameters
    ----------
    asking : str
        The metric's name.
    """

    def __init__(self, asking: str) -> None:
        super().__init__()
        self.asking = asking
        self.eval()

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Raise TypeError."""
        raise TypeError(f"model must be a torch.nn.Module for {self.asking}, is None")


class WithKeywords(nn.Module):
    """A model whose call needs nothing but rows; in the mode that the model is in."""

    def __init__(self, model: nn.Module, keywords: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords
        self.training = model.training

    def forward(self, rows: Tensor) -> Any:
        """Call the model."""
        return self.model(rows, **self.keywords)


class _Probabilities(nn.Module):
    """A model with a softmax after it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Any:
        outputs = self.model(rows)
        # What is no tensor becomes an error that says so, where outputs are checked.
        return outputs.softmax(-1) if isinstance(outputs, Tensor) else outputs


def with_submodule(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """Return a shallow copy of ``module`` with another submodule at ``path``; weights are shared.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.engine.modules import with_submodule
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> with_submodule(model, ["1"], nn.Identity())[0] is model[0]
    True
    """
    child, rest = path[0], path[1:]
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    inner = module._modules[child]
    twin._modules[child] = with_submodule(inner, rest, part) if rest and inner is not None else part
    return twin
