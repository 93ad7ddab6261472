"""Modules whose outputs are not (n, classes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.engine.outputs import scores_in


class _OneNumber(Adapter):
    """A model that gives one number a sample."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(checks.module("model", model))

    def column(self, x: Tensor, keywords: Mapping[str, Any]) -> Tensor:
        """Return the model's output, shape (n, 1)."""
        output: Tensor = scores_in(self.model, self.model(x, **keywords), len(x))
        adapter = type(self).__name__
        if output.ndim == 1:
            output = output.unsqueeze(1)
        if output.ndim != 2 or output.shape[1] != 1:
            raise ValueError(
                f"{adapter}'s model must give one number per sample, gives shape "
                f"{tuple(output.shape)}"
            )
        return output


class BinaryLogit(_OneNumber):
    """A classifier with one logit z for class 1, as two classes: ``-z/2`` and ``z/2``.

    Their softmax is the sigmoid of the logit. A map of z is twice that of class 1: explain the
    adapter instead, or halve the map. Scores that do not depend on the scale of the map (ranks,
    ``rescale=True``) are not affected.

    Parameters
    ----------
    model : torch.nn.Module
        Its output has shape (n,) or (n, 1).

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.adapters import BinaryLogit
    >>> model = torch.nn.Linear(3, 1).eval()
    >>> x = torch.ones(2, 3)
    >>> torch.allclose(BinaryLogit(model)(x).softmax(1)[:, 1:], model(x).sigmoid())
    True
    """

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return logits, shape (n, 2), half of the model's and minus that."""
        half = self.column(x, keywords) / 2
        return torch.cat([-half, half], 1)


class Regression(_OneNumber):
    """A model with one number per sample, explained as class 0.

    Call metrics with ``softmax=False``, because the softmax of one number is 1, and with zeros as
    ``y_batch``. Metrics that compare labels (the Fidelity family with ``output="label"``) are not
    defined for it.

    Parameters
    ----------
    model : torch.nn.Module
        Its output has shape (n,) or (n, 1).

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.adapters import Regression
    >>> Regression(torch.nn.Flatten(0).eval())(torch.ones(2, 1)).shape
    torch.Size([2, 1])
    """

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return the predictions, shape (n, 1)."""
        return self.column(x, keywords)


class MultiOutput(Adapter):
    r"""A model with several heads, outputs (n, \*heads, classes), explained at one of them.

    Labels are tuples (\*head, class); :meth:`target` converts them to the column for ``y_batch``.
    The softmax is applied per head by the adapter, not by metrics. Metrics that compare labels are
    not defined for it.

    Parameters
    ----------
    model : torch.nn.Module
        Its output has shape (n, \*heads, classes).
    shape : tuple of int
        (\*heads, classes).
    softmax : bool, default True
        Return probabilities per head; False for the outputs themselves. For heads with one output
        it must be False, because their softmax is 1.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid; in a call, if outputs have another shape.

    Examples
    --------
    Two heads of three classes:

    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.adapters import MultiOutput
    >>> heads = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))).eval()
    >>> model = MultiOutput(heads, (2, 3))
    >>> model(torch.ones(5, 4)).shape, model.target([(1, 0), (0, 2)])
    (torch.Size([5, 6]), array([3, 2]))
    """

    def __init__(self, model: nn.Module, shape: Sequence[int], *, softmax: bool = True) -> None:
        super().__init__(checks.module("model", model))
        self.one_label = self.one_softmax = False
        self.shape = tuple(checks.positive_integers("shape", shape))
        if len(self.shape) < 2:
            raise ValueError(f"shape must hold heads and classes, is {self.shape}")
        softmax = checks.flag("softmax", softmax)
        if softmax and self.shape[-1] == 1:
            raise ValueError(
                f"softmax must be False for heads of one output, shape is {self.shape}: the "
                "softmax of one number is 1"
            )
        self.softmax = self.own_softmax = softmax

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return the outputs of all heads side by side, shape (n, heads · classes)."""
        outputs: Tensor = scores_in(self.model, self.model(x, **keywords), len(x))
        if tuple(outputs.shape[1:]) != self.shape:
            raise ValueError(
                f"MultiOutput's model must give shape (n, *{self.shape}), gives "
                f"{tuple(outputs.shape)}"
            )
        return (outputs.softmax(-1) if self.softmax else outputs).flatten(1)

    def target(self, labels: ArrayLike) -> np.ndarray:
        """Return the columns, int64, shape (n,), for labels, shape (n, axes).

        Raises
        ------
        ValueError
            If a label is outside the outputs.
        """
        places = checks.whole("labels", labels)
        if places.ndim != 2 or places.shape[1] != len(self.shape):
            raise ValueError(f"labels must have shape (n, {len(self.shape)}), have {places.shape}")
        outside = ((places < 0) | (places >= self.shape)).any(1)
        if outside.any():
            sample = int(np.flatnonzero(outside)[0])
            raise ValueError(
                f"labels must be below {list(self.shape)}; sample {sample} has "
                f"{places[sample].tolist()}"
            )
        return np.asarray(np.ravel_multi_index(tuple(places.T), self.shape), dtype=np.int64)
