"""How large explanations are, and how much of them and of the rest Fidelity removes."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.draws import Target
from quantus_ext.engine.regions import Region
from quantus_ext.engine.tables import table

Sign = Literal["plus", "minus", "gap"]


class Counts(NamedTuple):
    """How many elements: in the explanation, removed from it, removed from the rest."""

    size: int
    plus: int
    minus: int


def removal_counts(t: int, sparsity: float, alpha: tuple[float, float], beta: float) -> Counts:
    """Count elements exactly: ``s = ⌊sparsity·t⌋``, ``k⁺ = min(⌊α⁺s⌋, ⌊βt⌋)``,
    ``k⁻ = min(⌈α⁻(t - s)⌉, ⌊βt⌋)``, at least 1 in place of a ``⌊βt⌋`` of 0.

    Examples
    --------
    >>> from quantus_ext.functional.fidelity_sizes import removal_counts
    >>> removal_counts(100, 0.29, (0.5, 0.5), beta=1.0)
    Counts(size=29, plus=14, minus=36)
    >>> removal_counts(100, 0.29, (0.5, 0.5), beta=0.1)
    Counts(size=29, plus=10, minus=10)
    """  # noqa: D205 - formulas
    size = sampling.snapped_floor(sparsity * t)
    cap = max(sampling.snapped_floor(beta * t), 1)
    plus = min(sampling.snapped_floor(alpha[0] * size), cap)
    minus = min(math.ceil(round(alpha[1] * (t - size), 9)), cap)
    return Counts(size, plus, minus)


@dataclass(frozen=True)
class Sizes:
    """Explanation sizes of samples, a grid of each.

    Attributes
    ----------
    totals : tuple of int
        Elements of each sample. They are known on the host, so that nothing waits for a device.
    sparsity : tuple of float
    beta : float
    counts : dict of int to list of Counts
        By the number of elements, for each sparsity.
    """

    totals: tuple[int, ...]
    sparsity: tuple[float, ...]
    beta: float
    counts: dict[int, list[Counts]]

    @classmethod
    def of(
        cls,
        totals: Sequence[int],
        sparsity: Sequence[float],
        alpha: tuple[float, float],
        beta: float,
    ) -> Sizes:
        """Count elements; for the parameters see :func:`quantus_ext.functional.fidelity`."""
        counts = {
            t: [removal_counts(t, share, alpha, beta) for share in sparsity]
            for t in dict.fromkeys(totals)
        }
        return cls(tuple(totals), tuple(sparsity), beta, counts)

    def warn(self, stacklevel: int) -> None:
        """Say where rounding leaves nothing to explain, or nothing to remove."""
        fewest = min(self.totals)
        if self.beta < 1 and sampling.snapped_floor(self.beta * fewest) == 0:
            warnings.warn(
                f"beta = {self.beta} of {fewest} elements is less than one; 1 is removed instead",
                UserWarning,
                stacklevel=stacklevel,
            )
        none = [t for t, counts in self.counts.items() if not any(each.size for each in counts)]
        if none:
            warnings.warn(
                f"sparsity = {list(self.sparsity)} of {min(none)} elements is less than one: the "
                "score does not depend on the map; use larger sparsities",
                UserWarning,
                stacklevel=stacklevel,
            )

    def of_samples(self, device: torch.device) -> Tensor:
        """Return the sizes of each sample, int64, shape (n, sizes)."""
        return self._table({t: _sizes(counts) for t, counts in self.counts.items()}, device)

    def first(self, device: torch.device) -> Tensor:
        """Return which sizes count: one that several sparsities come to does where it is first."""
        return self._table(
            {t: first_of(_sizes(counts)) for t, counts in self.counts.items()}, device
        )

    def weights(self, device: torch.device) -> Tensor:
        """Return the weights of a mean over sizes, float64, shape (n, sizes)."""
        first = self.first(device).double()
        return first / first.sum(1, keepdim=True)

    def regions(self) -> list[Region]:
        """Return what is removed: from the explanation and from the rest, size by size."""
        found = []
        for level in range(len(self.sparsity)):
            counts = {t: each[level] for t, each in self.counts.items()}
            inside = {t: (0, count.size, count.plus) for t, count in counts.items()}
            outside = {t: (count.size, t, count.minus) for t, count in counts.items()}
            found += [Region.by_total(self.totals, bounds) for bounds in (inside, outside)]
        return found

    def target(self, tolerance: float, score: Sign, device: torch.device) -> Target:
        """Return the standard error that the sum over sizes must have, of one sign or of both."""
        signs = (0, 0) if score == "gap" else (0, 1)
        near = {t: _next_sizes(_sizes(counts)) for t, counts in self.counts.items()}
        return Target(
            tolerance * self.first(device).sum(1, keepdim=True),
            signs * len(self.sparsity),
            self._table(near, device),
        )

    def _table(self, rows: Mapping[int, Sequence[object]], device: torch.device) -> Tensor:
        return table([rows[t] for t in self.totals], device)


def _sizes(counts: Sequence[Counts]) -> list[int]:
    return [count.size for count in counts]


def first_of(sizes: Sequence[int]) -> list[bool]:
    """Return which sizes count in a mean over them: those that come for the first time.

    Examples
    --------
    >>> from quantus_ext.functional.fidelity_sizes import first_of
    >>> first_of([0, 0, 1, 2, 2])
    [True, False, True, True, False]
    """
    return [size not in sizes[:place] for place, size in enumerate(sizes)]


_FEW_SIZES = 4


def _next_sizes(sizes: Sequence[int]) -> list[list[int]]:
    """Return for each column, plus and minus in turn, those of the next smaller and larger size.

    One more than the last column stands for none. Where sizes are few they may be too unlike.
    """
    none = 2 * len(sizes)
    nearest = [[none, none] for _ in range(none)]
    levels = [level for level, comes in enumerate(first_of(sizes)) if comes]
    if len(levels) > _FEW_SIZES:
        levels.sort(key=lambda level: sizes[level])
        for smaller, larger in itertools.pairwise(levels):
            for sign in (0, 1):
                nearest[2 * smaller + sign][1] = 2 * larger + sign
                nearest[2 * larger + sign][0] = 2 * smaller + sign
    return nearest
