"""Where a score is arbitrary: one vocabulary of flags, of what a call knows anyway."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantus_ext.batch import Batch
from quantus_ext.engine.elements import Elements
from quantus_ext.engine.perturb import Perturbation, differing_bits
from quantus_ext.engine.sampling import snapped_floor
from quantus_ext.functional.scores import few_at_once

MANY_TIES = 0.25
"""Share of all pairs of elements, from which on chance decides too much of a ranking."""


class Flag(IntFlag):
    """What makes a score arbitrary; a sample's flags are a sum of them.

    Examples
    --------
    >>> from quantus_ext.flags import Flag
    >>> [flag.name for flag in Flag if flag & 5]
    ['ZERO_MAP', 'TIES']
    """

    ZERO_MAP = 1
    """Every value of the map is 0."""
    CONSTANT_MAP = 2
    """Every value of the map is the same, and not 0."""
    TIES = 4
    """Of all pairs of elements, a quarter or more have equal scores, so that the seed ranks them;
    without pairs of which removal changes neither."""
    FEW_VALUES = 8
    """The map has too few distinct values for the steps or sizes at which its ranking is cut."""
    OUTPUT_AT_END = 16
    """The probability of the explained class is exactly 0 or 1."""
    OTHER_LABEL = 32
    """The explained class is not the predicted one, of which a score of labels asks whether it
    stays."""


MEANINGS: dict[Flag, str] = {
    Flag.ZERO_MAP: "the map is 0 everywhere",
    Flag.CONSTANT_MAP: "the map has the same value everywhere",
    Flag.TIES: "chance ranks a quarter of all pairs of elements or more",
    Flag.FEW_VALUES: "the map has fewer distinct values than the ranking has steps",
    Flag.OUTPUT_AT_END: "the probability of the class is exactly 0 or 1",
    Flag.OTHER_LABEL: "the model predicts another class than the explained one",
}
"""In a few words."""


class Cuts(NamedTuple):
    """How a score uses the ranking of a map.

    Attributes
    ----------
    elements : Elements
        What is ranked.
    fractions : sequence of float
        Of the ranking, what is removed or kept.
    perturbation : Perturbation
        What removed elements become.
    """

    elements: Elements
    fractions: Sequence[float]
    perturbation: Perturbation


def flags_of(
    batch: Batch, cuts: Cuts | None, *, probabilities: bool = False, labels: bool = False
) -> Tensor:
    """Return the flags of each map of each sample, int64, shape (m, n).

    Parameters
    ----------
    batch : Batch
    cuts : Cuts or None
        None for a score that does not rank.
    probabilities, labels : bool
        Whether the score reads the probability of the explained class, or whether it is the
        predicted one.
    """
    some_maps = few_at_once(batch.maps, batch.maps[0].numel())
    flags = torch.cat([_of_maps(some, batch, cuts) for some in some_maps])
    if len(batch.clean) == len(batch.x) and batch.clean.shape[1] > 0:
        own = batch.clean.gather(1, batch.classes.T).T
        if probabilities:
            flags = flags + int(Flag.OUTPUT_AT_END) * ((own == 0) | (own == 1))
        if labels:
            flags = flags + int(Flag.OTHER_LABEL) * (batch.clean.argmax(1) != batch.classes)
    return flags


def _of_maps(maps: Tensor, batch: Batch, cuts: Cuts | None) -> Tensor:
    """Return the flags of some maps of each sample, shape (k, n)."""
    low = high = maps
    if batch.features is not None:
        low, high = (maps.masked_fill(~batch.counted, end) for end in (torch.inf, -torch.inf))
    low, high = low.flatten(2).amin(2), high.flatten(2).amax(2)
    constant = low == high
    zero = constant & (low == 0)
    flags = int(Flag.ZERO_MAP) * zero + int(Flag.CONSTANT_MAP) * (constant & ~zero)
    if cuts is None:
        return flags
    share, few = _of_rankings(maps, batch.x, cuts)
    # A constant map is one tie, which need not be said again.
    flags = flags + int(Flag.TIES) * ((share >= MANY_TIES) & ~constant)
    return flags + int(Flag.FEW_VALUES) * (few & ~constant)


def _of_rankings(maps: Tensor, x: Tensor, cuts: Cuts) -> tuple[Tensor, Tensor]:
    """Return the share of pairs that are tied, and whether there are too few values, (k, n)."""
    elements = cuts.elements
    scores = torch.stack([elements.scores(a) for a in maps])
    equal = _equal(scores)
    few = elements.counts - equal.sum(2) - 1 < _n_cuts(cuts, x.device)
    share = scores.new_zeros(scores.shape[:2])
    # On another device finding out would mean waiting for it.
    looks = scores.device.type == "cpu"
    if looks and not bool(equal.any()):
        return share, few
    pairs = elements.counts * (elements.counts - 1)
    share = _tied(equal) / pairs.clamp(min=1).double()
    if looks and bool((share < MANY_TIES).all()):
        return share, few
    fixed = cuts.perturbation.prepare(x).fixed
    if fixed is not None:
        changes = elements.scores(differing_bits(x, fixed.to(x.dtype)).double()) > 0
        inert = scores.masked_fill(changes, -torch.inf)
        share = share - _tied(_equal(inert)) / pairs.clamp(min=1).double()
    return share, few


def _equal(scores: Tensor) -> Tensor:
    """Return which of the last axis's numbers, in order, are equal to the one before."""
    # Numpy's sort is several times as fast as torch's.
    ordered = (
        torch.from_numpy(np.sort(scores.numpy(), axis=-1))
        if scores.device.type == "cpu"
        else scores.sort(-1).values
    )
    # Of two that are −∞, elements that a sample does not have, the difference is NaN.
    return F.pad(ordered.diff(dim=-1) == 0, (1, 0))


def _tied(equal: Tensor) -> Tensor:
    """Return twice the number of pairs of equal numbers along the last axis."""
    places = torch.arange(equal.shape[-1], device=equal.device)
    # Each is equal to those before it in its run.
    first = torch.where(equal, 0, places).cummax(-1).values
    return 2 * (places - first).sum(-1)


def _n_cuts(cuts: Cuts, device: torch.device) -> Tensor:
    """Return in how many places, not counting both ends, the ranking of each sample is cut."""
    totals = cuts.elements.totals()
    known = {
        t: len({snapped_floor(fraction * t) for fraction in cuts.fractions} - {0, t})
        for t in set(totals)
    }
    return torch.tensor([known[t] for t in totals], device=device)
