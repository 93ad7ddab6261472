"""A module as metrics ask it, and what it is known by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantus_ext.engine.modules import Probabilities, are_probabilities, resolve_softmax
from quantus_ext.engine.outputs import ScoresOf
from quantus_ext.identity import Content, content_of


class Answered(NamedTuple):
    """What a model answers.

    Attributes
    ----------
    outputs : Tensor, shape (rows, classes)
    first : Tensor, shape (rows, 1), or None
        Of probabilities, the logit of the first class, from which all logits follow; None where
        outputs are logits, or there are none.
    """

    outputs: Any
    first: Tensor | None = None

    @classmethod
    def cat(cls, parts: Sequence[Answered]) -> Answered:
        """Put the answers to parts of rows together."""
        known = [part.first for part in parts if part.first is not None]
        return cls(
            torch.cat([part.outputs for part in parts]),
            torch.cat(known) if len(known) == len(parts) else None,
        )


class ResolvedModel:
    """A module as it is asked, its softmax resolved on the first rows.

    Parameters
    ----------
    model : nn.Module
    softmax : bool, optional
        None for the output as it is.
    """

    def __init__(self, model: nn.Module, softmax: bool | None) -> None:
        self.model = model
        self.softmax = softmax
        self.had_probabilities: Tensor | None = None
        """Whether the first rows' outputs were some before a softmax was taken; not read yet."""
        self._scores = ScoresOf(model)
        self._resolved: nn.Module | None = self._scores if softmax is None else None

    def __call__(self, rows: Tensor) -> Any:
        """Return its outputs."""
        return self.answered(rows).outputs

    def answered(self, rows: Tensor) -> Answered:
        """Return what it answers."""
        model = self.resolved(rows)
        if not isinstance(model, Probabilities):
            return Answered(model(rows))
        outputs = model.model(rows)
        plain = isinstance(outputs, Tensor)
        if self.had_probabilities is None and plain:
            self.had_probabilities = are_probabilities(outputs)
        first = outputs[:, :1] if plain and outputs.ndim == 2 else None
        return Answered(model.of(outputs), first)

    def resolved(self, rows: Tensor) -> nn.Module:
        """Return the module that answers, for which a few rows are needed at first."""
        if self._resolved is None:
            # In full precision: what is compared differs by little.
            with torch.autocast(rows.device.type, enabled=False):
                self._resolved = resolve_softmax(self._scores, bool(self.softmax), rows)
        return self._resolved

    @cached_property
    def hooks(self) -> list[Any]:
        """What the content of a module leaves out of what it answers."""
        return [
            hook
            for module in self.model.modules()
            for hooks in (module._forward_pre_hooks, module._forward_hooks)
            for hook in hooks.values()
        ]

    @cached_property
    def content(self) -> Content:
        """That of the model, which stays as it is for as long as a call takes."""
        return content_of(self.model, self.hooks)
