"""Modules whose outputs are not (n, classes)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class BinaryLogit(nn.Module):
    """A classifier with one logit for class 1, as one with two.

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

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return logits, shape (n, 2); that of class 0 is 0."""
        logit = _one_column(self.model(x, **keywords), "BinaryLogit")
        return torch.cat([torch.zeros_like(logit), logit], 1)


class Regression(nn.Module):
    """A model with one number a sample, explained as its class 0.

    Call metrics with ``softmax=False``, for a softmax of one number is 1, and ``y_batch`` of
    zeros. Metrics that ask whether the label stays (Fidelity and its kin with
    ``output="label"``) have no meaning for it.

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

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return the predictions, shape (n, 1)."""
        return _one_column(self.model(x, **keywords), "Regression")


def _one_column(output: Tensor, adapter: str) -> Tensor:
    if output.ndim == 1:
        output = output.unsqueeze(1)
    if output.ndim != 2 or output.shape[1] != 1:
        raise ValueError(
            f"{adapter}'s model must give one number a sample, gives shape {tuple(output.shape)}"
        )
    return output
