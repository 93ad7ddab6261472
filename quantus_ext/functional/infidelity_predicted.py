"""``I·Φ``: what explanations predict of a perturbation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantus_ext.engine.elements import Rows
from quantus_ext.engine.masked import Block, MaskedModel
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.replacements import SAME, baseline_like, replaces_by

CANNOT_SPLIT = (
    "a_batch must have a value for each channel with multiply_by_inputs=True where elements become "
    "something else than inputs_baseline: I = (x - x̃) / (x - inputs_baseline) differs from channel "
    "to channel there, and a map summed over channels can't be divided among them. Pass maps that "
    "are not summed; or let elements become the explainer's baseline, given as perturb_baseline "
    'and as inputs_baseline, which "same" says of any replacement'
)


@dataclass(frozen=True)
class InputFactor:
    """``I = (x - x̃) / (x - baseline)``, of attributions that carry the input as a factor.

    Attributes
    ----------
    baseline : Tensor, float64, broadcasting to the samples, or None
        None where chosen elements become the baseline, so that ``I`` is the mask.
    replaces : bool
        Whether chosen elements lose their value entirely.
    """

    baseline: Tensor | None
    replaces: bool

    @classmethod
    def of(
        cls,
        x: Tensor,
        perturbation: Perturbation,
        inputs_baseline: float | str | np.ndarray | Tensor,
    ) -> InputFactor:
        """Take ``inputs_baseline`` of :func:`quantus_ext.functional.infidelity`."""
        if isinstance(inputs_baseline, str) and inputs_baseline.lower() == SAME:
            return cls(None, perturbation.replaces)
        if not x.is_floating_point() or replaces_by(perturbation, inputs_baseline):
            return cls(None, perturbation.replaces)
        baseline = baseline_like(perturbation, inputs_baseline, x).double()
        return cls(baseline.expand(len(x), *baseline.shape[1:]), perturbation.replaces)

    def interpreted(self, original: Tensor, perturbed: Tensor, baseline: Tensor) -> Tensor:
        """Return ``I``, where elements are chosen."""
        difference = original - baseline
        quotient = torch.where(difference == 0, 0.0, (original - perturbed) / difference)
        # The limit of the quotient, also for values equal to the baseline.
        return torch.where(perturbed == baseline, 1.0, quotient) if self.replaces else quotient


class Predicted:
    """The function from a block to ``I·Φ``, shape (b, m, d), in double precision.

    A map summed over the channels counts once an element. Where `I` is a difference of inputs it is
    spread evenly over them; where it is a share of the input factor it must be the same in all, for
    the sum can't be divided among them.

    Parameters
    ----------
    masked : MaskedModel
    maps : Tensor, shape (m, n, \\*map)
    factor : InputFactor or None
    alike : bool
        Whether masks treat channels alike.

    Attributes
    ----------
    by_mask : bool
        Whether what is added by an element is known before it is drawn.
    divides : bool
        Whether sums over channels would have to be divided.
    """

    def __init__(
        self, masked: MaskedModel, maps: Tensor, factor: InputFactor | None, *, alike: bool
    ) -> None:
        self._x = masked.x
        self._maps = maps
        self._factor = factor
        self._alike = alike
        summed = maps.shape[1:] != self._x.shape
        self._whole = summed and factor is not None and alike
        self._spread = summed and not self._whole
        self.divides = self._whole and factor is not None and factor.baseline is not None
        weight = _known_weight(masked, factor)
        self.by_mask = weight is not None
        if weight is not None and self._whole and weight.shape[1] > 1:
            if not bool(_same_over(1, weight).all()):
                raise ValueError(CANNOT_SPLIT)
            weight = weight[:, :1]
        self._weight = weight
        self._added: tuple[Rows, Tensor] | None = None

    def __call__(self, block: Block) -> Tensor:
        """Return ``I·Φ`` of a block."""
        if self._weight is not None:
            # Bytes convert several times as fast as booleans.
            mask = block.mask.view(torch.int8).to(torch.float64).flatten(2)
            added = self._added_by(block.samples, self._weight)
            return added @ mask.expand(-1, -1, added.shape[2]).transpose(1, 2)
        assert block.perturbed is not None
        phi = self._phi(block.samples).unsqueeze(2)
        factor, axes = self._factor, tuple(range(2, phi.ndim - 1))
        original = self._x[block.samples].unsqueeze(1).double()
        perturbed = block.perturbed.double()
        if block.interpretation is not None:
            change = block.interpretation.double()
        elif factor is None or factor.baseline is None:
            change = original - perturbed
        else:
            baseline = factor.baseline[block.samples].unsqueeze(1)
            change = factor.interpreted(original, perturbed, baseline)
            if factor.replaces:
                change = change * block.mask
            if self._whole:
                change = change[:, :, :1].where(_same_over(2, change), torch.nan)
        return torch.stack([(change * own).sum(axes) for own in phi], 1)

    def _phi(self, samples: Rows) -> Tensor:
        """Return the maps of some samples, float64, shape (m, b, \\*map)."""
        maps = self._maps[:, samples].double()
        if not self._spread:
            return maps
        channels = self._x.shape[1]
        return maps.expand(-1, -1, channels, *maps.shape[3:]) / channels

    def _added_by(self, samples: Rows, weight: Tensor) -> Tensor:
        """Return what each element adds to a sum, shape (b, m, values); the last is kept.

        In double precision, for the quotient of an element that is never drawn must not overflow.
        """
        if self._added is None or self._added[0] is not samples:
            added = self._phi(samples) * (weight if len(weight) == 1 else weight[samples])
            if self._alike:
                added = added.sum(2, keepdim=True)
            self._added = samples, added.flatten(2).movedim(0, 1)
        return self._added[1]


def _known_weight(masked: MaskedModel, factor: InputFactor | None) -> Tensor | None:
    """Return ``I`` of each element if it is chosen, float64, None where that is not known."""
    if factor is not None and factor.baseline is None:
        return masked.x.new_ones((1,) * masked.x.ndim, dtype=torch.float64)
    if masked.fixed is None:
        return None
    original, perturbed = masked.x.double(), masked.fixed.double()
    if factor is None or factor.baseline is None:
        return original - perturbed
    return factor.interpreted(original, perturbed, factor.baseline)


def _same_over(axis: int, values: Tensor) -> Tensor:
    """Return where values are the same along an axis, which is kept."""
    return values.isclose(values.narrow(axis, 0, 1), rtol=1e-6).all(axis, keepdim=True)
