"""The spaces in which outputs can be read, and how well maps fit each of them.

Maps explain logits, probabilities, log-probabilities or the difference of two logits, and reach a
metric as the same arrays. What a map says that a change of the input changes, ``a``, is compared
with what the output changes in each space, ``b``, in answers that a metric asks for anyway.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from quantus_ext.engine.elements import Rows
from quantus_ext.engine.modules import are_probabilities
from quantus_ext.engine.resolved import Answered

Space = Literal["logit", "probability", "log_probability", "contrast"]
SPACES: tuple[Space, ...] = ("logit", "probability", "log_probability", "contrast")
"""In the order of the last axis of all tensors here."""

_COMPUTED: tuple[Space, ...] = ("log_probability", "contrast")
"""What no model gives by itself."""


def in_spaces(
    answered: Answered, labels: Tensor, others: Tensor, probabilities: Tensor | bool
) -> Tensor:
    """Return outputs for the explained classes in every space, NaN where that is not known.

    Parameters
    ----------
    answered : Answered
        Of rows.
    labels, others : Tensor, int64, shape (rows,) or (rows, k)
        Explained classes, and those that they are contrasted with.
    probabilities : bool
        Whether outputs are probabilities; otherwise they are logits.

    Returns
    -------
    Tensor, float64, shape (rows, 4) or (rows, k, 4)

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.resolved import Answered
    >>> from quantus_ext.engine.spaces import in_spaces
    >>> logits, label, other = torch.tensor([[3.0, 1.0]]), torch.tensor([0]), torch.tensor([1])
    >>> in_spaces(Answered(logits), label, other, False).round(decimals=3).tolist()
    [[3.0, 0.881, -0.127, 2.0]]
    >>> in_spaces(Answered(logits.softmax(1)), label, other, True).round(decimals=3).tolist()
    [[nan, 0.881, -0.127, 2.0]]
    """
    if isinstance(probabilities, Tensor):
        if probabilities.device.type != "cpu":
            # On another device finding out would mean waiting for it.
            true, false = (in_spaces(answered, labels, others, each) for each in (True, False))
            return torch.where(probabilities, true, false)
        probabilities = bool(probabilities)
    outputs, first = answered
    k = 1 if labels.ndim == 1 else labels.shape[1]
    picked = torch.cat([labels.reshape(len(labels), k), others.reshape(len(labels), k)], 1)
    own, other = outputs.gather(1, picked).double().split(k, 1)
    if probabilities:
        own, other = own.log(), other.log()
        contrast, log_probability = own - other, own
        unknown = torch.full_like(own, torch.nan)
        logit = unknown if first is None else own + first.double() - outputs[:, :1].double().log()
    else:
        single = torch.promote_types(outputs.dtype, torch.float32)
        logit, contrast = own, own - other
        log_probability = own - outputs.to(single).logsumexp(1, keepdim=True).double()
    found = torch.stack([logit, log_probability.exp(), log_probability, contrast], 2)
    found = found.masked_fill(~found.isfinite(), torch.nan)
    return found.squeeze(1) if labels.ndim == 1 else found


def runners_up(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the largest class that is not the explained one, of the shape of ``labels``.

    Parameters
    ----------
    outputs : Tensor, shape (n, classes)
        At least two.
    labels : Tensor, int64, shape (n,) or (n, k)
    """
    two = outputs.topk(2).indices
    several = labels.unsqueeze(1) if labels.ndim == 1 else labels
    found = torch.where(several == two[:, :1], two[:, 1:], two[:, :1])
    return found.reshape(labels.shape)


