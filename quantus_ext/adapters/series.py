"""Models of series with another order of axes, or with series of different lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter


@dataclass(frozen=True)
class RemovableSteps:
    """The feature mask of padded series: every time step by itself, but those of padding."""

    padding: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return time steps, shape (n, T), -1 for the padding at the end."""
        steps = torch.arange(x.shape[-1], device=x.device)
        return steps.where(~PaddedSteps(self.padding)(x), -1)


@dataclass(frozen=True)
class PaddedSteps:
    """Says which steps of series are padding at the end."""

    padding: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return bool, shape (n, T)."""
        steps = torch.arange(x.shape[-1], device=x.device)
        return steps >= lengths_of(x, self.padding)[:, None]


def lengths_of(x: Tensor, padding: float) -> Tensor:
    """Return the length of each series, int64, shape (n,): the last step that is not padding.

    Parameters
    ----------
    x : Tensor, shape (n, C, T)
    padding : float
        A step is padding where all channels have this value, and all later steps too.
    """
    real = (x != padding).any(1)
    return torch.arange(1, x.shape[-1] + 1, device=x.device).where(real, 0).amax(1)


class Series(Adapter):
    """A model of series with another order of axes, or with series of different lengths.

    Metrics use series of shape (n, C, T). Padding at the end is never removed or counted.

    Parameters
    ----------
    model : torch.nn.Module
        From series to scores (n, classes).
    time_first : bool, default False
        The model expects (n, T, C), like recurrent networks and transformers with
        ``batch_first=True``.
    padding : float, optional
        The value of every channel after the end of a series. Choose one that occurs neither in the
        data nor as a replacement (not 0 if removed values become 0): the end is read from the
        rows, and a removal that creates padding is an error. The model sees 0 there.
    lengths_argument : str, optional
        The keyword argument by which the model receives the lengths, int64 of shape (n,).

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from quantus_ext import Fidelity
    >>> from quantus_ext.adapters import Series
    >>> class Total(torch.nn.Module):
    ...     def forward(self, x):
    ...         total = x.sum((1, 2))
    ...         return torch.stack([2.5 - total, total - 2.5], 1)
    >>> model = Series(Total().eval(), time_first=True, padding=-999.0)
    >>> x = np.array([[[1.0, 1, 1, -999, -999]]])  # three steps of one channel
    >>> a = np.array([[[3.0, 2, 1, 9, 9]]])
    >>> metric = Fidelity([0.4])
    >>> metric(model, x, np.array([1]), a), metric.details["size"].tolist()
    ([1.0], [[1]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        time_first: bool = False,
        padding: float | None = None,
        lengths_argument: str | None = None,
    ) -> None:
        super().__init__(checks.module("model", model))
        self.channel_first = True
        self.time_first = checks.flag("time_first", time_first)
        self.padding = checks.optional(checks.finite_number, "padding", padding)
        self.lengths_argument = checks.optional(checks.text, "lengths_argument", lengths_argument)
        if lengths_argument is not None and padding is None:
            raise ValueError("lengths_argument needs padding, from which lengths are read")
        if self.padding is not None:
            self.feature_mask = RemovableSteps(self.padding)
            self.padding_mask = PaddedSteps(self.padding)

    def check_inputs(self, x: Tensor) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_inputs`."""
        if x.ndim != 3:
            raise ValueError(f"series must have shape (n, C, T), have {tuple(x.shape)}")

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return the scores of series (n, C, T), shape (n, classes)."""
        self.check_inputs(x)
        if self.padding is not None:
            lengths = lengths_of(x, self.padding)
            if self.lengths_argument is not None:
                keywords = {**keywords, self.lengths_argument: lengths}
            beyond = torch.arange(x.shape[-1], device=x.device) >= lengths[:, None]
            x = x.masked_fill(beyond.unsqueeze(1), 0.0)
        outputs: Tensor = self.model(x.transpose(1, 2) if self.time_first else x, **keywords)
        return outputs
