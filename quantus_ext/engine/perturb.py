"""How chosen elements are changed: prepared once for a batch, then written by a mask.

A perturbation is prepared once for a batch of samples (baseline values, blurred copies) and then
applied to whole blocks of draws by one masked write. Masks have the shape (b, d, \\*mask), where
``mask`` is the sample's shape or has one channel that stands for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine.elements import Rows

Apply = Callable[[Rows, Tensor, Tensor, Tensor], Tensor]
"""(samples, mask (b, d, \\*mask), keys (b, d), buffer (b, d, \\*sample)) -> the buffer, filled with
the perturbed samples."""


class Prepared(NamedTuple):
    """What depends on the samples alone, computed once.

    Attributes
    ----------
    apply : callable
        See :data:`Apply`.
    fixed : Tensor, optional
        What elements become when they are chosen, where that is known; it broadcasts to the
        samples.
    interpretation : callable, optional
        Gives Infidelity's ``I`` of what ``apply`` made last, where the perturbation says itself
        what that is.
    """

    apply: Apply
    fixed: Tensor | None
    interpretation: Callable[[], Tensor] | None = None


Baseline = float | str | np.ndarray | Tensor
"""See :func:`quantus_ext.engine.replacements.replace_by`."""

Replacement = Callable[[Rows, Tensor], Tensor]
"""(samples, keys (b, d)) -> values that broadcast to (b, d, \\*sample)."""


class Perturbation(Protocol):
    """What an engine loop needs to know of a perturbation."""

    @property
    def random(self) -> bool:
        """Whether two draws with the same mask differ."""

    @property
    def replaces(self) -> bool:
        """Whether chosen elements lose their value entirely, so that ``I`` can be the mask."""

    @property
    def uses_mask(self) -> bool:
        """Whether it matters which elements are chosen."""

    def prepare(self, x: Tensor) -> Prepared:
        """Compute once what depends on the samples ``x``, shape (n, \\*sample), alone."""


@dataclass(frozen=True)
class Native:
    """A perturbation written in tensor operations, on the device of the samples.

    Parameters
    ----------
    replacement : callable
        From the samples to a :data:`Replacement`.
    random, replaces : bool
        See :class:`Perturbation`.
    baseline : float, str or array, optional
        What chosen elements become, where that was given as a baseline.
    """

    replacement: Callable[[Tensor], Replacement]
    random: bool
    replaces: bool
    baseline: Baseline | None = None

    @property
    def uses_mask(self) -> bool:
        """See :class:`Perturbation`."""
        return True

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`Perturbation`."""
        values = self.replacement(x)
        fixed = None if self.random else values(slice(None), torch.empty(0)).squeeze(1)
        write = _write_bits if x.device.type == "cpu" else _write

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            return write(mask, values(samples, keys), x[samples].unsqueeze(1), buffer)

        return Prepared(apply, fixed)


def _write(mask: Tensor, values: Tensor, original: Tensor, buffer: Tensor) -> Tensor:
    """Fill the buffer with values where the mask is true and with the original elsewhere."""
    return torch.where(mask, values, original, out=buffer)


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _write_bits(mask: Tensor, values: Tensor, original: Tensor, buffer: Tensor) -> Tensor:
    """Do as :func:`_write`, several times as fast on a processor, whose `where` takes one by one.

    Of the bits in which value and original differ those of masked elements are turned, so that
    not a bit of either is lost.
    """
    words = _WORDS[buffer.element_size()]
    # Broadcasting along the last axis is slow in channels-last layout, and a copy is not.
    plain = buffer if buffer.is_contiguous() else torch.empty(buffer.shape, dtype=buffer.dtype)
    target, known = plain.view(words), original.view(words)
    torch.bitwise_and(known ^ values.view(words), mask.to(words).neg_(), out=target)
    target ^= known
    return plain if plain is buffer else buffer.copy_(plain)


def changeable(fixed: Tensor | None, x: Tensor) -> Tensor | None:
    """Return which values become others when they are chosen, bool, shape of ``x``.

    None where that is all of them, or not known. For ``fixed`` see :class:`Prepared`.
    """
    if fixed is None:
        return None
    differs = differing_bits(x, fixed.to(x.dtype))
    return None if bool(differs.all()) else differs


def differing_bits(a: Tensor, b: Tensor) -> Tensor:
    """Return where values of one type are not the same, as a model sees them: 0 is not -0."""
    words = _WORDS[a.element_size()]
    return a.view(words) != b.view(words)


def checked_perturbation(perturbation: Any) -> Perturbation:
    """Return what can perturb samples; TypeError for anything else."""
    if not callable(getattr(perturbation, "prepare", None)):
        raise TypeError(
            "perturbation must be a Perturbation, as quantus_ext.engine.replacements.replace_by(0) "
            f"makes one, is {checks.shown(perturbation)}"
        )
    found: Perturbation = perturbation
    return found


def once(perturbation: Perturbation, x: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    """Return samples perturbed by one draw each.

    Parameters
    ----------
    perturbation : Perturbation
    x : Tensor, shape (n, \\*sample)
    mask : Tensor, bool, shape (n, 1, \\*mask)
    keys : Tensor, int64, shape (n, 1)
    """
    apply = perturbation.prepare(x).apply
    return apply(slice(None), mask, keys, torch.empty_like(x).unsqueeze(1)).squeeze(1)