class Spaces:
    """How outputs for some samples are read, and how well maps fit them in each space.

    Parameters
    ----------
    clean : Answered
        To the samples as they are, n of at least two classes.
    labels : Tensor, int64, shape (n,) or (n, k)
        Explained classes.
    others : Tensor, int64, of that shape, optional
        What they are contrasted with; by default the largest other class.
    probabilities : bool, optional
        Whether outputs are probabilities; None for finding out.
    output : str, optional
        The space in which scores read the outputs; None for the outputs as they are.
    maps : Tensor, shape (m, n, \\*map), optional
        What is compared, the first m of all that are scored; nothing by default.
    carry_inputs : bool, default True
        Whether maps include the input as a factor, where a metric does not say.
    """

    def __init__(
        self,
        clean: Answered,
        labels: Tensor,
        *,
        others: Tensor | None = None,
        probabilities: bool | None = None,
        output: Space | None = None,
        maps: Tensor | None = None,
        carry_inputs: bool = True,
    ) -> None:
        known = are_probabilities(clean.outputs) if probabilities is None else probabilities
        self._probabilities = known
        self.others = runners_up(clean.outputs, labels) if others is None else others
        self.column = SPACES.index(output) if output in _COMPUTED else None
        """Of the space that scores read, where they do not read outputs as they are."""
        self.original = self.of(clean, labels, self.others)
        self._maps = maps
        self._carry_inputs = carry_inputs
        shape = (0 if maps is None else len(maps), len(labels), len(SPACES))
        self._residual = self.original.new_zeros(shape)
        self._effect = self.original.new_zeros(shape)
        self._values: tuple[int, Tensor] | None = None

    def of(self, answered: Answered, labels: Tensor, others: Tensor) -> Tensor:
        """Return some outputs in all spaces; see :func:`in_spaces`."""
        return in_spaces(answered, labels, others, self._probabilities)

    def without_maps(self) -> Spaces:
        """Return the same reading, in which no maps are compared."""
        other = copy.copy(self)
        other._maps = None
        return other

    @property
    def compares(self) -> bool:
        """Whether there are maps to compare."""
        return self._maps is not None

    def compares_map(self, number: int) -> bool:
        """Return whether one map, by its number among all that are scored, is compared."""
        return self.compares and number < len(self._residual)

    def changes(self, samples: Rows, spaces: Tensor) -> Tensor:
        """Return by how much outputs (b, d, 4) or (b, d, k, 4) are below the clean ones."""
        return self.original[samples].unsqueeze(1) - spaces

    def compare(self, maps: slice, samples: Rows, predicted: Tensor, changes: Tensor) -> None:
        """Add what maps predict of some changes, beside what changes.

        Parameters
        ----------
        maps : slice
            Which, k of them.
        samples : slice or Tensor of int64
            b of them.
        predicted : Tensor, float64, shape (b, k, d)
        changes : Tensor, float64, shape (b, d, 4), or (b, d, k, 4)
        """
        predicted = predicted[:, : len(self._residual)]
        b = changes.unsqueeze(1) if changes.ndim == 3 else changes.movedim(2, 1)
        residual = ((predicted.unsqueeze(3) - b) ** 2).sum(2).movedim(1, 0)
        self._residual[maps, samples] += residual
        self._effect[maps, samples] += (b**2).sum(2).movedim(1, 0)

    def compare_masks(
        self,
        number: int,
        samples: Rows,
        mask: Tensor,
        changes: Tensor,
        difference: Callable[[], Tensor | None],
    ) -> None:
        """Add what one map predicts where masks (b, d, \\*mask) are removed.

        ``difference`` gives by how much removal lowers the inputs, None where that is not known,
        which is asked for maps that do not include the input.
        """
        if not self.compares_map(number):
            return
        if self._values is None or self._values[0] != number:
            values = self._summed(number, tuple(mask.shape[2:]), difference)
            if values is None:
                return
            self._values = number, values
        values = self._values[1][samples]
        predicted = mask.flatten(2).double() @ values.unsqueeze(2)
        self.compare(slice(number, number + 1), samples, predicted.movedim(2, 1), changes)

    def _summed(
        self, number: int, shape: tuple[int, ...], difference: Callable[[], Tensor | None]
    ) -> Tensor | None:
        """Return what removing each value of a mask takes off by one map, shape (n, values)."""
        assert self._maps is not None
        values = self._maps[number].double()
        if not self._carry_inputs:
            removed = difference()
            if removed is None:
                return None
            spread = 1 if values.ndim == 2 else removed.shape[1] // values.shape[1]
            values = values * removed.double() / spread
        if len(shape) > 1 and shape[0] == 1:
            values = values.sum(1, keepdim=True)
        return values.flatten(1)

    def unexplained(self) -> Tensor:
        """Return the share of the outputs' change that each map leaves over, shape (m, n, 4).

        ``Σ (a − b)² / Σ b²`` over what was compared: 0 for a map that says all of it, 1 for a map
        of zeros; NaN where nothing was compared, nothing changed, or the space is not known.
        """
        return torch.where(self._effect > 0, self._residual / self._effect, torch.nan)
