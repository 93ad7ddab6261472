"""Perturbations that leave the padding of series and texts alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantus_ext.engine.bridges import CaptumFunction
from quantus_ext.engine.elements import Rows
from quantus_ext.engine.perturb import Native, Perturbation, Prepared


@dataclass(frozen=True)
class PaddingPreserving:
    """A perturbation that neither sees nor changes padding.

    Parameters
    ----------
    inner : Perturbation
    padding : callable
        From samples (n, \\*sample) to bool, shape (n, \\*spatial).
    """

    inner: Perturbation
    padding: Callable[[Tensor], Tensor]

    @property
    def random(self) -> bool:
        """See :class:`~quantus_ext.engine.perturb.Perturbation`."""
        return self.inner.random

    @property
    def replaces(self) -> bool:
        """See :class:`~quantus_ext.engine.perturb.Perturbation`."""
        return self.inner.replaces

    @property
    def uses_mask(self) -> bool:
        """See :class:`~quantus_ext.engine.perturb.Perturbation`."""
        return self.inner.uses_mask

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`~quantus_ext.engine.perturb.Perturbation`."""
        padding = self.padding(x).unsqueeze(1)
        if isinstance(self.inner, CaptumFunction):
            raise ValueError(
                "perturb_func must be a function of arr where samples have padding, is one that "
                "returns (I, x - I)"
            )
        inner = self.inner.prepare(self.seen(x) if isinstance(self.inner, Native) else x)

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            perturbed = inner.apply(samples, mask, keys, buffer)
            beyond = padding[samples].unsqueeze(1)
            rows = buffer.copy_(torch.where(beyond, x[samples].unsqueeze(1), perturbed))
            found = self.padding(rows.flatten(0, 1)).reshape(*keys.shape, *beyond.shape[3:])
            if not bool((found == beyond.squeeze(2)).all()):
                raise ValueError(
                    "perturb_baseline or perturb_func creates steps that look like padding: choose "
                    "another value for the padding"
                )
            return rows

        fixed = None if inner.fixed is None else torch.where(padding, x, inner.fixed)
        return Prepared(apply, fixed)

    def seen(self, x: Tensor) -> Tensor:
        """Return samples whose padding is no number, so that no statistic counts it."""
        return x.masked_fill(self.padding(x).unsqueeze(1), torch.nan)
