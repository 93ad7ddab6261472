"""Models whose samples are each explained at a target of their own: a mask, a box."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.engine.keywords import part_of, plain


class Targets(Adapter):
    """A model of any outputs, explained at targets: regions of an image, boxes, queries.

    Output j says how the model answers target j, whatever the sample; ``y_batch`` names the target
    of each sample, and several samples may share one. So targets need not be carried along with
    rows: explainers, ``evaluate`` and metrics of other packages use them like classes. Metrics take
    no softmax of the outputs; those that compare labels are not defined.

    Parameters
    ----------
    model : torch.nn.Module
        Whatever it returns goes to ``score``.
    score : callable
        ``score(outputs, **targets) -> Tensor`` of shape (rows, m). A row's scores must not depend
        on other rows.
    probabilities : bool, default True
        Whether scores are between 0 and 1.
    **targets : Tensor or array, shape (m, \\*any)
        What describes the m targets, such as ``boxes=`` and ``labels=``. They are moved with the
        adapter.

    Raises
    ------
    ValueError, TypeError
        If there are no targets or differently many; in a call, if scores have another shape, or
        are outside 0 and 1 as probabilities.

    Examples
    --------
    Images of 4 × 4 pixels, of which a model gives a class to each pixel; the second is explained
    at its right half:

    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import Targets
    >>> def share(outputs, masks):
    ...     foreground = outputs.softmax(1)[:, 1]  # (rows, H, W)
    ...     return (foreground[:, None] * masks).sum((2, 3)) / masks.sum((1, 2))
    >>> masks = torch.ones(2, 4, 4)
    >>> masks[1, :, :2] = 0
    >>> model = Targets(nn.Conv2d(1, 2, 3, padding=1).eval(), share, masks=masks)
    >>> model(torch.zeros(5, 1, 4, 4)).shape
    torch.Size([5, 2])
    >>> x = torch.ones(2, 1, 4, 4)
    >>> len(Deletion(4)(model, x, torch.tensor([0, 1]), torch.rand(2, 1, 4, 4)))
    2
    """

    def __init__(
        self,
        model: nn.Module,
        score: Callable[..., Tensor],
        *,
        probabilities: bool = True,
        **targets: Tensor | np.ndarray,
    ) -> None:
        super().__init__(checks.module("model", model))
        self.one_label = self.one_softmax = False
        self.score = checks.function("score", score)
        self.probabilities = self.own_softmax = checks.flag("probabilities", probabilities)
        if not targets:
            raise ValueError("targets must be given by name, as masks=…, are none")
        self._names = tuple(targets)
        for name, values in targets.items():
            held = torch.as_tensor(values)
            if held.ndim == 0:
                raise ValueError(f"{name} must have an entry for each target, is a single number")
            self.register_buffer(f"of_target_{name}", held)
        counts = {name: len(held) for name, held in self._held().items()}
        if len({*counts.values()}) > 1 or not all(counts.values()):
            raise ValueError(f"targets must have an entry for each target, have {counts}")
        self._count = next(iter(counts.values()))

    def _held(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"of_target_{name}") for name in self._names}

    def check_answers(self, x: Tensor, keywords: Mapping[str, Any]) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_answers`."""
        super().check_answers(x, keywords)
        if not self.probabilities:
            return
        with torch.no_grad():
            scores = self(x[:1].clone(), **plain(part_of(keywords, slice(1))))
        outside = scores[(scores < 0) | (scores > 1 + 1e-2)]
        if len(outside):
            raise ValueError(
                f"score must give numbers between 0 and 1, gives {outside[0].item():.4g}: take a "
                "softmax or sigmoid in it, or pass probabilities=False"
            )

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return how the model answers each target, shape (n, m)."""
        scores = self.score(self.model(x, **keywords), **self._held())
        expected = (len(x), self._count)
        if not isinstance(scores, Tensor) or tuple(scores.shape) != expected:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"score must give a tensor of shape {expected}, a score of each row for each "
                f"target, gives {found}"
            )
        return scores
