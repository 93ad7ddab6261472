r"""Masks so few that they can be listed: their draws are a random order of the list.

Draw d of a sample is then the d-th mask of its own keyed permutation, so that none is drawn
twice, as many draws as there are masks are all of them, and the mean over N of C masks has the
variance ``S²/N·(1 - N/C)``, never above that of independent draws.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Rows
from quantus_ext.engine.sampling import Purpose
from quantus_ext.engine.tables import table

Lister = Callable[[Tensor], Tensor]
"""Numbers of masks, int64 -> the masks, bool, shape (\\*numbers, elements)."""

FEW = 1024
"""As many masks, at most, are listed."""

_KEPT = 64
"""Lists of subsets that are kept, most of 1 MiB at most."""


@dataclass(frozen=True)
class Subsets:
    """The subsets of ``size`` of ``count`` elements."""

    count: int
    size: int

    @property
    def total(self) -> int:
        """How many there are."""
        return math.comb(self.count, self.size)

    @property
    def few(self) -> bool:
        """Whether there are few enough to be listed."""
        # A bound first: binomial coefficients of large images have thousands of digits.
        least = math.comb(self.count, min(self.size, self.count - self.size, 2))
        return least <= FEW and self.total <= FEW

    @property
    def single(self) -> bool:
        """Whether there is one only."""
        return self.size in (0, self.count)

    def lister(self, device: torch.device) -> Lister:
        """Return the function from numbers to masks, in lexicographic order."""
        masks = table(_subsets(self.count, self.size), device)
        return lambda numbers: masks[numbers]


@dataclass(frozen=True)
class Windows:
    """The windows with a given side that lie wholly inside axes of given lengths."""

    lengths: tuple[int, ...]
    side: int

    @property
    def total(self) -> int:
        """How many there are."""
        return math.prod(length - self.side + 1 for length in self.lengths)

    @property
    def few(self) -> bool:
        """Whether there are few enough to be listed."""
        return self.total <= FEW

    @property
    def single(self) -> bool:
        """Whether there is one only."""
        return all(length == self.side for length in self.lengths)

    def lister(self, device: torch.device) -> Lister:
        """Return the function from numbers to masks, in the order of their first positions."""

        def masks(numbers: Tensor) -> Tensor:
            start: list[Tensor] = []
            rest = numbers
            for length in reversed(self.lengths):
                fits = length - self.side + 1
                start.insert(0, rest % fits)
                rest = rest // fits
            windows = sampling.windows_at(torch.stack(start, -1), self.side, self.lengths)
            return windows.flatten(numbers.ndim)

        return masks


Population = Subsets | Windows


@functools.lru_cache(_KEPT)
def _subsets(count: int, size: int) -> np.ndarray:
    chosen = np.array(list(itertools.combinations(range(count), size)), dtype=np.int64)
    masks = np.zeros((len(chosen), count), dtype=bool)
    np.put_along_axis(masks, chosen, True, axis=1)
    return masks


def by_population(
    populations: Sequence[Population | None], *, listed: bool, device: torch.device
) -> list[tuple[Rows, Population | None]]:
    """Group samples by the masks that their draws can be.

    Parameters
    ----------
    populations : sequence of Population or None
        Of each sample; samples for which it is None are left out.
    listed : bool
        Whether masks are equally likely, and all that is random: only then few are listed.
    device : torch.device

    Returns
    -------
    list of (slice or Tensor of int64, Population or None)
        Samples and what they share; None for all whose masks are not listed.
    """
    groups: dict[Population | None, list[int]] = {}
    for sample, population in enumerate(populations):
        if population is not None:
            shared = population if listed and population.few else None
            groups.setdefault(shared, []).append(sample)
    return [
        (
            slice(None) if len(samples) == len(populations) else table(samples, device),
            population,
        )
        for population, samples in groups.items()
    ]


def draws_of(
    population: Population, keys: Tensor, among: Tensor | None
) -> Callable[[Rows, slice], Tensor]:
    """Return the function that makes the masks of some draws of some samples.

    Parameters
    ----------
    population : Population
    keys : Tensor, int64, shape (n,)
        Of each sample, or of each cell of samples; draws of equal keys are alike.
    among : Tensor, bool, shape (n, T), optional
        Which elements of each sample the population is of, in the order of the elements; by
        default all.

    Returns
    -------
    callable
        (samples, draws) -> bool, shape (b, d, T).
    """
    masks_of = population.lister(keys.device)

    def all_of(samples: Rows, draws: slice) -> Tensor:
        ranks = sampling.distinct(keys[samples], population.total, Purpose.MASK_ORDER)
        return masks_of(ranks.argsort(1)[:, draws])

    if among is None:
        return all_of
    # Elements outside are those of a further column, which no mask chooses.
    place = (among.cumsum(1) - 1).masked_fill(~among, among.shape[1])

    def some_of(samples: Rows, draws: slice) -> Tensor:
        masks = all_of(samples, draws)
        masks = F.pad(masks, (0, 1 + place.shape[1] - masks.shape[2]))
        where = place[samples].unsqueeze(1).expand(-1, masks.shape[1], -1)
        return masks.gather(2, where)

    return some_of
