"""What a model says of its inputs and outputs, where their shapes don't tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.arrays import column_names, in_order_of
from quantus_ext.engine.modules import (
    in_training,
    weight_dtype,
    with_submodule,
    without_keywords,
)
from quantus_ext.engine.padding import PaddingPreserving
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.replacements import replace_by
from quantus_ext.shown import ShownByArguments

FeatureMask = Callable[[Tensor], Tensor]
"""Inputs (n, \\*sample) -> int64 ids of the element of each position, shape (n or 1, \\*spatial),
from 0, and -1 where a position is never removed or counted (padding, special tokens)."""


class Adapter(ShownByArguments, nn.Module):
    """A model in a form that every metric takes; base of the adapters.

    Adapters may be put around each other: what one says nothing of, the one inside it answers.

    Parameters
    ----------
    model : torch.nn.Module, optional
        The wrapped model, whose mode the adapter takes.

    Attributes
    ----------
    takes_ids : bool
        Whether inputs are integers and stay integers.
    takes_presence : bool
        Whether inputs say which elements are there, 1 for those that are: then they can only be
        removed, and are in single precision whatever the weights are.
    one_label : bool
        Whether the largest output names the answer.
    one_softmax : bool
        Whether a softmax over all outputs has a meaning, as for classes of which one is right.
    removed : float
        What a removed value becomes by default.
    replacement : Perturbation, optional
        What removed values become by default where that is no number.
    coded : bool
        Whether inputs are codes, of which there are no differences.
    own_softmax : bool
        Whether outputs are probabilities already.
    channel_first : bool or None
        Whether inputs have their channels first; None to infer it from shapes.
    check_rows : bool
        Whether a few rows more may be asked, to find out whether rows influence each other.
    unread : frozenset of str
        Attributes that the answers do not depend on; two models that differ in them are the same
        to stores and caches.
    feature_mask : callable or None
        From inputs (n, \\*sample) to int64 ids of the element of each position, shape
        (n or 1, \\*spatial): equal ids are removed together, negative ones never, nor counted.
        None: each position is an element.
    padding_mask : callable or None
        From floating-point rows that metrics perturb to bool, shape (n, \\*spatial): where they are
        padding, which perturbations neither see nor change.
    """

    takes_ids: bool = False
    takes_presence: bool = False
    one_label: bool = True
    one_softmax: bool = True
    removed: float = 0.0
    replacement: Perturbation | None = None
    coded: bool = False
    own_softmax: bool = False
    channel_first: bool | None = None
    check_rows: bool = True
    unread: frozenset[str] = frozenset()
    feature_mask: FeatureMask | None = None
    padding_mask: Callable[[Tensor], Tensor] | None = None

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        if model is None:
            self.eval()
            return
        self.model = checks.module("model", model)
        self.training = in_training(model)
        if isinstance(model, Adapter):
            self.takes_ids, self.takes_presence = model.takes_ids, model.takes_presence
            self.one_label, self.one_softmax = model.one_label, model.one_softmax
            self.removed, self.feature_mask = model.removed, model.feature_mask
            self.replacement, self.coded = model.replacement, model.coded
            self.padding_mask = model.padding_mask
            self.own_softmax, self.channel_first = model.own_softmax, model.channel_first

    def check_inputs(self, x: Tensor) -> None:
        """Raise ValueError for inputs, channels first, that the model does not take."""
        if self._inner is not None:
            self._inner.check_inputs(x)

    def check_perturbation(self, perturbation: Perturbation) -> None:
        """Raise ValueError for a perturbation that makes what the model does not take."""
        if self._inner is not None:
            self._inner.check_perturbation(perturbation)

    def encoded(self, x: Any) -> Any:
        """Return inputs in the form in which metrics compute with them, by default as they are."""
        return x if self._inner is None else self._inner.encoded(x)

    def column_names(self, x: Any) -> tuple[Any, ...] | None:
        """Return the names of the columns that metrics see of inputs, None where they have none."""
        return column_names(x) if self._inner is None else self._inner.column_names(x)

    def in_order(self, name: str, maps: Any, x: Any = None) -> Any:
        """Return maps of tables with their columns in the order in which metrics see the inputs'.

        ``x`` are the inputs as they are given, where maps belong to these; see
        ``quantus_ext.arrays.in_order_of``, which names the argument in errors.
        """
        return in_order_of(self.column_names(x), name, maps, x)

    def decoded(self, x: np.ndarray) -> Any:
        """Return inputs in the form in which explainers get them, by default as they are."""
        return x if self._inner is None else self._inner.decoded(x)

    def encoded_labels(self, y: Any) -> Any:
        """Return labels as columns of the outputs, by default as they are."""
        return y if self._inner is None else self._inner.encoded_labels(y)

    def check_answers(self, x: Tensor, keywords: Mapping[str, Any]) -> None:
        """Ask the model for a few inputs; raise ValueError if it does not do what it must.

        Parameters
        ----------
        x : Tensor
            Inputs that :meth:`check_inputs` passed.
        keywords : mapping
            Passed to the model.
        """
        if self._inner is not None:
            self._inner.check_answers(x, keywords)

    def over_embeddings(self) -> Adapter | None:
        """Return the same model over the embeddings of its inputs, None where it has none."""
        inner = None if self._inner is None else self._inner.over_embeddings()
        if inner is None:
            return None
        twin = cast("Adapter", with_submodule(self, ["model"], inner))
        twin.takes_ids, twin.padding_mask = False, inner.padding_mask
        return twin

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings of inputs, shape (n, D, L)."""
        if self._inner is None:
            raise ValueError("model must take token ids to embed them")
        return self._inner.embed(x)

    @property
    def _inner(self) -> Adapter | None:
        model = self._modules.get("model")
        return model if isinstance(model, Adapter) else None


def adapter_of(model: nn.Module) -> Adapter:
    """Return the adapter that a model is, keywords filled in or not; a plain one if it is none."""
    plain = without_keywords(model)
    return plain if isinstance(plain, Adapter) else Adapter()


def input_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the type of a model's inputs: integers, or that of its weights, None without any."""
    adapter = adapter_of(model)
    if adapter.takes_ids:
        return torch.int64
    return torch.float32 if adapter.takes_presence else weight_dtype(model)


def sparing(perturbation: Perturbation, model: nn.Module) -> Perturbation:
    """Return a perturbation that leaves a model's padding alone, and out of its statistics.

    Raises
    ------
    ValueError
        If elements of the model can only be removed, or what the perturbation makes is not taken.
    """
    adapter = adapter_of(model)
    if adapter.takes_presence:
        raise ValueError(
            f"perturb_func and perturb_baseline must be left out for a {type(adapter).__name__}, "
            "whose elements are there or gone and have no value to change"
        )
    adapter.check_perturbation(perturbation)
    padding = adapter.padding_mask
    return perturbation if padding is None else PaddingPreserving(perturbation, padding)


def default_removal(model: nn.Module) -> Perturbation:
    """Return what removed elements become by default: 0, or what the model's adapter says."""
    adapter = adapter_of(model)
    default = adapter.replacement or replace_by(adapter.removed)
    # On ids padding is no row of numbers; that its ids stay is the feature mask's matter.
    by_number = not (adapter.takes_ids or adapter.takes_presence)
    return sparing(default, model) if by_number else default
