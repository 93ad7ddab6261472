"""Parts of a ranking of elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# (first, past, removed): where a region begins and ends in a ranking, and how many go.
Bounds = tuple[int, int, int]


@dataclass(frozen=True)
class Region:
    """Ranks ``first`` to ``past - 1`` of each sample, and how many of these elements to remove."""

    first: tuple[int, ...]
    past: tuple[int, ...]
    removed: tuple[int, ...]

    @classmethod
    def of(cls, bounds: Iterable[Bounds]) -> Region:
        """Make one from (first, past, removed) of each sample."""
        return cls(*zip(*bounds, strict=True))

    @classmethod
    def by_total(cls, totals: Sequence[int], bounds: Mapping[int, Bounds]) -> Region:
        """Make one from (first, past, removed) for each number of elements.

        Parameters
        ----------
        totals : sequence of int
            The number of elements of each sample.
        bounds : mapping of int to (int, int, int)
            For each number of elements.
        """
        return cls.of([bounds[t] for t in totals])

    @property
    def bounds(self) -> Iterable[Bounds]:
        """(first, past, removed) of each sample."""
        return zip(self.first, self.past, self.removed, strict=True)

    @property
    def all_removed(self) -> bool:
        """Whether all its elements are removed, so that nothing is random."""
        return all(past - first == removed for first, past, removed in self.bounds)

    @property
    def size(self) -> int | None:
        """The number of removed elements, if it is the same for all samples."""
        return self.removed[0] if len(set(self.removed)) == 1 else None

    @property
    def span(self) -> slice | None:
        """The range of ranks, if it is the same for all samples."""
        same = len(set(self.first)) == len(set(self.past)) == 1
        return slice(self.first[0], self.past[0]) if same else None
